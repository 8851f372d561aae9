"""People who reach over the SO-101's table: bodies that can be moved into the cameras' view and out of it again.

For tests and training images of a person gate. They collide with nothing and have no joints, so that a scene with
visitors has the same state vector as one without.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import mujoco
import numpy as np

from ..rendering import CameraRenderers  # before anything that imports mujoco
from .simulation import Simulation
from .twin import TwinScene

AWAY = (0.0, 0.0, -3.0)  # below the floor, out of view
_SKIN = (
    (0.96, 0.84, 0.74), (0.90, 0.74, 0.60), (0.79, 0.60, 0.44),
    (0.62, 0.44, 0.30), (0.44, 0.29, 0.19), (0.28, 0.18, 0.12),
)  # fmt: skip
_DIRECTIONS = ((70.0, 150.0), (-150.0, -30.0))  # degrees about z, from the hand to the shoulder: not through a camera
_LIFT = (8.0, 40.0)  # degrees of the forearm above the horizontal
_HEIGHT = (0.02, 0.15)  # metres of the hand above the table
_AREA = (0.12, -0.13, 0.33, 0.14)  # of the hand, x and y of two corners in metres
_POSES = ((-80, -95, -20, 0, -90, 0), (80, 30, 90, 90, 90, 100))  # range of the arm in training images, LeRobot's units
_DIFFERENT = 20  # levels of a colour
VISIBLE = 0.01  # share of an image's pixels from which a visitor counts as visible


class Place(NamedTuple):
    """Pose of a visitor. position: of the palm, (3,) in metres; turn: quaternion, (4,)."""

    position: np.ndarray
    turn: np.ndarray


def add_visitors(spec: mujoco.MjSpec, count: int, seed: int) -> None:
    """Add mocap bodies `visitor0`, `visitor1`, ... out of view to a scene. They differ in build, skin and clothes."""
    # The clipping planes of the cameras depend on the extent of the scene, which has to stay that without visitors.
    bare = spec.compile()
    spec.stat.extent, spec.stat.center = bare.stat.extent, bare.stat.center
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        _add_person(spec, f"visitor{index}", rng)


class VisitedScene(TwinScene):
    """`TwinScene` with visitors, which the twin's command `move` moves."""

    def __init__(self, task: str = "pick-lift", render: str = "fast", visitors: int = 4, looks: int = 0):
        """visitors: number of them; looks: seed of their appearance."""
        super().__init__(task, render, lambda spec: add_visitors(spec, visitors, looks))


def draw_place(rng: np.random.Generator) -> Place:
    """Random pose with the hand over the table and the arm from beside it."""
    position = np.array([*rng.uniform(_AREA[:2], _AREA[2:]), rng.uniform(*_HEIGHT)])
    turn = np.radians(rng.uniform(*_DIRECTIONS[rng.integers(len(_DIRECTIONS))]))
    return Place(position, np.array([np.cos(turn / 2), 0, 0, np.sin(turn / 2)]))


def visitor_images(
    count: int, camera: str, image_size: int, seed: int, visitors: int = 12
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Images of the table, uint8 (count, image_size, image_size, 3), every other one with a visitor, and labels.

    The arm is anywhere in its range, cube and disc as at the start of an episode. Labels are as in
    `tinyvla.frontends.wake`.
    """
    simulation = Simulation("pick-lift", furnish=lambda spec: add_visitors(spec, visitors, seed))
    model, data = simulation.model, simulation.data
    renderers, rng = CameraRenderers(model), np.random.default_rng([seed, 1])
    images, labels = np.empty((count, image_size, image_size, 3), np.uint8), []
    for index in range(count):
        simulation.reset(rng)
        simulation.place_arm(rng.uniform(*_POSES))
        place_visitor(model, data, None, draw_place(rng))
        mujoco.mj_forward(model, data)
        images[index] = empty = renderers.draw(data, camera, image_size).copy()
        while index % 2 and visible_share(images[index], empty) < VISIBLE:
            place_visitor(model, data, f"visitor{rng.integers(visitors)}", draw_place(rng))
            mujoco.mj_forward(model, data)
            images[index] = renderers.draw(data, camera, image_size)
        labels.append({"person": index % 2})
    renderers.close()
    return images, labels


def visible_share(image: np.ndarray, empty: np.ndarray) -> float:
    """Share of an image's pixels that differ from `empty`, the same view without visitors."""
    return float((np.abs(image.astype(int) - empty) > _DIFFERENT).any(-1).mean())


def place_visitor(model: mujoco.MjModel, data: mujoco.MjData, visitor: str | None, place: Place) -> None:
    """Put one visitor at a place and the others out of view; `None` puts all out of view."""
    for body in _visitors(model):
        mocap = model.body(body).mocapid[0]
        data.mocap_pos[mocap] = place.position if body == visitor else AWAY
        data.mocap_quat[mocap] = place.turn if body == visitor else (1, 0, 0, 0)


def _visitors(model: mujoco.MjModel) -> Iterator[str]:
    return (name for index in range(model.nbody) if (name := model.body(index).name).startswith("visitor"))


def _add_person(spec: mujoco.MjSpec, name: str, rng: np.random.Generator) -> None:
    """One body: the palm at its origin, the arm along its x axis, up to a shoulder, a trunk and a head."""
    body = spec.worldbody.add_body(name=name, mocap=True, pos=AWAY)
    skin = np.clip(np.array(_SKIN[rng.integers(len(_SKIN))]) * rng.uniform(0.92, 1.08), 0, 1)
    cloth = rng.uniform(0.05, 0.9, 3)
    stout, long_sleeve, lift = rng.uniform(0.8, 1.3), rng.random() < 0.5, np.radians(rng.uniform(*_LIFT))

    def limb(start: Any, end: Any, radius: float, colour: np.ndarray) -> None:
        _add(body, mujoco.mjtGeom.mjGEOM_CAPSULE, (radius, 0, 0), colour, fromto=(*start, *end))

    def ball(centre: Any, size: Any, colour: np.ndarray) -> None:
        _add(body, mujoco.mjtGeom.mjGEOM_ELLIPSOID, size, colour, pos=centre)

    ball((0, 0, 0), (0.05, 0.043 * stout, 0.016), skin)
    for finger, spread in enumerate((-0.03, -0.01, 0.01, 0.03)):
        curl = rng.uniform(0.0, 0.03)
        limb((-0.04, spread, 0), (-0.09 - 0.008 * (finger in (1, 2)), 1.3 * spread, -curl), 0.009 * stout, skin)
    limb((0.0, 0.04, 0), (-0.04, 0.075, -0.01), 0.011 * stout, skin)
    along = np.array([np.cos(lift), 0, np.sin(lift)])
    wrist, elbow = 0.05 * along, 0.31 * along
    limb(wrist, 0.6 * elbow, 0.028 * stout, skin)
    limb(0.45 * elbow, elbow, 0.039 * stout, cloth if long_sleeve else skin)
    bend = lift + np.radians(rng.uniform(5, 35))
    shoulder = elbow + 0.3 * np.array([np.cos(bend), 0, np.sin(bend)])
    limb(elbow, shoulder, 0.048 * stout, cloth)
    breast, hips, head = shoulder + np.array([(0.08, 0, -0.08), (0.12, 0, -0.55), (0.05, 0, 0.17)])
    limb(breast, hips, 0.15 * stout, cloth)
    ball(head, (0.09, 0.08, 0.12), skin)


def _add(body: Any, kind: Any, size: Any, colour: np.ndarray, **where: Any) -> None:
    body.add_geom(type=kind, size=size, rgba=(*colour, 1.0), contype=0, conaffinity=0, **where)
