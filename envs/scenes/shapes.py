"""The library of mesh objects: turned, bent and put together from numbers, and Meta-World's. Splits share none."""

from collections.abc import Callable
from importlib.resources import files
from typing import NamedTuple

import numpy as np
import trimesh
from trimesh import Trimesh
from trimesh.transformations import euler_matrix, translation_matrix

from .splits import Split, numbers_of

_VARIANTS = 20  # numbers of each category: 12 for training, 4 each for the others
_SECTIONS = 24  # around a turned shape


class Part(NamedTuple):
    """A mesh in metres. main: whether it has the object's colour, or one of its own, which names do not mention."""

    mesh: Trimesh
    main: bool = True


class Shape(NamedTuple):
    """An object that stands on z = 0 about the origin. radius, height: of the upright cylinder around it, metres."""

    category: str
    parts: list[Part]
    radius: float
    height: float


def shapes_of(split: Split) -> list[Shape]:
    """A split's mesh objects: every split has every category."""
    made = [
        _standing(category, make(np.random.default_rng([711, index, number])))
        for index, (category, make) in enumerate(_MAKERS.items())
        for number in numbers_of(split, _VARIANTS)
    ]
    return made + [_standing(category, _metaworld(*recipe)) for category, recipe in _METAWORLD[split]]


def _standing(category: str, parts: list[Part]) -> Shape:
    corners = np.concatenate([part.mesh.vertices for part in parts])
    low, high = corners.min(axis=0), corners.max(axis=0)
    shift = -np.array([*(low + high)[:2] / 2, low[2]])
    moved = [Part(part.mesh.copy().apply_translation(shift), part.main) for part in parts]
    radius = np.linalg.norm((corners + shift)[:, :2], axis=1).max()
    return Shape(category, moved, float(radius), float(high[2] - low[2]))


def _turned(profile: list[tuple[float, float]] | np.ndarray, sections: int = _SECTIONS) -> Trimesh:
    """A lathe: (radius, height) from the axis around the outside back to the axis, counterclockwise."""
    return trimesh.creation.revolve(np.asarray(profile), sections=sections)


def _vessel(radii: np.ndarray, heights: np.ndarray, wall: float) -> Trimesh:
    """Open at the top, with a wall of that thickness."""
    outside = np.column_stack([radii, heights])
    inside = np.column_stack([np.maximum(radii - wall, 0.001), np.maximum(heights, heights[0] + wall)])[::-1]
    return _turned(np.concatenate([[[0, heights[0]]], outside, inside, [[0, heights[0] + wall]]]))


def _bowl(rng: np.random.Generator) -> list[Part]:
    turn = np.linspace(0.25, np.pi / 2 * rng.uniform(0.85, 1), 8)
    radius, height = rng.uniform(0.055, 0.075), rng.uniform(0.035, 0.055)
    return [Part(_vessel(radius * np.sin(turn), height * (1 - np.cos(turn)), rng.uniform(0.003, 0.006)))]


def _plate(rng: np.random.Generator) -> list[Part]:
    radius, height = rng.uniform(0.065, 0.09), rng.uniform(0.01, 0.018)
    radii = radius * np.array([rng.uniform(0.5, 0.65), rng.uniform(0.68, 0.8), 1])
    return [Part(_vessel(radii, height * np.array([0, 0.3, 1]), 0.004))]


def _mug(rng: np.random.Generator) -> list[Part]:
    radius, height = rng.uniform(0.033, 0.043), rng.uniform(0.075, 0.1)
    radii = radius * (1 + rng.uniform(-0.12, 0.12) * np.sin(np.linspace(0, np.pi, 7)))
    cup = _vessel(radii, height * np.linspace(0, 1, 7), 0.004)
    ring, tube = height * rng.uniform(0.26, 0.34), rng.uniform(0.005, 0.0075)
    around = np.linspace(0, 2 * np.pi, 9)
    circle = np.column_stack([ring + tube * np.cos(around), tube * np.sin(around)])
    handle = trimesh.creation.revolve(circle, angle=np.pi, sections=12)  # half a ring, open towards the cup
    handle.apply_transform(translation_matrix([radius - 0.004, 0, height / 2]) @ euler_matrix(np.pi / 2, np.pi / 2, 0))
    return [Part(cup), Part(handle)]


