"""Rooms with or without a person, with furniture, and with pictures of people and of other things on the walls."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from ..rendering import Survey, mujoco
from .colours import any_colour
from .furniture import add_furniture
from .people import BUILDS, POSTURES, SKIN_TONES, Look, Person, humanoid_spec
from .splits import Split
from .stage import HIDDEN, SHOWN, Picture, Stage, add_geom, add_surface, box_of
from .textures import SIDE, draw_texture

# By the height of the person's box over the picture's.
NEAR, FAR = 0.6, 0.25
_SHARES = {"near": (0.65, 1.7), "mid": (0.28, 0.58), "far": (0.11, 0.24)}  # whole persons that are aimed at
# By the mean brightness of the picture, of 255.
DARK, BRIGHT = 70.0, 150.0
_GAINS = {"dark": (0.12, 0.4), "normal": (0.65, 1.0), "bright": (1.25, 1.8)}  # lights that are aimed at
_LEAST_PERSON, _LEAST_POSTER = 0.003, 0.012  # of the picture's pixels: what shows less is taken away
_ALONE = 1  # group of geoms of what is pictured on a poster
_POSTERS = 2


class _View(NamedTuple):
    """Where the camera of a picture is and how large the room in front of it. metres; fovy: degrees."""

    eye: np.ndarray
    fovy: float
    long: float
    wide: float
    high: float


class RoomStage(Stage):
    """Draws labelled pictures of rooms, each from a generator of random numbers alone.

    Args:
        split: whose furniture and textures it uses.
        image_size: side of a picture in pixels.
    """

    def __init__(self, split: Split, image_size: int):
        spec = humanoid_spec()
        for surface in ("floor", "wall"):
            add_surface(spec, surface)
        for number in range(_POSTERS):
            add_surface(spec, f"poster{number}")
        self._furniture = add_furniture(spec, split)
        _add_room(spec)
        super().__init__(spec, split, image_size)
        self.person = Person(self.model)

    def picture(self, rng: np.random.Generator) -> Picture:
        self.model.geom_group[:] = HIDDEN
        depiction = str(rng.choice(["none", "person", "non_person"], p=[0.5, 0.25, 0.25]))
        self._hang_posters(depiction, rng)
        self.model.geom_group[self.person.geoms] = HIDDEN
        level = str(rng.choice(list(_SHARES)))
        view = self._build_room(level, rng)
        place, look = np.array([99.0, 99.0]), None
        if rng.random() < 0.5:
            look = Look(str(rng.choice(BUILDS)), str(rng.choice(SKIN_TONES)))
            place = self._place_person(look, level, view, rng)
        self._place_furniture(place, view, rng)
        self._place_posters(view, rng)
        survey = self.survey()
        person, poster = self._seen(survey)
        if 0 < person < _LEAST_PERSON:
            self.model.geom_group[self.person.geoms] = HIDDEN
        if 0 < poster < _LEAST_POSTER:
            self._take_down()
        if 0 < person < _LEAST_PERSON or 0 < poster < _LEAST_POSTER:
            survey = self.survey()
            person, poster = self._seen(survey)
        return self._labelled(survey, look if person else None, depiction if poster else "none")

    def _seen(self, survey: Survey) -> tuple[float, float]:
        """Shares of the picture's pixels that show the person and what is on posters."""
        papers = [self.model.geom(f"paper{number}").id for number in range(_POSTERS)]
        return float(np.isin(survey.geoms, self.person.geoms).mean()), float(np.isin(survey.geoms, papers).mean())

    def _labelled(self, survey: Survey, look: Look | None, depiction: str) -> Picture:
        instances = np.isin(survey.geoms, self.person.geoms).astype(np.uint8)
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
        return Picture(survey.image, instances, label)

    def _build_room(self, level: str, rng: np.random.Generator) -> _View:
        """Floor, walls and ceiling for somebody at that distance, the camera and the light."""
        fovy = rng.uniform(45, 65)
        far = 1.8 / (2 * _SHARES[level][0] * np.tan(np.radians(fovy / 2))) if level != "near" else 3
        long, high = far + rng.uniform(1, 4), rng.uniform(2.4, 3.2)
        wide = rng.uniform(3, 4) + rng.uniform(0.2, 0.6) * long
        view = _View(np.array([rng.uniform(-0.2, 0.2) * wide, 0, rng.uniform(0.6, 2.0)]), fovy, long, wide, high)
        for name, half, place in (
            ("floor", (wide / 2, long / 2 + 1), (0, long / 2, -0.01)),
            ("ceiling", (wide / 2, long / 2 + 1), (0, long / 2, high)),
            ("back", (wide / 2, high / 2), (0, long, high / 2)),
            ("left", (long / 2 + 1, high / 2), (-wide / 2, long / 2, high / 2)),
            ("right", (long / 2 + 1, high / 2), (wide / 2, long / 2, high / 2)),
        ):
            geom = self.model.geom(name)
            geom.size, geom.pos = (*half, 0.01), place
            self.show([geom.id])
        self.model.geom("ceiling").rgba = (*any_colour(rng, (0, 0.15), 0.6), 1)
        self.decorate("floor", rng, any_colour(rng, (0, 0.6)), any_colour(rng, (0, 0.6)), rng.uniform(2, 6))
        first = any_colour(rng, (0, 0.35), 0.35)
        second = first + rng.uniform(0.1, 0.7) * (any_colour(rng, (0, 0.5)) - first)
        self.decorate("wall", rng, first, second, rng.uniform(1, 4))
        self.aim(
            view.eye, np.array([view.eye[0] + rng.normal(0, 0.05), 3, view.eye[2] + rng.uniform(-0.5, 0.35)]), fovy
        )
        self._light_room(view, rng)
        return view

    def _light_room(self, view: _View, rng: np.random.Generator) -> None:
        gain = rng.uniform(*_GAINS[str(rng.choice(list(_GAINS), p=[0.25, 0.5, 0.25]))])
        lamp = np.array([rng.uniform(-0.4, 0.4) * view.wide, rng.uniform(0.2, 0.7) * view.long, view.high - 0.1])
        share, tint = rng.uniform(0.35, 0.65), 1 + rng.uniform(-0.1, 0.1, 3)
        self.light(gain * share, gain * (1 - share), lamp, lamp - np.array([0, rng.uniform(-0.5, 0.5), 1]), tint)

    def _place_person(self, look: Look, level: str, view: _View, rng: np.random.Generator) -> np.ndarray:
        posture = str(rng.choice(POSTURES))
        self.person.wear(look, rng)
        spread = 2 * np.tan(np.radians(view.fovy / 2))
        away = min(max(0.6, 1.6 / (rng.uniform(*_SHARES[level]) * spread)), view.long - 0.6)
        place = np.array([view.eye[0] + 0.4 * spread * away * rng.uniform(-1, 1), away])
        place[0] = np.clip(place[0], 0.5 - view.wide / 2, view.wide / 2 - 0.5)
        yaw, seat = rng.vonmises(0, 1.0), 0.0
        if posture == "sitting":
            chairs = [name for name in self._furniture if name.startswith("chair")]
            chair = str(rng.choice(chairs))
            self._put(chair, place, yaw, rng)
            first = self.geoms_of(chair)[0]
            seat = float(self.model.geom_pos[first, 2] + self.model.geom_size[first, 2])
        self.person.pose(self.data, posture, place, yaw, seat, rng)
        return place

    def _put(self, name: str, place: np.ndarray, yaw: float, rng: np.random.Generator) -> None:
        """Furniture in new colours."""
        body, geoms = self.model.body(name), self.geoms_of(name)
        body.pos, body.quat = (*place, 0), (np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))
        tones = [any_colour(rng, (0, 0.8), 0.08) for _ in range(3)]
        for number, geom in enumerate(geoms):
            self.model.geom_rgba[geom, :3] = tones[0] if number == 0 else tones[1 + number % 2]
        self.show(geoms)

    def _place_furniture(self, person: np.ndarray, view: _View, rng: np.random.Generator) -> None:
        taken = [person]
        shown = self.model.geom_group
        for name in rng.permutation(self._furniture)[: rng.integers(2, 8)]:
            away = rng.uniform(1.5, view.long - 0.4)
            half = min(view.wide / 2 - 0.5, 0.3 + away * np.tan(np.radians(view.fovy / 2)))
            place = np.array(
                [np.clip(view.eye[0] + rng.uniform(-half, half), 0.5 - view.wide / 2, view.wide / 2 - 0.5), away]
            )
            if shown[self.geoms_of(str(name))[0]] == HIDDEN and min(np.linalg.norm(place - t) for t in taken) > 0.75:
                self._put(str(name), place, rng.vonmises(0, 1.5), rng)
                taken.append(place)

    def _hang_posters(self, depiction: str, rng: np.random.Generator) -> None:
        """Paint what the posters show: the first a person or a thing, the second at times a thing."""
        for number in range(_POSTERS):
            if depiction == "none" or (number == 1 and rng.random() < 0.6):
                continue
            is_person = number == 0 and depiction == "person"
            pixels = self._portrait(rng) if is_person else self._other_picture(rng)
            self.paint(f"poster{number}", pixels)
            self.model.geom(f"paper{number}").group = SHOWN

    def _portrait(self, rng: np.random.Generator) -> np.ndarray:
        """A person before a patterned ground, uint8 (128, 128, 3)."""
        self.person.wear(Look(str(rng.choice(BUILDS)), str(rng.choice(SKIN_TONES))), rng)
        self.person.show(_ALONE)
        posture = str(rng.choice(["standing", "walking", "reaching"]))
        self.person.pose(self.data, posture, np.zeros(2), rng.normal(0, 0.5), 0, rng)
        mujoco.mj_kinematics(self.model, self.data)
        head = self.data.geom_xpos[self.model.geom("head").id]
        down, away = [(0.02, 0.7), (0.3, 1.4), (0.75, 2.6)][rng.integers(3)]
        return self._pictured(head - [0, 0, down * head[2] / 1.6], away * head[2] / 1.6, rng)

    def _other_picture(self, rng: np.random.Generator) -> np.ndarray:
        """A landscape, a pattern or a piece of furniture, uint8 (128, 128, 3)."""
        kind = rng.integers(3)
        if kind == 0:
            return _landscape(rng)
        if kind == 1:
            return draw_texture(self.split, rng).painted(any_colour(rng), any_colour(rng))
        name = str(rng.choice(self._furniture))
        self._put(name, np.zeros(2), rng.uniform(0, 2 * np.pi), rng)
        self.model.geom_group[self.geoms_of(name)] = _ALONE
        pixels = self._pictured(np.array([0, 0, 0.8]), rng.uniform(2.2, 3.2), rng)
        self.show(self.geoms_of(name), False)
        return pixels

    def _pictured(self, target: np.ndarray, away: float, rng: np.random.Generator) -> np.ndarray:
        """What is in the group of its own, seen from the front, before a patterned ground."""
        self.aim(target - np.array([0, away, rng.uniform(-0.2, 0.1) * away]), target, 45)
        gain = rng.uniform(0.7, 1.1)
        self.light(0.5 * gain, 0.5 * gain, target + [rng.uniform(-1, 1), -2, 2], target, np.ones(3))
        survey = self.survey((_ALONE,))
        ground = draw_texture(self.split, rng).painted(any_colour(rng), any_colour(rng))
        drawn = [np.asarray(Image.fromarray(a).resize((SIDE, SIDE))) for a in (survey.image, survey.geoms >= 0)]
        return np.where(drawn[1][..., None], drawn[0], ground)

    def _place_posters(self, view: _View, rng: np.random.Generator) -> None:
        """Put the painted ones on the back wall or one of the sides, as posters or as lit screens."""
        for number in range(_POSTERS):
            paper, frame = self.model.geom(f"paper{number}"), self.model.geom(f"frame{number}")
            half = rng.uniform(0.22, 0.5, 2) * (1 + view.long / 9)
            high = np.clip(rng.uniform(1.1, 1.7), half[1] + 0.1, view.high - half[1] - 0.1)
            paper.size, frame.size = (*half, 0.005), (*(half + 0.04), 0.012)
            frame.rgba[:3] = any_colour(rng, (0, 0.5), 0.05)
            self.model.material(f"poster{number}").emission = 0.5 if rng.random() < 0.35 else 0.0
            side = rng.choice([0, 0, -1, 1])
            normal = (-1.0 * side, -1.0 if side == 0 else 0.0, 0.0)
            edge = min(view.wide / 2 - half[0] - 0.1, 0.85 * view.long * np.tan(np.radians(view.fovy / 2)))
            nearest = (view.wide / 2 + abs(view.eye[0])) / np.tan(np.radians(view.fovy / 2)) + half[0]
            place = np.array([rng.uniform(-edge, edge), view.long - 0.03, high])
            if side:
                place = np.array(
                    [side * (view.wide / 2 - 0.03), min(nearest + rng.uniform(0, 2), view.long - half[0]), high]
                )
            body = self.model.body(f"hanging{number}")
            body.pos, body.quat = place, _facing(normal)
            frame.group = paper.group

    def _take_down(self) -> None:
        for number in range(_POSTERS):
            self.show(self.geoms_of(f"hanging{number}"), False)


