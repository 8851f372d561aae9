"""Generator of labelled images of tables with primitive and mesh objects."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..rendering import Survey, mujoco
from .captions import captions_of, relation_of
from .colours import COLOURS, any_colour, shade
from .image_generator import HIDDEN, ImageGenerator, LabelledImage, add_geom, add_surface, box_of
from .object_meshes import Shape, shapes_of
from .splits import Split
from .textures import draw_texture

_PRIMITIVES = {  # kind of geom by category; two of each can be shown
    "cube": mujoco.mjtGeom.mjGEOM_BOX,
    "ball": mujoco.mjtGeom.mjGEOM_SPHERE,
    "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
}
_COUNTS, _ODDS = (1, 2, 3, 4, 5), (0.1, 0.3, 0.3, 0.2, 0.1)  # objects of an image
_LEAST_VISIBLE = 1 / 800  # share of the image's pixels; smaller objects are removed
_HALF = (0.22, 0.17)  # half extent of the area of objects, metres
_GAP = 0.012  # metres between two objects
_PATTERNS = 3  # objects of an image that can have a pattern


class _Slot(NamedTuple):
    """A body that can be shown. radius, height: of its upright bounding cylinder, metres."""

    body: str
    category: str
    radius: float
    height: float


class _Placed(NamedTuple):
    """An object of this image. place: (2,), metres. geoms: ids of its geoms."""

    name: str
    category: str
    colour: str
    place: np.ndarray
    height: float
    geoms: np.ndarray


class TableGenerator(ImageGenerator):
    """Generator of labelled images of tables; each image is a pure function of the random generator.

    Args:
        split: the split whose meshes and textures are used.
        image_size: side of an image in pixels.
    """

    def __init__(self, split: Split, image_size: int):
        spec = mujoco.MjSpec()
        for surface in ("table", "floor", "wall"):
            add_surface(spec, surface)
        for number in range(_PATTERNS):
            add_surface(spec, f"pattern{number}", cube=True)
        self._slots = [_add_primitive(spec, category, copy) for category in _PRIMITIVES for copy in range(2)]
        self._slots += [_add_shape(spec, shape, number) for number, shape in enumerate(shapes_of(split))]
        _add_furniture(spec)
        super().__init__(spec, split, image_size)
        self._geoms = {slot.body: self.geoms_of(slot.body) for slot in self._slots}
        self._main = {geom for geom in range(self.model.ngeom) if not self.model.geom(geom).name.startswith("detail")}

    def generate(self, rng: np.random.Generator) -> LabelledImage:
        while True:
            self.model.geom_group[:] = HIDDEN
            placed = self._place_objects(rng)
            table = self._set_table(rng)
            axes = self._set_camera(rng, placed)
            survey = self.survey()
            visible = [thing for thing in placed if self._pixels(survey, thing) >= _LEAST_VISIBLE * self.image_size**2]
            if not visible:
                continue
            if len(visible) < len(placed):
                for thing in placed:
                    self.show(thing.geoms, any(thing is other for other in visible))
                survey = self.survey()
            return self._labelled(survey, visible, table, axes, rng)

    def _pixels(self, survey: Survey, thing: _Placed) -> int:
        return int(np.isin(survey.geoms, thing.geoms).sum())

    def _place_objects(self, rng: np.random.Generator) -> list[_Placed]:
        placed: list[_Placed] = []
        radii: list[float] = []
        categories = sorted({slot.category for slot in self._slots})
        count, patterns = int(rng.choice(_COUNTS, p=_ODDS)), list(range(_PATTERNS))
        for _ in range(60):
            if len(placed) == count:
                break
            category, colour = str(rng.choice(categories)), str(rng.choice(COLOURS))
            free = [s for s in self._slots if s.category == category and not self._is_shown(s)]
            slot = free[rng.integers(len(free))] if free else None
            place = rng.uniform(-1, 1, 2) * _HALF
            if slot is None or any(thing.name == f"{colour} {category}" for thing in placed):
                continue
            slot = self._resized(slot, rng)
            apart = [np.linalg.norm(place - thing.place) for thing in placed]
            if any(gap < slot.radius + radius + _GAP for gap, radius in zip(apart, radii, strict=True)):
                continue
            radii.append(slot.radius)
            placed.append(self._put(slot, place, colour, patterns, rng))
        return placed

    def _is_shown(self, slot: _Slot) -> bool:
        return bool(self.model.geom_group[self._geoms[slot.body][0]] != HIDDEN)

    def _resized(self, slot: _Slot, rng: np.random.Generator) -> _Slot:
        """Draw the size of a primitive; meshes keep theirs."""
        if not slot.body.startswith("primitive"):
            return slot
        geom = self._geoms[slot.body][0]
        half = rng.uniform(0.022, 0.042)
        height = half if slot.category != "cylinder" else rng.uniform(0.6, 1.8) * half
        self.model.geom_size[geom] = (half, height, 0) if slot.category == "cylinder" else (half, half, height)
        self.model.geom_pos[geom] = 0, 0, height
        corner = np.sqrt(2) if slot.category == "cube" else 1
        return slot._replace(radius=half * corner, height=2 * height)

    def _put(
        self, slot: _Slot, place: np.ndarray, colour: str, patterns: list[int], rng: np.random.Generator
    ) -> _Placed:
        model, geoms = self.model, self._geoms[slot.body]
        body, yaw = model.body(slot.body), rng.uniform(0, 2 * np.pi)
        body.pos, body.quat = (*place, 0), (np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))
        tone, dark = shade(colour, rng), rng.uniform(0.1, 0.35) * np.ones(3)
        model.geom_matid[geoms] = -1
        for geom in geoms:
            model.geom_rgba[geom] = (*(tone if int(geom) in self._main else dark), 1)
        if patterns and rng.random() < 0.25:
            surface = f"pattern{patterns.pop()}"
            # Two shades of one colour, so that its name stays correct.
            other = shade(colour, rng) * rng.uniform(0.5, 1.0)
            self.paint(surface, draw_texture(self.split, rng, photographs=False).painted(tone, other))
            drawn = [geom for geom in geoms if int(geom) in self._main]
            model.geom_matid[drawn], model.geom_rgba[drawn] = model.material(surface).id, 1
        self.show(geoms)
        return _Placed(f"{colour} {slot.category}", slot.category, colour, place, slot.height, geoms)

    def _set_table(self, rng: np.random.Generator) -> str:
        """Set table, floor and wall; returns the table's name, such as "a wooden table"."""
        model = self.model
        first = any_colour(rng, (0, 0.5), 0.3)
        second = first + rng.uniform(0.3, 0.8) * (any_colour(rng, (0, 0.6), 0.2) - first)
        word = self.decorate("table", rng, np.stack([first, second]), rng.uniform(1, 3))
        for surface in ("floor", "wall"):
            tones = np.stack([any_colour(rng, (0, 0.6)), any_colour(rng, (0, 0.6))])
            self.decorate(surface, rng, tones, rng.uniform(1, 4))
        is_round = rng.random() < 0.3
        model.geom("board").size = rng.uniform(0.33, 0.5), rng.uniform(0.27, 0.4), 0.015
        model.geom("disc").size = rng.uniform(0.37, 0.48), 0.015, 0
        self.show([model.geom("disc" if is_round else "board").id, model.geom("floor").id, model.geom("wall").id])
        legs = [model.geom("leg").id] if is_round else [model.geom(f"leg{i}").id for i in range(4)]
        for number, leg in enumerate(legs if not is_round else []):
            x, y = model.geom("board").size[:2] - 0.04
            model.geom_pos[leg, :2] = x * (-1) ** number, y * (-1) ** (number // 2)
        model.geom_rgba[legs, :3] = any_colour(rng, (0, 0.6), 0.1)
        self.show(legs)
        return f"a {word} table"

    def _set_camera(self, rng: np.random.Generator, placed: Sequence[_Placed]) -> np.ndarray:
        middle = np.mean([thing.place for thing in placed], axis=0) if placed else np.zeros(2)
        target = np.array([*(middle + rng.normal(0, 0.025, 2)), 0.03])
        turn, rise = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(25, 65))
        spread = max((float(np.linalg.norm(thing.place - middle)) for thing in placed), default=0)
        distance = rng.uniform(0.34, 0.48) + rng.uniform(0.7, 1.2) * spread
        away = np.array([np.cos(turn) * np.cos(rise), np.sin(turn) * np.cos(rise), np.sin(rise)])
        axes = self.aim(target + distance * away, target, rng.uniform(38, 50))
        wall = self.model.geom("wall")
        wall.pos = -rng.uniform(0.9, 2.0) * np.array([np.cos(turn), np.sin(turn), 0])
        facing = np.column_stack([[-np.sin(turn), np.cos(turn), 0], [0, 0, 1], [np.cos(turn), np.sin(turn), 0]])
        mujoco.mju_mat2Quat(wall.quat, facing.ravel())
        lamp = np.array([*rng.uniform(-1.2, 1.2, 2), rng.uniform(1.0, 2.0)])
        bright, tint = rng.uniform(0.75, 1.15), 1 + rng.uniform(-0.08, 0.08, 3)
        self.light(0.45 * bright, 0.6 * bright, lamp, target, tint)
        return axes

    def _labelled(
        self, survey: Survey, visible: Sequence[_Placed], table: str, axes: np.ndarray, rng: np.random.Generator
    ) -> LabelledImage:
        number = np.zeros(self.model.ngeom + 1, np.uint8)  # the last entry is for -1, no geom
        for i, thing in enumerate(visible, start=1):
            number[thing.geoms] = i
        instances = number[survey.geoms]
        objects, relations = [], []
        for i, thing in enumerate(visible, start=1):
            mask = instances == i
            entry: dict[str, Any] = {"name": thing.name, "category": thing.category, "colour": thing.colour}
            entry |= {"box": box_of(mask), "pixels": int(mask.sum())}
            if relation := _relation(thing, visible, axes):
                entry["relation"] = relation
                relations.append(f"the {thing.name} is {relation}")
            objects.append(entry)
        captions = captions_of([thing.name for thing in visible], relations, table, rng)
        label = {"caption": str(rng.choice(captions)), "captions": captions, "objects": objects}
        depth = survey.depth.astype(np.float16)
        return LabelledImage({"images": survey.image, "instances": instances, "depth": depth}, label)


