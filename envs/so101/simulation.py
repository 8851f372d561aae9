"""Simulation of the SO-101 at a table with a cube and a disc: MuJoCo model, start of episodes, success of tasks.

Nothing is rendered here. `SO101Env` and the twin's servos move the arm through `model` and `data`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import mujoco
import numpy as np

from tinyvla.arms.so101 import SO101

from . import CONTROL_HZ
from .arm import TIP, arm_spec

CUBE, DISC, TABLE, ROOM = "cube", "disc", "table", ("floor", "wall")
HOME = (0.0, -48.0, 30.0, 85.0, 3.0, 45.0)  # LeRobot's units; episodes start near it
SURFACE = (0.06, -0.26, 0.42, 0.26, 0.0)  # part of the table that the cameras show: x, y, x, y, z in metres
_HOME_NOISE = 2.0  # LeRobot's units, either way
_AREA = (0.17, -0.10, 0.27, 0.10)  # start of cube and disc: x and y of two corners in metres
_REACHABLE = (0.14, -0.18, 0.31, 0.18)  # the same, for starts outside of that area
_LEAST_APART, _MOST_APART = 0.085, 0.16  # metres between the centres of cube and disc
_CUBE, _DISC = 0.015, 0.032  # metres: half a side, radius
_TURN = 20.0  # degrees, either way, of the cube against the direction from the arm's base
PAN_AXIS = 0.0388  # metres from the base's origin, along x
_STEPS = 16  # physics steps per control step
_NEAR = 0.025  # metres from the centre of the disc
_LIFTED = 0.05  # metres between table and cube
_LOW = 0.035  # metres between disc and finger tips
_RESTING, _STILL = 0.05, 1.0  # m/s of the cube, rad/s of a joint: passing through the goal is not success


def build_model(fine: bool = False, furnish: Callable[[mujoco.MjSpec], None] | None = None) -> mujoco.MjModel:
    """Model with arm, table, cube, disc and the cameras `front`, `top` and `wrist`.

    All tasks share it, so that only the instruction tells them apart. The arm stands at the origin on the table, z = 0,
    and faces along x.

    Args:
        fine: see `arm_spec`.
        furnish: adds more bodies before the model is compiled.
    """
    spec = arm_spec(fine)
    spec.option.timestep = 1 / CONTROL_HZ / _STEPS
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10  # objects do not slide out of the jaws
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
    # The disc is printed on the table: nothing collides with it.
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
        spec.worldbody.add_camera(name=name, pos=position, quat=_camera_quaternion(position, target), fovy=fovy)
    (wrist,) = [camera for camera in spec.cameras if camera.name == "wrist_cam"]
    wrist.name = "wrist"


def _camera_quaternion(position: Any, target: Any) -> np.ndarray:
    """Orientation of a camera at `position` that looks at `target`; straight down, the image's top points along -x."""
    back = np.subtract(position, target)
    back = back / np.linalg.norm(back)
    right = np.cross((0, 0, 1), back)
    right = np.array((0.0, 1.0, 0.0)) if np.linalg.norm(right) < 0.2 else right / np.linalg.norm(right)
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, np.stack([right, np.cross(back, right), back], axis=1).ravel())
    return quaternion


