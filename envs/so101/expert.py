"""Scripted experts: the next waypoint of the finger tips, and the joint positions that reach it (IK by mink)."""

from typing import NamedTuple

import mink
import numpy as np

from tinyvla.arms.so101 import SO101

from . import CONTROL_HZ
from .arm import TIP, skeleton_spec
from .simulation import PAN_AXIS, Simulation

_SPEED = np.radians(45.0)  # per second, of each joint
_STEP = 0.004  # metres per control step, of the jaws
_GRIP_STEP = 8.0  # gripper units between jaws and goal, which also sets the force of the grip
_OPEN, _CLOSED, _PUSHING = 45.0, 0.0, 10.0  # gripper units
_ABOVE = 0.075  # metres over the table at which the jaws travel
_GRASP = 0.012  # metres over the table at which they hold and push the cube
_LIFT = 0.09  # metres over the table to which they lift it
_ALIGNED = 0.008  # metres to the side at which they may move down
_ON_DISC = 0.018  # metres between the centres of cube and disc
_BROAD = 0.015  # metres from `tip` to the centre of the jaws when they push
_BEHIND = 0.038  # metres from the cube's centre to theirs before they push


class Waypoint(NamedTuple):
    """Goal of the finger tips.

    position: (3,) in metres. gripper: LeRobot's units. yaw: radians about the vertical, the direction from the fixed to
    the moving jaw; None: straight away from the base.
    """

    position: np.ndarray
    gripper: float
    yaw: float | None = None


class Expert:
    """Expert for one task. It decides from the current state alone, so it recovers from any disturbance.

    It reads cube and disc from the simulation; observations do not contain them.
    """

    def __init__(self, sim: Simulation):
        self._sim = sim
        arm = skeleton_spec().compile()
        self._configuration = mink.Configuration(arm)
        self._tip = mink.FrameTask(TIP, "site", position_cost=1.0, orientation_cost=0.03, lm_damping=1e-4)
        speeds = dict.fromkeys(SO101.joints, _SPEED)
        self._limits = [mink.ConfigurationLimit(arm), mink.VelocityLimit(arm, speeds)]

    def action(self) -> np.ndarray:
        """Goal joint positions in LeRobot's units, (6,): one control step closer to the next waypoint."""
        waypoint = _PLANS[self._sim.task](self._sim)
        distance = waypoint.position - self._sim.tip
        step = distance * min(1.0, _STEP / max(float(np.linalg.norm(distance)), 1e-9))
        waypoint = waypoint._replace(position=self._sim.tip + step)
        state = self._sim.state()
        self._configuration.update(SO101.to_radians(state))
        self._tip.set_target(_pose(waypoint))
        velocity = mink.solve_ik(
            self._configuration, [self._tip], 1 / CONTROL_HZ, solver="daqp", damping=1e-4, limits=self._limits
        )
        goal = SO101.from_radians(self._configuration.q + velocity / CONTROL_HZ)
        goal[5] = state[5] + np.clip(waypoint.gripper - state[5], -_GRIP_STEP, _GRIP_STEP)
        return goal


def _pose(waypoint: Waypoint) -> mink.SE3:
    """Frame of the tip when the gripper points straight down."""
    x, y, _ = waypoint.position
    yaw = np.arctan2(y, x - PAN_AXIS) if waypoint.yaw is None else waypoint.yaw
    return mink.SE3.from_rotation_and_translation(mink.SO3.from_z_radians(yaw), waypoint.position)


def _at(position: np.ndarray, height: float) -> np.ndarray:
    return np.array([position[0], position[1], height])


def _reach(sim: Simulation) -> Waypoint:
    return Waypoint(_at(sim.disc, 0.02), _OPEN)


def _cube_yaw(sim: Simulation) -> float:
    """Direction of the side of the cube that is nearest to straight away from the base, radians."""
    axis = sim.data.body("cube").xmat.reshape(3, 3)[:, 0]
    outward = np.arctan2(sim.cube[1], sim.cube[0] - PAN_AXIS)
    turn = np.arctan2(axis[1], axis[0]) - outward
    return outward + (turn + np.pi / 4) % (np.pi / 2) - np.pi / 4


def _grasp(sim: Simulation) -> Waypoint:
    """Move over the cube, down, and close."""
    cube, tip, yaw = sim.cube, sim.tip, _cube_yaw(sim)
    aside = np.linalg.norm((tip - cube)[:2])
    low = tip[2] < _GRASP + 0.008
    if low and (aside < _ALIGNED or (any(sim.touches()) and aside < 0.02)):
        return Waypoint(_at(tip, _GRASP), _CLOSED, yaw)
    over = aside < _ALIGNED or (aside < 2 * _ALIGNED and tip[2] < 0.05)
    return Waypoint(_at(cube, _GRASP if over else _ABOVE), _OPEN, yaw)


def _pick_lift(sim: Simulation) -> Waypoint:
    if all(sim.touches()):
        return Waypoint(_at(sim.tip, _LIFT), _CLOSED)
    return _grasp(sim)


def _pick_place(sim: Simulation) -> Waypoint:
    """Grasp, move up, over the disc, down, open, and move up."""
    tip, to_disc = sim.tip, (sim.disc - sim.cube) * (1, 1, 0)
    aside, height = np.linalg.norm(to_disc), sim.cube_height
    if not all(sim.touches()):
        placed = aside < _ON_DISC and height < 0.01
        return Waypoint(_at(tip, _ABOVE), _OPEN) if placed else _grasp(sim)
    if aside < _ON_DISC and height < 0.004:
        return Waypoint(tip, _OPEN)
    if aside < _ALIGNED:
        return Waypoint(_at(tip + to_disc, _GRASP), _CLOSED)
    carrying = height > 0.04 or (aside < 3 * _ALIGNED and height > 0.01)
    return Waypoint(_at(tip + to_disc if carrying else tip, _ABOVE), _CLOSED)


def _push(sim: Simulation) -> Waypoint:
    """Move behind the cube, down, and forward with the broad side of the jaws."""
    cube, disc, tip = sim.cube, sim.disc, sim.tip
    forward = (disc - cube) * (1, 1, 0)
    distance = np.linalg.norm(forward)
    forward = forward / max(distance, 1e-6)
    across = np.array((-forward[1], forward[0], 0))
    outward = np.array((tip[0] - PAN_AXIS, tip[1], 0))
    across = across if across @ outward > 0 else -across
    yaw = float(np.arctan2(across[1], across[0]))
    if distance < _ON_DISC:
        return Waypoint(tip, _PUSHING, yaw)
    jaws = tip - _BROAD * across
    behind, beside = (cube - jaws) @ forward, (cube - jaws) @ across
    if tip[2] < 0.03 and 0 < behind < 1.5 * _BEHIND and abs(beside) < 0.012:
        return Waypoint(_at(tip + distance * forward + beside * across, _GRASP), _PUSHING, yaw)
    start = cube - _BEHIND * forward + _BROAD * across
    over = np.linalg.norm((tip - start)[:2]) < _ALIGNED
    near = np.linalg.norm((tip - cube)[:2]) < 0.06
    if not over and near and tip[2] < _ABOVE - 0.02:
        return Waypoint(_at(tip, _ABOVE), _PUSHING, yaw)
    return Waypoint(_at(start, _GRASP if over else _ABOVE), _PUSHING, yaw)


_PLANS = {"reach": _reach, "pick-lift": _pick_lift, "pick-place": _pick_place, "push": _push}