def _cup(rng: np.random.Generator) -> list[Part]:
    radius, height = rng.uniform(0.026, 0.033), rng.uniform(0.085, 0.12)
    radii = radius * np.linspace(1, rng.uniform(1.3, 1.55), 4)
    return [Part(_vessel(radii, height * np.linspace(0, 1, 4), 0.003))]


def _vase(rng: np.random.Generator) -> list[Part]:
    radius, height = rng.uniform(0.033, 0.045), rng.uniform(0.12, 0.17)
    up = np.linspace(0, 1, 14)
    belly, neck = rng.uniform(0.25, 0.45), rng.uniform(0.4, 0.6)
    radii = radius * (
        0.6 + 0.5 * np.exp(-(((up - belly) / 0.2) ** 2)) - neck * 0.6 * np.exp(-(((up - 0.8) / 0.12) ** 2))
    )
    return [Part(_vessel(radii, height * up, 0.004))]


def _bottle(rng: np.random.Generator) -> list[Part]:
    radius, height = rng.uniform(0.026, 0.036), rng.uniform(0.15, 0.21)
    shoulder, neck = height * rng.uniform(0.5, 0.65), radius * rng.uniform(0.35, 0.5)
    rise = height * rng.uniform(0.1, 0.18)
    profile = [(0, 0), (radius, 0), (radius, shoulder), (0.85 * radius, shoulder + rise * 0.5)]
    profile += [(neck, shoulder + rise), (neck, height), (0, height)]
    cap = _turned([(0, height), (neck * 1.15, height), (neck * 1.15, height * 1.07), (0, height * 1.07)])
    return [Part(_turned(profile)), Part(cap, main=False)]


def _cone(rng: np.random.Generator) -> list[Part]:
    radius, height, foot = rng.uniform(0.03, 0.042), rng.uniform(0.09, 0.14), rng.uniform(1.0, 1.35)
    return [Part(_turned([(0, 0), (radius * foot, 0), (radius * foot, 0.006), (radius, 0.008), (0, height)]))]


def _pyramid(rng: np.random.Generator) -> list[Part]:
    radius, height = rng.uniform(0.042, 0.058), rng.uniform(0.05, 0.09)
    return [Part(_turned([(0, 0), (radius, 0), (0, height)], sections=4))]


def _ring(rng: np.random.Generator) -> list[Part]:
    radius, tube = rng.uniform(0.034, 0.048), rng.uniform(0.01, 0.016)
    return [Part(trimesh.creation.torus(radius, tube, major_sections=_SECTIONS, minor_sections=10))]


def _star(rng: np.random.Generator) -> list[Part]:
    radius, thick, inner = rng.uniform(0.05, 0.065), rng.uniform(0.018, 0.03), rng.uniform(0.4, 0.5)
    around = np.arange(10) * np.pi / 5
    rim = (radius * np.where(np.arange(10) % 2, inner, 1))[:, None] * np.column_stack([np.cos(around), np.sin(around)])
    vertices = np.concatenate(
        [np.column_stack([rim, np.full(10, z)]) for z in (0, thick)] + [[[0, 0, 0], [0, 0, thick]]]
    )
    i, j = np.arange(10), np.roll(np.arange(10), -1)
    ends = [np.column_stack([np.full(10, 20), j, i]), np.column_stack([np.full(10, 21), i + 10, j + 10])]
    sides = [np.column_stack([i, j, j + 10]), np.column_stack([i, j + 10, i + 10])]
    return [Part(Trimesh(vertices, np.concatenate(ends + sides), process=False))]


def _hammer(rng: np.random.Generator) -> list[Part]:
    length, thick, head = rng.uniform(0.13, 0.18), rng.uniform(0.008, 0.012), rng.uniform(0.035, 0.05)
    lying = euler_matrix(0, np.pi / 2, 0)
    handle = trimesh.creation.cylinder(thick, length, sections=12, transform=lying)
    across = translation_matrix([length / 2, 0, 0]) @ euler_matrix(np.pi / 2, 0, 0)
    iron = trimesh.creation.cylinder(rng.uniform(1.6, 2.1) * thick, 2 * head, sections=14, transform=across)
    return [Part(handle), Part(iron, main=False)]