def _landscape(rng: np.random.Generator) -> np.ndarray:
    """Sky, sun and hills, uint8 (128, 128, 3)."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    top, low = any_colour(rng, (0.2, 0.7), 0.5), any_colour(rng, (0, 0.4), 0.7)
    pixels = top + y[..., None] * (low - top)
    sun = rng.uniform(0.15, 0.85, 2) * (1, 0.5)
    pixels[np.hypot(x - sun[0], y - sun[1]) < rng.uniform(0.05, 0.12)] = any_colour(rng, (0.2, 0.6), 0.9)
    for height in np.sort(rng.uniform(0.4, 0.9, 3)):
        ridge = height + 0.08 * np.sin(2 * np.pi * (rng.uniform(0.5, 2) * x + rng.random()))
        pixels[y > ridge] = any_colour(rng, (0.3, 0.8), 0.2)
    return (255 * pixels).astype(np.uint8)


def _facing(normal: tuple[float, float, float]) -> np.ndarray:
    """The orientation of something upright that faces there, as a quaternion (4,): its own z does, and y is up."""
    axes, quat = np.column_stack([np.cross([0, 0, 1], normal), [0, 0, 1], normal]), np.empty(4)
    mujoco.mju_mat2Quat(quat, axes.ravel())
    return quat


def _add_room(spec: mujoco.MjSpec) -> None:
    """Five sides of a box, and what hangs on its walls."""
    world, box = spec.worldbody, mujoco.mjtGeom.mjGEOM_BOX
    spec.geom("floor").name = "ground"  # the humanoid's own, which is never shown
    add_geom(world, box, name="floor", size=[1, 1, 0.01], material="floor")
    add_geom(world, box, name="ceiling", size=[1, 1, 0.01])
    for name, normal in (("back", (0.0, -1.0, 0.0)), ("left", (1.0, 0.0, 0.0)), ("right", (-1.0, 0.0, 0.0))):
        add_geom(world, box, name=name, size=[1, 1, 0.01], quat=_facing(normal), material="wall")
    for number in range(_POSTERS):
        body = world.add_body(name=f"hanging{number}")
        add_geom(body, box, name=f"frame{number}", size=[1, 1, 0.01])
        add_geom(body, box, name=f"paper{number}", size=[1, 1, 0.01], pos=[0, 0, 0.01], material=f"poster{number}")
