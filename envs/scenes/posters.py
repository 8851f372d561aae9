"""Posters and lit screens on the walls of rooms, with pictured people, objects and patterns."""

import numpy as np
from PIL import Image

from ..rendering import mujoco
from .colours import any_colour
from .furniture import Furniture
from .humanoid import BUILDS, SKIN_TONES, Humanoid, Look
from .image_generator import ImageGenerator, add_geom, add_surface
from .textures import SIDE, draw_texture

_COUNT = 2
_ALONE = 1  # group of the geoms that a poster shows
_NAMES = [f"poster{number}" for number in range(_COUNT)]


def add_posters(spec: mujoco.MjSpec) -> None:
    """Add the bodies of the posters: a frame, and in front of it a sheet with its own texture."""
    box = mujoco.mjtGeom.mjGEOM_BOX
    for name in _NAMES:
        add_surface(spec, name)
        body = spec.worldbody.add_body(name=name)
        add_geom(body, box, name=f"{name} frame", size=[1, 1, 0.01])
        add_geom(body, box, name=name, size=[1, 1, 0.01], pos=[0, 0, 0.01], material=name)


class Posters:
    """Posters of a generator's model. sheets: ids of the geoms with the posters' textures."""

    def __init__(self, generator: ImageGenerator, person: Humanoid, furniture: Furniture):
        self._generator, self._person, self._furniture = generator, person, furniture
        self.sheets = [generator.model.geom(name).id for name in _NAMES]

    def paint(self, depiction: str, rng: np.random.Generator) -> None:
        """Show no poster, or one of a person or an object, and sometimes a second one of an object.

        The person, the camera and the light are used for it and have to be set again afterwards.
        """
        for number, name in enumerate(_NAMES):
            if depiction == "none" or (number > 0 and rng.random() < 0.6):
                continue
            is_person = number == 0 and depiction == "person"
            self._generator.paint(name, self._portrait(rng) if is_person else self._something(rng))
            self._generator.show(self._generator.geoms_of(name))

    def hang(self, long: float, wide: float, high: float, nearest: float, rng: np.random.Generator) -> None:
        """Put the posters on the walls of a room, metres. nearest: distance from which the side walls are in view."""
        model = self._generator.model
        for name in _NAMES:
            half = rng.uniform(0.22, 0.5, 2) * (1 + long / 9)
            up = np.clip(rng.uniform(1.1, 1.7), half[1] + 0.1, max(high - half[1] - 0.1, half[1] + 0.1))
            model.geom(name).size, model.geom(f"{name} frame").size = (*half, 0.005), (*(half + 0.04), 0.012)
            model.geom(f"{name} frame").rgba[:3] = any_colour(rng, (0, 0.5), 0.05)
            model.material(name).emission = 0.5 if rng.random() < 0.35 else 0.0  # a screen shines
            side, across = rng.choice([0, 0, -1, 1]), max(wide / 2 - half[0] - 0.1, 0)
            if side:
                along = min(nearest + half[0] + rng.uniform(0, 2), long - half[0])
                place, normal = (side * (wide / 2 - 0.03), along, up), (-float(side), 0.0, 0.0)
            else:
                place, normal = (rng.uniform(-1, 1) * across, long - 0.03, up), (0.0, -1.0, 0.0)
            model.body(name).pos, model.body(name).quat = place, facing(normal)

    def take_down(self) -> None:
        for name in _NAMES:
            self._generator.show(self._generator.geoms_of(name), False)

    def _portrait(self, rng: np.random.Generator) -> np.ndarray:
        """Head, upper body or whole body of a person, uint8 (128, 128, 3)."""
        person = self._person
        person.wear(Look(str(rng.choice(BUILDS)), str(rng.choice(SKIN_TONES))), rng, _ALONE)
        person.pose(str(rng.choice(["standing", "walking", "reaching"])), np.zeros(2), rng.normal(0, 0.5), 0, rng)
        head = self._generator.data.geom_xpos[self._generator.model.geom("head").id].copy()
        down, away = np.array([(0.02, 0.7), (0.3, 1.4), (0.75, 2.6)])[rng.integers(3)] * head[2] / 1.6
        pixels = self._pictured(head - [0, 0, down], away, rng)
        person.hide()
        return pixels

    def _something(self, rng: np.random.Generator) -> np.ndarray:
        """A landscape, a pattern or a piece of furniture, uint8 (128, 128, 3)."""
        kind = rng.choice(["landscape", "pattern", "furniture"])
        if kind == "landscape":
            return _landscape(rng)
        if kind == "pattern":
            return draw_texture(self._generator.split, rng).painted(any_colour(rng), any_colour(rng))
        name = str(rng.choice(self._furniture.names))
        self._furniture.put(name, np.zeros(2), rng.uniform(0, 2 * np.pi), rng, _ALONE)
        pixels = self._pictured(np.array([0, 0, 0.8]), rng.uniform(2.2, 3.2), rng)
        self._generator.show(self._generator.geoms_of(name), False)
        return pixels

    def _pictured(self, target: np.ndarray, away: float, rng: np.random.Generator) -> np.ndarray:
        """Front view of the geoms in the group _ALONE, on a patterned background, uint8 (128, 128, 3)."""
        generator, gain = self._generator, rng.uniform(0.7, 1.1)
        generator.aim(target - np.array([0, away, rng.uniform(-0.2, 0.1) * away]), target, 45)
        generator.light(0.5 * gain, 0.5 * gain, target + np.array([rng.uniform(-1, 1), -2, 2]), target, np.ones(3))
        survey = generator.survey((_ALONE,))
        ground = draw_texture(generator.split, rng).painted(any_colour(rng), any_colour(rng))
        image, mask = (np.asarray(Image.fromarray(a).resize((SIDE, SIDE))) for a in (survey.image, survey.geoms >= 0))
        return np.where(mask[..., None], image, ground)


def facing(normal: tuple[float, float, float]) -> np.ndarray:
    """Orientation of an upright sheet, as a quaternion (4,): its z axis points along `normal`, its y axis up."""
    axes, quat = np.column_stack([np.cross([0, 0, 1], normal), [0, 0, 1], normal]), np.empty(4)
    mujoco.mju_mat2Quat(quat, axes.ravel())
    return quat


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