def _laptop(rng: np.random.Generator) -> list[Part]:
    width, deep, thick = rng.uniform(0.15, 0.19), rng.uniform(0.1, 0.125), rng.uniform(0.008, 0.012)
    open_ = translation_matrix([0, deep / 2, thick]) @ euler_matrix(-rng.uniform(0.15, 0.5), 0, 0)
    base = trimesh.creation.box([width, deep, thick], transform=translation_matrix([0, 0, thick / 2]))
    lid = trimesh.creation.box([width, thick / 2, deep], transform=open_ @ translation_matrix([0, 0, deep / 2]))
    glass = open_ @ translation_matrix([0, -thick / 3, deep / 2])
    keys = translation_matrix([0, deep * 0.12, thick])
    return [
        Part(base),
        Part(lid),
        Part(trimesh.creation.box([width * 0.88, thick / 6, deep * 0.8], transform=glass), main=False),
        Part(trimesh.creation.box([width * 0.85, deep * 0.5, 0.002], transform=keys), main=False),
    ]


_MAKERS: dict[str, Callable[[np.random.Generator], list[Part]]] = {
    "bowl": _bowl,
    "plate": _plate,
    "mug": _mug,
    "cup": _cup,
    "vase": _vase,
    "bottle": _bottle,
    "cone": _cone,
    "pyramid": _pyramid,
    "ring": _ring,
    "star": _star,
    "hammer": _hammer,
    "laptop": _laptop,
}


def _metaworld(scale: float, *pieces: tuple[str, bool, tuple[float, ...]]) -> list[Part]:
    """Meta-World's meshes (file, whether in the object's colour, x, y, z and a turn about x), in its units times scale."""
    folder = files("metaworld").joinpath("assets", "objects", "meshes")
    parts = []
    for name, main, (x, y, z, turn) in pieces:
        with folder.joinpath(f"{name}.stl").open("rb") as file:
            mesh = trimesh.load_mesh(file, file_type="stl")
        parts.append(Part(mesh.apply_transform(translation_matrix([x, y, z]) @ euler_matrix(turn, 0, 0)), main))
        parts[-1].mesh.apply_scale(scale)
    return parts


_HERE = (0.0, 0.0, 0.0, 0.0)
# Placed as in metaworld/assets/objects/assets/*.xml. Each object is in one split.
_METAWORLD: dict[Split, list[tuple[str, tuple]]] = {
    "train": [
        (
            "mug",
            (
                1.2,
                ("coffeemachine/mug", True, (0, 0, 0.034, 0)),
                ("coffeemachine/handle", True, (0.039, 0, 0.047, 1.571)),
            ),
        ),
        ("ball", (1.2, ("basketball/basketballinner", False, _HERE), ("basketball/basketballouter", True, _HERE))),
        (
            "laptop",
            (
                0.42,
                ("laptop/laptop_base", True, (0, 0, 0.015, 0)),
                ("laptop/laptop_keys", False, (0, 0, 0.015, 0)),
                ("laptop/laptop_screen", False, (0, 0.161, 0.181, 0)),
                ("laptop/laptop_top", True, (0, 0.161, 0.181, 0)),
            ),
        ),
    ],
    "validation": [
        (
            "bottle",
            (
                0.55,
                ("thermos/therm_base", False, (0, 0, 0.02, 0)),
                ("thermos/therm_body", True, (0, 0, 0.14, 0)),
                ("thermos/therm_cap", False, (0, 0, 0.285, 0)),
                ("thermos/therm_trim", False, (0, 0, 0.285, 0)),
                ("thermos/therm_handle", False, (0, -0.135, 0.132, 0)),
            ),
        ),
    ],
    "test": [
        ("ball", (1.4, ("soccer/soccer_white", True, _HERE), ("soccer/soccer_black", False, _HERE))),
        ("cube", (1.3, ("block/block", True, _HERE))),
    ],
}