def _relation(thing: _Placed, visible: Sequence[_Placed], axes: np.ndarray) -> str | None:
    """Relation of an object to the nearest one, such as "left of the blue bowl"; None if there is none."""
    neighbours = [other for other in visible if other is not thing]
    if not neighbours:
        return None
    nearest = min(neighbours, key=lambda other: float(np.linalg.norm(thing.place - other.place)))
    away = -axes[:2, 2] / np.linalg.norm(axes[:2, 2])
    relation = relation_of(np.array([axes[:2, 0], away]) @ (thing.place - nearest.place))
    return relation and f"{relation} the {nearest.name}"


def _add_primitive(spec: mujoco.MjSpec, category: str, copy: int) -> _Slot:
    body = spec.worldbody.add_body(name=f"primitive {category} {copy}")
    add_geom(body, _PRIMITIVES[category], size=[0.03, 0.03, 0.03])
    return _Slot(body.name, category, 0, 0)


def _add_shape(spec: mujoco.MjSpec, shape: Shape, number: int) -> _Slot:
    body = spec.worldbody.add_body(name=f"{shape.category} {number}")
    for i, part in enumerate(shape.meshes):
        name = f"{number}-{i}" if part.main else f"detail {number}-{i}"
        mesh = spec.add_mesh(name=name, inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL)
        mesh.uservert, mesh.userface = part.mesh.vertices.ravel(), part.mesh.faces.ravel()
        add_geom(body, mujoco.mjtGeom.mjGEOM_MESH, name=name, meshname=name)
    return _Slot(body.name, shape.category, shape.radius, shape.height)


def _add_furniture(spec: mujoco.MjSpec) -> None:
    """Add a square and a round table with tops at z = 0, a floor, and a wall that is placed opposite the camera."""
    world, box, cylinder = spec.worldbody, mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER
    add_geom(world, box, name="board", size=[0.4, 0.3, 0.015], pos=[0, 0, -0.015], material="table")
    add_geom(world, cylinder, name="disc", size=[0.4, 0.015, 0], pos=[0, 0, -0.015], material="table")
    add_geom(world, cylinder, name="leg", size=[0.04, 0.36, 0], pos=[0, 0, -0.39])
    for number in range(4):
        add_geom(world, box, name=f"leg{number}", size=[0.02, 0.02, 0.36], pos=[0, 0, -0.39])
    add_geom(world, box, name="floor", size=[4, 4, 0.01], pos=[0, 0, -0.76], material="floor")
    add_geom(world, box, name="wall", size=[4, 3, 0.01], pos=[0, 0, 0], material="wall")
