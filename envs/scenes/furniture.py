"""Furniture of rooms, including pieces as tall and thin as people: distractors for a person detector."""

import numpy as np

from ..rendering import mujoco
from .colours import any_colour
from .image_generator import SHOWN, ImageGenerator, add_geom
from .splits import Split, numbers_of

_BOX, _ROD, _BALL = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER, mujoco.mjtGeom.mjGEOM_ELLIPSOID
_CAPSULE = mujoco.mjtGeom.mjGEOM_CAPSULE
Piece = tuple[int, tuple[float, ...], tuple[float, float, float]]  # kind, size and position of a geom, metres


def _legs(half: float, across: float, along: float, high: float) -> list[Piece]:
    return [(_BOX, (half, half, high / 2), (x * across, y * along, high / 2)) for x in (-1, 1) for y in (-1, 1)]


def _table(rng: np.random.Generator) -> list[Piece]:
    long, deep, high = rng.uniform(0.4, 0.8), rng.uniform(0.3, 0.45), rng.uniform(0.6, 0.78)
    return [(_BOX, (long, deep, 0.02), (0, 0, high)), *_legs(0.03, long - 0.05, deep - 0.05, high)]


def _chair(rng: np.random.Generator) -> list[Piece]:
    half, seat, back = rng.uniform(0.19, 0.24), rng.uniform(0.42, 0.48), rng.uniform(0.2, 0.3)
    legs = _legs(0.02, half - 0.02, half - 0.02, seat)
    return [(_BOX, (half, half, 0.025), (0, 0, seat)), (_BOX, (half, 0.02, back), (0, half, seat + back)), *legs]


def _sofa(rng: np.random.Generator) -> list[Piece]:
    long, deep, seat, back = rng.uniform(0.7, 1.0), rng.uniform(0.36, 0.45), 0.21, rng.uniform(0.35, 0.45)
    arms = [(_BOX, (0.09, deep, 0.3), (x * long, 0, 0.3)) for x in (-1, 1)]
    return [(_BOX, (long, deep, seat), (0, 0, seat)), (_BOX, (long, 0.1, back), (0, deep, back)), *arms]


def _shelf(rng: np.random.Generator) -> list[Piece]:
    wide, high, boards = rng.uniform(0.3, 0.6), rng.uniform(0.7, 1.0), int(rng.integers(3, 6))
    sides = [(_BOX, (0.015, 0.16, high), (x * wide, 0, high)) for x in (-1, 1)]
    levels = [(_BOX, (wide, 0.16, 0.015), (0, 0, 2 * high * i / boards)) for i in range(1, boards + 1)]
    books = [
        (_BOX, (rng.uniform(0.05, 0.2), 0.11, 0.1), (rng.uniform(-0.5, 0.5) * wide, 0, 2 * high * i / boards + 0.11))
        for i in range(1, boards)
    ]
    return [*sides, *levels, *books, (_BOX, (wide, 0.01, high), (0, 0.15, high))]


def _cupboard(rng: np.random.Generator) -> list[Piece]:
    wide, high = rng.uniform(0.3, 0.5), rng.uniform(0.5, 1.0)
    doors = [(_BOX, (wide / 2 - 0.02, 0.01, high - 0.04), (x * wide / 2, -0.25, high)) for x in (-1, 1)]
    return [(_BOX, (wide, 0.25, high), (0, 0, high)), *doors]


def _coat_stand(rng: np.random.Generator) -> list[Piece]:
    """A pole as tall as a person, with a coat and sometimes a hat."""
    high = rng.uniform(0.8, 0.92)
    pieces: list[Piece] = [(_ROD, (0.02, high), (0, 0, high)), (_ROD, (0.2, 0.015), (0, 0, 0.015))]
    pieces += [(_CAPSULE, (rng.uniform(0.1, 0.16), 0.32), (0, -0.06, 2 * high - 0.55))]
    pieces += [(_BALL, (0.2, 0.09, 0.1), (0, -0.05, 2 * high - 0.2))]
    if rng.random() < 0.5:
        pieces += [(_ROD, (0.16, 0.008), (0, 0, 2 * high)), (_ROD, (0.09, 0.05), (0, 0, 2 * high + 0.05))]
    return pieces


