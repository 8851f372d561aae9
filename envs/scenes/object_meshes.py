"""Library of object meshes: generated from numbers, and Meta-World's. No two splits share a mesh."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import trimesh
from trimesh import Trimesh
from trimesh.transformations import euler_matrix, translation_matrix

from .package_files import package_folder
from .splits import Split, numbers_of

_VARIANTS = 20  # numbers of each category: 12 for training, 4 each for the others
_SECTIONS = 24  # around a turned shape


class Part(NamedTuple):
    """A mesh in metres. main: it has the colour that the object's name mentions."""

    mesh: Trimesh
    main: bool = True


class Shape(NamedTuple):
    """An object that stands on z = 0 at the origin. radius, height: of its upright bounding cylinder, metres."""

    category: str
    meshes: list[Part]
    radius: float
    height: float


def shapes_of(split: Split) -> list[Shape]:
    """Mesh objects of a split. Every split has every category."""
    shapes = [
        _standing(category, make(np.random.default_rng([711, index, number])))
        for index, (category, make) in enumerate(_MAKERS.items())
        for number in numbers_of(split, _VARIANTS)
    ]
    return shapes + [_standing(category, _metaworld(scale, pieces)) for category, scale, pieces in _METAWORLD[split]]


def _standing(category: str, meshes: list[Part]) -> Shape:
    corners = np.concatenate([part.mesh.vertices for part in meshes])
    low, high = corners.min(axis=0), corners.max(axis=0)
    shift = -np.array([*(low + high)[:2] / 2, low[2]])
    moved = [Part(part.mesh.copy().apply_translation(shift), part.main) for part in meshes]
    radius = np.linalg.norm((corners + shift)[:, :2], axis=1).max()
    return Shape(category, moved, float(radius), float(high[2] - low[2]))


def _turned(profile: list[tuple[float, float]] | np.ndarray, sections: int = _SECTIONS) -> Trimesh:
    """Solid of revolution of a profile: (radius, height), counterclockwise from the axis back to the axis."""
    return trimesh.creation.revolve(np.asarray(profile), sections=sections)


def _vessel(radii: np.ndarray, heights: np.ndarray, wall: float) -> Trimesh:
    """Solid of revolution that is open at the top. wall: thickness, metres."""
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
    wide, narrow = np.exp(-(((up - belly) / 0.2) ** 2)), np.exp(-(((up - 0.8) / 0.12) ** 2))
    radii = radius * (0.6 + 0.5 * wide - 0.6 * neck * narrow)
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
    around, radii = np.arange(10) * np.pi / 5, radius * np.where(np.arange(10) % 2, inner, 1)
    rim = [np.column_stack([radii * np.cos(around), radii * np.sin(around), np.full(10, z)]) for z in (0, thick)]
    vertices = np.concatenate([*rim, [[0, 0, 0], [0, 0, thick]]])
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


class _Piece(NamedTuple):
    """A mesh of Meta-World, placed as in metaworld/assets/objects/assets/*.xml: metres, and radians about x."""

    file: str
    main: bool = True
    place: tuple[float, float, float] = (0, 0, 0)
    turn: float = 0


def _metaworld(scale: float, pieces: tuple[_Piece, ...]) -> list[Part]:
    folder = package_folder("metaworld") / "assets" / "objects" / "meshes"
    meshes = []
    for piece in pieces:
        with (folder / f"{piece.file}.stl").open("rb") as file:
            mesh = trimesh.load_mesh(file, file_type="stl")
        mesh.apply_transform(translation_matrix(piece.place) @ euler_matrix(piece.turn, 0, 0)).apply_scale(scale)
        meshes.append(Part(mesh, piece.main))
    return meshes


_MUG = (
    _Piece("coffeemachine/mug", place=(0, 0, 0.034)),
    _Piece("coffeemachine/handle", place=(0.039, 0, 0.047), turn=np.pi / 2),
)
_BASKETBALL = (_Piece("basketball/basketballinner", main=False), _Piece("basketball/basketballouter"))
_LAPTOP = (
    _Piece("laptop/laptop_base", place=(0, 0, 0.015)),
    _Piece("laptop/laptop_keys", main=False, place=(0, 0, 0.015)),
    _Piece("laptop/laptop_screen", main=False, place=(0, 0.161, 0.181)),
    _Piece("laptop/laptop_top", place=(0, 0.161, 0.181)),
)
_THERMOS = (
    _Piece("thermos/therm_body", place=(0, 0, 0.14)),
    _Piece("thermos/therm_base", main=False, place=(0, 0, 0.02)),
    _Piece("thermos/therm_cap", main=False, place=(0, 0, 0.285)),
    _Piece("thermos/therm_trim", main=False, place=(0, 0, 0.285)),
    _Piece("thermos/therm_handle", main=False, place=(0, -0.135, 0.132)),
)
_SOCCER_BALL = (_Piece("soccer/soccer_white"), _Piece("soccer/soccer_black", main=False))
_METAWORLD: dict[
    Split, list[tuple[str, float, tuple[_Piece, ...]]]
] = {  # category, scale and meshes; each in one split
    "train": [("mug", 1.2, _MUG), ("ball", 1.2, _BASKETBALL), ("laptop", 0.42, _LAPTOP)],
    "validation": [("bottle", 0.55, _THERMOS)],
    "test": [("ball", 1.4, _SOCCER_BALL), ("cube", 1.3, (_Piece("block/block"),))],
}
