"""Generator of labelled images of rooms: with or without a person, with furniture, and with posters."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..rendering import Survey, mujoco
from .colours import any_colour
from .furniture import Furniture, add_furniture
from .humanoid import BUILDS, POSTURES, SKIN_TONES, Humanoid, Look, height_of, humanoid_spec
from .image_generator import HIDDEN, ImageGenerator, LabelledImage, add_geom, add_surface, box_of
from .posters import Posters, add_posters, facing
from .splits import Split

# Height of the person's box, as a share of the image's height.
NEAR, FAR = 0.6, 0.25
_SHARES = {"near": (0.8, 2.0), "mid": (0.3, 0.58), "far": (0.12, 0.24)}  # target shares of whole persons
# Mean brightness of the image, of 255.
DARK, BRIGHT = 60.0, 140.0
_GAINS = {"dark": (0.33, 0.5), "normal": (0.75, 1.1), "bright": (1.5, 2.2)}  # target gains of the lights
_LEAST_PERSON, _LEAST_POSTER = 0.003, 0.012  # share of the image's pixels; smaller ones are removed
_PACE, _STRIDE = 1.2, 28.0  # of a person who walks in: metres per second, degrees


class _View(NamedTuple):
    """Camera position, field of view, and size of the room in front of the camera.

    eye: (3,). spread: width and height of the view at 1 m. long, wide, high: metres.
    """

    eye: np.ndarray
    spread: float
    long: float
    wide: float
    high: float

    def inside(self, across: float, away: float) -> np.ndarray:
        """Position on the floor, (2,), at least half a metre from the walls."""
        half = self.wide / 2 - 0.5
        return np.array([np.clip(self.eye[0] + across, -half, half), np.clip(away, 0.6, self.long - 0.5)])


class RoomGenerator(ImageGenerator):
    """Generator of labelled images of rooms; each image is a pure function of the random generator.

    Args:
        split: the split whose furniture and textures are used.
        image_size: side of an image in pixels.
    """

    def __init__(self, split: Split, image_size: int):
        spec = humanoid_spec()
        _add_walls(spec)
        add_furniture(spec, split)
        add_posters(spec)
        super().__init__(spec, split, image_size)
        self._person, self._furniture = Humanoid(self), Furniture(self)
        self._posters = Posters(self, self._person, self._furniture)

    def generate(self, rng: np.random.Generator) -> LabelledImage:
        # Also without a person, so that the room tells nothing. Near persons are often cut off, and then not near.
        level = str(rng.choice(list(_SHARES), p=[0.45, 0.2, 0.35]))
        view, depiction = self._empty_room(level, rng)
        look, place = None, np.full(2, np.inf)
        if rng.random() < 0.55:
            look = Look(str(rng.choice(BUILDS)), str(rng.choice(SKIN_TONES)))
            place = self._place_person(look, level, view, rng)
        self._place_furniture(place, 1.5, view, rng)
        return self._drawn(look, depiction)

    def watch(self, rng: np.random.Generator, frames: int, enters: int | None, fps: float) -> Iterator[LabelledImage]:
        """Frames of one room with sensor noise, see `generate_room_video`."""
        view, depiction = self._empty_room("mid", rng)
        look, side = Look(str(rng.choice(BUILDS)), str(rng.choice(SKIN_TONES))), rng.choice([-1, 1])
        tall = height_of(look, "walking")
        lane = max(tall / (rng.uniform(0.35, 0.9) * view.spread), 0.8)
        self.aim(view.eye, np.array([view.eye[0], lane, 0.6 * tall]), np.degrees(2 * np.arctan(view.spread / 2)))
        self._place_furniture(np.full(2, np.inf), lane + 0.6, view, rng)
        edge, stop = 0.5 * view.spread * lane + 0.6, rng.uniform(-0.25, 0.25) * view.spread * lane
        still = self._drawn(None, depiction)
        self._person.wear(look, rng)
        shown, habits = self.model.geom_group.copy(), rng.integers(1 << 30)
        for frame in range(frames):
            if enters is not None and frame >= enters:
                walked = _PACE * (frame - enters + 1) / fps
                x = side * max(edge - walked, side * stop)
                stride = _STRIDE * np.sin(2 * np.pi * walked / 1.4) * (side * x > side * stop)
                self.model.geom_group[:] = shown
                place, gait = np.array([view.eye[0] + x, lane]), np.random.default_rng(habits)
                self._person.pose("walking", place, -side * np.pi / 2, 0, gait, stride)
                still = self._drawn(look, depiction)
            noisy = still.arrays["images"] * rng.normal(1, 0.01) + rng.normal(0, 2, still.arrays["images"].shape)
            images = np.clip(noisy, 0, 255).astype(np.uint8)
            yield LabelledImage(still.arrays | {"images": images}, still.label)

    def _empty_room(self, level: str, rng: np.random.Generator) -> tuple[_View, str]:
        """Lit room with posters only, long enough for a person at that distance, and the kind of the posters."""
        self.model.geom_group[:] = HIDDEN
        depiction = str(rng.choice(["none", "person", "non_person"], p=[0.4, 0.3, 0.3]))
        self._posters.paint(depiction, rng)
        view = self._build_room(level, rng)
        self._light_room(view, rng)
        nearest = (view.wide / 2 + abs(view.eye[0])) / (view.spread / 2)
        self._posters.hang(view.long, view.wide, view.high, nearest, rng)
        return view, depiction

    def _drawn(self, look: Look | None, depiction: str) -> LabelledImage:
        """Labelled image of the shown geoms; a person or poster with too few visible pixels is removed."""
        survey = self.survey()
        person, poster = self._seen(survey)
        too_little = [0 < person < _LEAST_PERSON, 0 < poster < _LEAST_POSTER]
        if too_little[0]:
            self._person.hide()
        if too_little[1]:
            self._posters.take_down()
        if any(too_little):
            survey = self.survey()
            person, poster = self._seen(survey)
        return self._labelled(survey, look if person else None, depiction if poster else "none")

    def _seen(self, survey: Survey) -> list[float]:
        """Shares of the image's pixels that show the person, and the posters."""
        return [float(np.isin(survey.geoms, geoms).mean()) for geoms in (self._person.geoms, self._posters.sheets)]

    def _labelled(self, survey: Survey, look: Look | None, depiction: str) -> LabelledImage:
        instances = np.isin(survey.geoms, self._person.geoms).astype(np.uint8)
        box = box_of(instances > 0) if look else None
        share = (box[3] - box[1]) / self.image_size if box else 0
        brightness = float((survey.image @ np.array([0.299, 0.587, 0.114])).mean())
        label = {
            "person": int(look is not None),
            "distance": ("near" if share >= NEAR else "far" if share < FAR else "mid") if box else None,
            "lighting": "dark" if brightness < DARK else "bright" if brightness > BRIGHT else "normal",
            "depiction": depiction,
            "build": look.build if look else None,
            "skin_tone": look.skin_tone if look else None,
            "box": box,
        }
        return LabelledImage({"images": survey.image, "instances": instances}, label)

    def _build_room(self, level: str, rng: np.random.Generator) -> _View:
        """Set floor, walls, ceiling and camera of a room that is long enough for a person at that distance."""
        fovy = rng.uniform(45, 65)
        spread = 2 * np.tan(np.radians(fovy / 2))
        long = max(3.0, 1.75 / (_SHARES[level][0] * spread)) + rng.uniform(1, 4)
        wide, high = rng.uniform(3, 4) + rng.uniform(0.2, 0.6) * long, rng.uniform(2.4, 3.2)
        view = _View(np.array([rng.uniform(-0.2, 0.2) * wide, 0, rng.uniform(0.6, 2.0)]), spread, long, wide, high)
        for name, half, place in (
            ("floor", (wide / 2, long / 2 + 1), (0, long / 2, -0.01)),
            ("ceiling", (wide / 2, long / 2 + 1), (0, long / 2, high)),
            ("back", (wide / 2, high / 2), (0, long, high / 2)),
            ("left", (long / 2 + 1, high / 2), (-wide / 2, long / 2, high / 2)),
            ("right", (long / 2 + 1, high / 2), (wide / 2, long / 2, high / 2)),
        ):
            self.model.geom(name).size, self.model.geom(name).pos = (*half, 0.01), place
            self.show([self.model.geom(name).id])
        self.model.geom("ceiling").rgba = (*any_colour(rng, (0, 0.15), 0.6), 1)
        tones = np.stack([any_colour(rng, (0, 0.6), 0.25) for _ in range(2)])
        self.decorate("floor", rng, tones, rng.uniform(2, 6))
        first = any_colour(rng, (0, 0.35), 0.4)
        second = first + rng.uniform(0.1, 0.7) * (any_colour(rng, (0, 0.5), 0.2) - first)
        self.decorate("wall", rng, np.stack([first, second]), rng.uniform(1, 4))
        self.aim(view.eye, view.eye + np.array([rng.normal(0, 0.05), 3, rng.uniform(-0.5, 0.3)]), fovy)
        return view

    def _light_room(self, view: _View, rng: np.random.Generator) -> None:
        gain = rng.uniform(*_GAINS[str(rng.choice(list(_GAINS)))])
        lamp = np.array([rng.uniform(-0.4, 0.4) * view.wide, rng.uniform(0.2, 0.7) * view.long, view.high - 0.1])
        share, tint = rng.uniform(0.4, 0.7), 1 + rng.uniform(-0.1, 0.1, 3)
        self.light(gain * share, gain * (1 - share), lamp, lamp - np.array([0, rng.uniform(-0.5, 0.5), 1]), tint)

    def _place_person(self, look: Look, level: str, view: _View, rng: np.random.Generator) -> np.ndarray:
        posture = str(rng.choice(POSTURES))
        self._person.wear(look, rng)
        away = height_of(look, posture) / (rng.uniform(*_SHARES[level]) * view.spread)
        # Some are half out of the image, and walking ones face any direction: a detector has to know people who enter.
        place = view.inside(0.5 * view.spread * away * rng.uniform(-1.2, 1.2), away)
        yaw, seat = rng.uniform(-np.pi, np.pi) if posture == "walking" else rng.vonmises(0, 1.0), 0.0
        if posture == "sitting":
            chair, seat = self._furniture.draw_chair(rng)
            self._furniture.put(chair, place, yaw, rng)
        self._person.pose(posture, place, yaw, seat, rng)
        return place

    def _place_furniture(self, person: np.ndarray, nearest: float, view: _View, rng: np.random.Generator) -> None:
        taken = [person]
        for name in rng.permutation(self._furniture.names)[: rng.integers(2, 8)]:
            away = rng.uniform(min(nearest, view.long - 0.5), view.long - 0.4)
            place = view.inside((0.3 + 0.5 * view.spread * away) * rng.uniform(-1, 1), away)
            if not self._furniture.is_shown(str(name)) and min(np.linalg.norm(place - t) for t in taken) > 0.75:
                self._furniture.put(str(name), place, rng.vonmises(0, 1.5), rng)
                taken.append(place)


def _add_walls(spec: mujoco.MjSpec) -> None:
    """Add floor, ceiling and three walls. Textures of thin boxes lie in their own x and y."""
    world, box = spec.worldbody, mujoco.mjtGeom.mjGEOM_BOX
    spec.geom("floor").name = "ground"  # the humanoid's floor, which is never shown
    add_surface(spec, "floor")
    add_surface(spec, "wall")
    add_geom(world, box, name="floor", size=[1, 1, 0.01], material="floor")
    add_geom(world, box, name="ceiling", size=[1, 1, 0.01])
    for name, normal in (("back", (0.0, -1.0, 0.0)), ("left", (1.0, 0.0, 0.0)), ("right", (-1.0, 0.0, 0.0))):
        add_geom(world, box, name=name, size=[1, 1, 0.01], quat=facing(normal), material="wall")
