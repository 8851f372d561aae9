"""The arm at its table with a cube and a disc: the MuJoCo model, how episodes begin, and when a task is done.

Nothing here draws. Whoever moves the arm, `SO101Env` or a servo bus that stands in for the real one, takes `model` and
`data` from here and asks `success` how it went.
"""

from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np

from . import CONTROL_HZ, JOINTS
from .arm import TIP, Units, arm_spec

CUBE, DISC, TABLE, ROOM = "cube", "disc", "table", ("floor", "wall")
CAMERAS = ("front", "top", "wrist")
HOME = (0.0, -48.0, 30.0, 85.0, 3.0, 45.0)  # LeRobot's units
SURFACE = (0.06, -0.26, 0.42, 0.26, 0.0)  # of the table, what the cameras see
_HOME_NOISE = 2.0  # LeRobot's units, either way
_AREA = (0.17, -0.10, 0.27, 0.10)  # where cube and disc start, x and y of two corners in metres
_REACHABLE = (0.14, -0.18, 0.31, 0.18)
_APART, _NOT_FAR = 0.085, 0.16  # metres between the middles of cube and disc
_CUBE, _DISC = 0.015, 0.032  # half a side, radius, in metres
_TURN = 20.0  # degrees, either way, of the cube against the direction from the arm's base
PAN_AXIS = 0.0388  # metres in front of the base's origin
_STEPS = 16  # of physics in a control step
_NEAR = 0.025  # metres from the disc's middle
_LIFTED = 0.05  # metres between the table and the cube
_LOW = 0.035  # metres between the disc and the finger tips
_RESTING, _STILL = 0.05, 1.0  # m/s of the cube, rad/s of a joint: passing by does not count


def build_model(fine: bool = False, furnish: Callable[[mujoco.MjSpec], None] | None = None) -> mujoco.MjModel:
    """Arm, table, cube, disc and the cameras `front`, `top` and `wrist`. All tasks share it, so that words matter.

    The arm stands at the origin on the table, z = 0, and looks along x.

    fine: see `arm_spec`. furnish: adds what else is to be there.
    """
    spec = arm_spec(fine)
    spec.option.timestep = 1 / CONTROL_HZ / _STEPS
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10  # what is held does not slide
    spec.visual.headlight.ambient, spec.visual.headlight.diffuse = (0.35,) * 3, (0.45,) * 3
    spec.visual.headlight.specular = (0, 0, 0)
    spec.visual.map.znear = 0.005
    _add_room(spec)
    _add_objects(spec)
    _add_cameras(spec)
    if furnish is not None:
        furnish(spec)
    return spec.compile()


def _add_room(spec: Any) -> None:
    wood = spec.add_texture(
        name="wood", type=mujoco.mjtTexture.mjTEXTURE_2D, builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER, width=128,
        height=128, rgb1=(0.80, 0.76, 0.70), rgb2=(0.76, 0.72, 0.66),
    )  # fmt: skip
    material = spec.add_material(name="wood", texrepeat=(6, 6))
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = wood.name
    world, box, plane = spec.worldbody, mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_PLANE
    world.add_light(pos=(0.3, -0.4, 1.5), dir=(-0.1, 0.3, -1), diffuse=(0.45,) * 3, specular=(0.1,) * 3)
    world.add_geom(name=TABLE, type=box, pos=(0.2, 0, -0.02), size=(0.35, 0.45, 0.02), material="wood")
    world.add_geom(name="floor", type=plane, pos=(0, 0, -0.7), size=(3, 3, 0.1), rgba=(0.35, 0.4, 0.45, 1))
    world.add_geom(name="wall", type=box, pos=(-1.2, 0, 0.5), size=(0.02, 3, 1.5), rgba=(0.6, 0.65, 0.65, 1))


def _add_objects(spec: Any) -> None:
    cube = spec.worldbody.add_body(name=CUBE, pos=(0.2, 0.05, _CUBE))
    cube.add_freejoint(name=CUBE)
    cube.add_geom(
        name=CUBE, type=mujoco.mjtGeom.mjGEOM_BOX, size=(_CUBE,) * 3, rgba=(0.85, 0.08, 0.08, 1), mass=0.02,
        friction=(1.0, 0.05, 0.001), condim=4, solref=(0.005, 1),
    )  # fmt: skip
    # A print on the table rather than a thing: nothing touches it.
    disc = spec.worldbody.add_body(name=DISC, pos=(0.2, -0.05, 0))
    disc.add_geom(
        name=DISC, type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=(_DISC, 0.0005, 0), rgba=(0.1, 0.25, 0.9, 1),
        contype=0, conaffinity=0,
    )  # fmt: skip


def _add_cameras(spec: Any) -> None:
    for name, position, target, fovy in (
        ("front", (0.50, 0.24, 0.40), (0.22, 0.012, 0.015), 40.0),
        ("top", (0.20, 0.0, 0.62), (0.22, 0.0, 0.0), 42.0),
    ):
        spec.worldbody.add_camera(name=name, pos=position, quat=_looking(position, target), fovy=fovy)
    (wrist,) = [camera for camera in spec.cameras if camera.name == "wrist_cam"]
    wrist.name = "wrist"


def _looking(position: Any, target: Any) -> np.ndarray:
    """A camera's quaternion that looks from one point at another, with x = away from the arm's base downwards."""
    back = np.subtract(position, target)
    back = back / np.linalg.norm(back)
    right = np.cross((0, 0, 1), back)
    right = np.array((0.0, 1.0, 0.0)) if np.linalg.norm(right) < 0.2 else right / np.linalg.norm(right)
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, np.stack([right, np.cross(back, right), back], axis=1).ravel())
    return quaternion