class Simulation:
    """One task in MuJoCo: `model`, `data`, the start of its episodes and its success.

    Args:
        task: a name out of `tasks.INSTRUCTIONS`.
        fine, furnish: see `build_model`.
        cube_sides: smallest and largest side of the cube in metres, drawn anew for each episode; None: 3 cm. Its mass
            does not change.
    """

    def __init__(
        self,
        task: str,
        fine: bool = False,
        furnish: Callable[[mujoco.MjSpec], None] | None = None,
        cube_sides: Sequence[float] | None = None,
    ):
        self.task, self._cube_sides = task, cube_sides
        self.model = build_model(fine, furnish)
        self.data = mujoco.MjData(self.model)
        self._qpos = np.array([self.model.joint(joint).qposadr[0] for joint in SO101.joints])
        self._dofs = np.array([self.model.joint(joint).dofadr[0] for joint in SO101.joints])
        self._actuators = np.array([self.model.actuator(joint).id for joint in SO101.joints])
        self._jaws = [self.model.body(name).id for name in SO101.links[-2:]]

    def reset(self, rng: np.random.Generator, outside: float = 0.0, move_arm: bool = True) -> None:
        """Begin an episode.

        Randomisation: each joint of the arm is up to 2 units from `HOME`; cube and disc start anywhere in an area of
        10 by 20 cm, 8.5 to 16 cm apart; the cube is turned by up to 20 degrees.

        Args:
            rng: source of all randomness.
            outside: metres outside of that area at which cube and disc start instead.
            move_arm: False leaves the arm where it is, as a real one. Cube and disc start where they would otherwise.
        """
        start = SO101.to_radians(np.array(HOME) + rng.uniform(-_HOME_NOISE, _HOME_NOISE, len(HOME)))
        if move_arm:
            mujoco.mj_resetData(self.model, self.data)
            self._set_arm(start)
        cube, disc = self._draw_positions(rng, outside)
        if self._cube_sides is not None:
            self._resize_cube(rng.uniform(self._cube_sides[0], self._cube_sides[1]))
        turn = np.arctan2(cube[1], cube[0] - PAN_AXIS) + np.radians(rng.uniform(-_TURN, _TURN))
        pose = self.data.joint(CUBE).qpos
        pose[:3] = *cube, self.model.geom(CUBE).size[2]
        pose[3:] = np.cos(turn / 2), 0, 0, np.sin(turn / 2)
        self.data.joint(CUBE).qvel[:] = 0
        self.model.body(DISC).pos[:2] = disc
        mujoco.mj_forward(self.model, self.data)

    def place_arm(self, pose: np.ndarray) -> None:
        """Set the arm's joints to a pose in LeRobot's units, (6,)."""
        self._set_arm(SO101.to_radians(pose))
        mujoco.mj_forward(self.model, self.data)

    def _set_arm(self, angles: np.ndarray) -> None:
        self.data.qpos[self._qpos] = self.data.ctrl[self._actuators] = angles

    def _resize_cube(self, side: float) -> None:
        """Give the cube another side, in metres, with the bounding volumes that MuJoCo's collisions use."""
        model, cube, geom = self.model, self.model.body(CUBE), self.model.geom(CUBE)
        scale = side / 2 / geom.size[0]
        geom.size[:] *= scale
        geom.rbound[:] *= scale
        model.geom_aabb[geom.id] *= scale
        first = model.body_bvhadr[cube.id]
        model.bvh_aabb[first : first + model.body_bvhnum[cube.id]] *= scale

    def _draw_positions(self, rng: np.random.Generator, outside: float) -> np.ndarray:
        """Start positions of cube and disc, (2, 2) in metres."""
        low, high = np.array(_AREA[:2]), np.array(_AREA[2:])
        while True:
            positions = rng.uniform(low, high, (2, 2))
            if outside:
                for position in positions:
                    options = [
                        (axis, edge)
                        for axis in (0, 1)
                        for edge in (low[axis] - outside, high[axis] + outside)
                        if _REACHABLE[axis] <= edge <= _REACHABLE[axis + 2]
                    ]
                    axis, edge = options[rng.integers(len(options))]
                    position[axis] = edge
            most = np.inf if outside else _MOST_APART
            if _LEAST_APART <= np.linalg.norm(positions[0] - positions[1]) <= most:
                return positions

    def apply(self, action: np.ndarray) -> None:
        """Set the servos' goals, (6,) in LeRobot's units, and advance by one control step."""
        self.data.ctrl[self._actuators] = SO101.to_radians(np.asarray(action, dtype=float))
        mujoco.mj_step(self.model, self.data, _STEPS)

    def state(self) -> np.ndarray:
        """Joint positions in LeRobot's units, (6,)."""
        return SO101.from_radians(self.data.qpos[self._qpos])

    @property
    def tip(self) -> np.ndarray:
        """Point between the ends of the open jaws, (3,) in metres."""
        return self.data.site(TIP).xpos.copy()

    @property
    def cube(self) -> np.ndarray:
        """Centre of the cube, (3,) in metres."""
        return self.data.body(CUBE).xpos.copy()

    @property
    def disc(self) -> np.ndarray:
        """Centre of the disc, (3,) in metres."""
        return self.data.body(DISC).xpos.copy()

    @property
    def cube_height(self) -> float:
        """Metres between the table and the centre of the cube, less half its side."""
        return float(self.cube[2] - self.model.geom(CUBE).size[2])

    @property
    def joints_rest(self) -> bool:
        """True if no joint is faster than 1 rad/s."""
        return bool(np.abs(self.data.qvel[self._dofs]).max() < _STILL)

    def touches(self) -> tuple[bool, bool]:
        """Contact of the cube with the fixed and with the moving jaw."""
        cube, touched = self.model.body(CUBE).id, set()
        for pair in self.data.contact.geom:
            bodies = self.model.geom_bodyid[pair]
            if cube in bodies:
                touched |= set(bodies.tolist())
        return self._jaws[0] in touched, self._jaws[1] in touched

    def success(self) -> bool:
        """Return whether the task is done in the current state."""
        return _SUCCESS[self.task](self)


def _is_reached(sim: Simulation) -> bool:
    """Task `reach`: move the gripper to the disc.

    Randomisation: see `Simulation.reset`; the cube is a distractor.
    Success: the finger tips are within 2.5 cm of the disc's centre (horizontally) and less than 3.5 cm above it, and no
    joint is faster than 1 rad/s.
    """
    offset = sim.tip - sim.disc
    return bool(np.linalg.norm(offset[:2]) < _NEAR and offset[2] < _LOW and sim.joints_rest)


def _is_lifted(sim: Simulation) -> bool:
    """Task `pick-lift`: pick up the cube and lift it.

    Randomisation: see `Simulation.reset`; the disc is a distractor.
    Success: both jaws touch the cube and it is more than 5 cm above the table.
    """
    return sim.cube_height > _LIFTED and all(sim.touches())


def _is_pushed(sim: Simulation) -> bool:
    """Task `push`: push the cube onto the disc.

    Randomisation: see `Simulation.reset`.
    Success: the cube rests on the table (less than 5 mm above it, slower than 5 cm/s) within 2.5 cm of the disc's
    centre.
    """
    near = np.linalg.norm((sim.cube - sim.disc)[:2]) < _NEAR
    resting = np.linalg.norm(sim.data.joint(CUBE).qvel[:3]) < _RESTING
    return bool(near and sim.cube_height < 0.005 and resting)


def _is_placed(sim: Simulation) -> bool:
    """Task `pick-place`: pick up the cube and put it on the disc.

    Randomisation: see `Simulation.reset`.
    Success: as of `push`, and no jaw touches the cube.
    """
    return _is_pushed(sim) and not any(sim.touches())


_SUCCESS = {"reach": _is_reached, "pick-lift": _is_lifted, "pick-place": _is_placed, "push": _is_pushed}