def _plant(rng: np.random.Generator) -> list[Piece]:
    high = rng.uniform(0.5, 1.2)
    pieces: list[Piece] = [(_ROD, (0.16, 0.16), (0, 0, 0.16)), (_ROD, (0.025, high / 2), (0, 0, 0.3 + high / 2))]
    for _ in range(7):
        x, y = rng.uniform(-0.2, 0.2, 2)
        leaf = (rng.uniform(0.08, 0.2), rng.uniform(0.08, 0.2), rng.uniform(0.1, 0.25))
        pieces.append((_BALL, leaf, (x, y, 0.3 + high * rng.uniform(0.4, 1))))
    return pieces


def _lamp(rng: np.random.Generator) -> list[Piece]:
    high = rng.uniform(0.65, 0.85)
    return [
        (_ROD, (0.015, high), (0, 0, high)),
        (_ROD, (0.16, 0.012), (0, 0, 0.012)),
        (_ROD, (rng.uniform(0.12, 0.2), rng.uniform(0.1, 0.16)), (0, 0, 2 * high)),
    ]


def _boxes(rng: np.random.Generator) -> list[Piece]:
    pieces: list[Piece] = []
    top = 0.0
    for half in sorted(rng.uniform(0.12, 0.32, int(rng.integers(2, 5))), reverse=True):
        x, y = rng.uniform(-0.04, 0.04, 2)
        pieces.append((_BOX, (half, half * rng.uniform(0.7, 1), half * 0.8), (x, y, top + half * 0.8)))
        top += 1.6 * half
    return pieces


def _ball(rng: np.random.Generator) -> list[Piece]:
    """A large ball on a drum."""
    radius, high = rng.uniform(0.12, 0.2), rng.uniform(0.3, 0.6)
    return [(_ROD, (0.22, high), (0, 0, high)), (_BALL, (radius, radius, radius), (0, 0, 2 * high + radius))]


_MAKERS = {
    "table": _table,
    "chair": _chair,
    "sofa": _sofa,
    "shelf": _shelf,
    "cupboard": _cupboard,
    "coat stand": _coat_stand,
    "plant": _plant,
    "lamp": _lamp,
    "boxes": _boxes,
    "ball": _ball,
}


def add_furniture(spec: mujoco.MjSpec, split: Split) -> None:
    """Add the bodies of a split's furniture; it stands on z = 0 and faces -y."""
    for index, (kind, make) in enumerate(_MAKERS.items()):
        for number in numbers_of(split, 5):
            body = spec.worldbody.add_body(name=f"{kind} {number}")
            for geom, size, place in make(np.random.default_rng([712, index, number])):
                add_geom(body, geom, size=[*size, *[0] * (3 - len(size))], pos=list(place))


class Furniture:
    """Furniture of a generator's model. names: names of the bodies."""

    def __init__(self, generator: ImageGenerator):
        self._generator = generator
        self.names = [f"{kind} {number}" for kind in _MAKERS for number in numbers_of(generator.split, 5)]
        self._geoms = {name: generator.geoms_of(name) for name in self.names}

    def put(self, name: str, place: np.ndarray, yaw: float, rng: np.random.Generator, group: int = SHOWN) -> None:
        """Show a piece in new colours at a position on the floor, (2,) metres. yaw: radians from facing -y."""
        model, geoms = self._generator.model, self._geoms[name]
        model.body(name).pos, model.body(name).quat = (*place, 0), (np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))
        tones = np.array([any_colour(rng, (0, 0.8), 0.08) for _ in range(3)])
        model.geom_rgba[geoms, :3] = tones[[0, *(1 + np.arange(1, len(geoms)) % 2)]]
        model.geom_group[geoms] = group

    def is_shown(self, name: str) -> bool:
        return bool(self._generator.model.geom_group[self._geoms[name][0]] == SHOWN)

    def draw_chair(self, rng: np.random.Generator) -> tuple[str, float]:
        """Name of a random chair, and the height of its seat in metres."""
        name = str(rng.choice([name for name in self.names if name.startswith("chair")]))
        seat = self._geoms[name][0]
        return name, float(self._generator.model.geom_pos[seat, 2] + self._generator.model.geom_size[seat, 2])