class Simulation:
    """One task in MuJoCo: `model` and `data`, how its episodes begin, and whether it is done.

    Args:
        task: a name out of `tasks.INSTRUCTIONS`.
        fine, furnish: see `build_model`.
    """

    def __init__(self, task: str, fine: bool = False, furnish: Callable[[mujoco.MjSpec], None] | None = None):
        self.task = task
        self.model = build_model(fine, furnish)
        self.data = mujoco.MjData(self.model)
        self.units = Units.of(self.model)
        self._joints = np.array([self.model.joint(joint).qposadr[0] for joint in JOINTS])
        self._speeds = np.array([self.model.joint(joint).dofadr[0] for joint in JOINTS])
        self._motors = np.array([self.model.actuator(joint).id for joint in JOINTS])
        self._jaws = [self.model.body(name).id for name in ("gripper", "moving_jaw_so101_v1")]

    def reset(self, rng: np.random.Generator, outside: float = 0.0, move_arm: bool = True) -> None:
        """Begin an episode: the arm about `HOME`, cube and disc at random places on the table.

        outside: metres beyond the usual range at which cube and disc start. move_arm: False leaves the arm where it
        is, as a real one would stay; cube and disc lie where they would otherwise.
        """
        start = self.units.to_radians(np.array(HOME) + rng.uniform(-_HOME_NOISE, _HOME_NOISE, len(HOME)))
        if move_arm:
            mujoco.mj_resetData(self.model, self.data)
            self._put_arm(start)
        cube, disc = self._places(rng, outside)
        turn = np.arctan2(cube[1], cube[0] - PAN_AXIS) + np.radians(rng.uniform(-_TURN, _TURN))
        pose = self.data.joint(CUBE).qpos
        pose[:3] = *cube, self.model.geom(CUBE).size[2]
        pose[3:] = np.cos(turn / 2), 0, 0, np.sin(turn / 2)
        self.data.joint(CUBE).qvel[:] = 0
        self.model.body(DISC).pos[:2] = disc
        mujoco.mj_forward(self.model, self.data)

    def place_arm(self, pose: np.ndarray) -> None:
        """Put the arm's joints at a pose in LeRobot's units, (6,)."""
        self._put_arm(self.units.to_radians(pose))
        mujoco.mj_forward(self.model, self.data)

    def _put_arm(self, angles: np.ndarray) -> None:
        self.data.qpos[self._joints] = self.data.ctrl[self._motors] = angles

    def _places(self, rng: np.random.Generator, outside: float) -> np.ndarray:
        """Where cube and disc start, (2, 2) in metres."""
        low, high = np.array(_AREA[:2]), np.array(_AREA[2:])
        while True:
            places = rng.uniform(low, high, (2, 2))
            if outside:
                for place in places:
                    options = [
                        (axis, edge)
                        for axis in (0, 1)
                        for edge in (low[axis] - outside, high[axis] + outside)
                        if _REACHABLE[axis] <= edge <= _REACHABLE[axis + 2]
                    ]
                    axis, edge = options[rng.integers(len(options))]
                    place[axis] = edge
            if _APART <= np.linalg.norm(places[0] - places[1]) <= (_NOT_FAR if not outside else np.inf):
                return places

    def apply(self, action: np.ndarray) -> None:
        """Have the servos go for joint positions in LeRobot's units, (6,), and advance by one control step."""
        self.data.ctrl[self._motors] = self.units.to_radians(np.asarray(action, dtype=float))
        mujoco.mj_step(self.model, self.data, _STEPS)

    def state(self) -> np.ndarray:
        """Joint positions in LeRobot's units, (6,)."""
        return self.units.from_radians(self.data.qpos[self._joints])

    @property
    def tip(self) -> np.ndarray:
        """The middle between the ends of the open jaws, (3,) in metres."""
        return self.data.site(TIP).xpos.copy()

    @property
    def cube(self) -> np.ndarray:
        """The cube's middle, (3,) in metres."""
        return self.data.body(CUBE).xpos.copy()

    @property
    def disc(self) -> np.ndarray:
        """The disc's middle, (3,) in metres."""
        return self.data.body(DISC).xpos.copy()

    @property
    def cube_height(self) -> float:
        """Metres between the table and the cube's middle, less half its side."""
        return float(self.cube[2] - self.model.geom(CUBE).size[2])

    def touches(self) -> tuple[bool, bool]:
        """Whether the fixed and the moving jaw touch the cube."""
        cube, touched = self.model.body(CUBE).id, set()
        for pair in self.data.contact.geom:
            bodies = self.model.geom_bodyid[pair]
            if cube in bodies:
                touched |= set(bodies.tolist())
        return self._jaws[0] in touched, self._jaws[1] in touched

    def success(self) -> bool:
        """Whether the task is done, as things are now."""
        return _SUCCESS[self.task](self)


def _reached(sim: Simulation) -> bool:
    away = sim.tip - sim.disc
    resting = np.abs(sim.data.qvel[sim._speeds]).max() < _STILL
    return bool(np.linalg.norm(away[:2]) < _NEAR and away[2] < _LOW and resting)


def _lifted(sim: Simulation) -> bool:
    return sim.cube_height > _LIFTED and all(sim.touches())


def _on_disc(sim: Simulation) -> bool:
    near = np.linalg.norm((sim.cube - sim.disc)[:2]) < _NEAR
    resting = np.linalg.norm(sim.data.joint(CUBE).qvel[:3]) < _RESTING
    return bool(near and sim.cube_height < 0.005 and resting)


def _placed(sim: Simulation) -> bool:
    return _on_disc(sim) and not any(sim.touches())


_SUCCESS = {"reach": _reached, "pick-lift": _lifted, "pick-place": _placed, "push": _on_disc}
