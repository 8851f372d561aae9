"""Gamepad that moves the arm's hand, through LeRobot's `gamepad` teleoperator and the SO-101's kinematics."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mujoco
import numpy as np
from lerobot.teleoperators import Teleoperator
from lerobot.teleoperators.utils import TeleopEvents

from tinyvla.arms.so101 import SO101
from tinyvla.errors import UserError

_SPEED = 0.12  # m/s of the hand with a stick at its end
_JAW_SPEED = 80.0  # LeRobot's units/s: 0 is closed, 100 open
_MAX_STEP_S = 0.1  # a step after a longer pause is one of this length
_DAMPING = 0.03  # metres per radian, where the arm is stretched and would have to turn fast
_CLOSE, _OPEN = 0, 2  # LeRobot's gripper commands


class GamepadOperator:
    """Gamepad: while its RB button is held, the person has taken over.

    The left stick moves the hand forwards, backwards and sideways, the right one up and down, and the triggers work the
    gripper. The hand keeps its tilt and its roll. Raises UserError for an arm whose geometry is not known.
    """

    def __init__(self, pad: Teleoperator, joints: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._pad: Any = pad  # LeRobot's base class does not declare the events
        self._hand, self._clock = HandKinematics(joints), clock
        self._keys = [f"{joint}.pos" for joint in joints]
        self._pose: np.ndarray | None = None
        self._last_time = 0.0

    def __call__(self, observation: Mapping[str, Any]) -> np.ndarray | None:
        if not self._pad.get_teleop_events()[TeleopEvents.IS_INTERVENTION]:
            self._pose = None
            return None
        now = self._clock()
        if self._pose is None:  # taken over just now, from the arm's pose
            self._pose, self._last_time = np.array([observation[key] for key in self._keys], dtype=float), now
        dt, self._last_time = min(now - self._last_time, _MAX_STEP_S), now
        action = self._pad.get_action()
        stick = np.array([action[f"delta_{axis}"] for axis in "xyz"], dtype=float)
        self._pose = self._hand.moved(self._pose, dt * _SPEED * np.clip(stick, -1, 1))
        jaw = (action["gripper"] == _OPEN) - float(action["gripper"] == _CLOSE)
        self._pose[-1] = np.clip(self._pose[-1] + jaw * _JAW_SPEED * dt, 0, 100)
        return self._pose.copy()

    def keys(self) -> dict[str, Callable[[], object]]:
        return {}


class HandKinematics:
    """Forward and differential inverse kinematics of an SO-101's hand.

    Raises UserError for the joints of another arm.
    """

    def __init__(self, joints: Sequence[str]) -> None:
        if tuple(joints) != SO101.joints:
            raise UserError(
                "takeover.type=gamepad knows only the SO-101's geometry; use keyboard, or the leader of this arm"
            )
        spec = mujoco.MjSpec.from_file(str(SO101.mjcf()))
        for element in [*spec.geoms, *spec.meshes]:
            element.delete()
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        self._site = self._model.site("gripperframe").id
        self._low, self._high = np.degrees(self._model.jnt_range[:4]).T
        self._jacobian = np.zeros((2, 3, self._model.nv))

    def at(self, pose: np.ndarray) -> np.ndarray:
        """Position of the hand in metres in the base's frame, (3,), at a pose in LeRobot's units, (6,)."""
        self._data.qpos[:5] = np.radians(pose[:5])  # the jaw moves nothing here
        mujoco.mj_kinematics(self._model, self._data)
        return self._data.site_xpos[self._site].copy()

    def moved(self, pose: np.ndarray, by: np.ndarray) -> np.ndarray:
        """Pose, (6,), with the hand moved by (3,) metres, as far as the arm reaches, and tilted as before."""
        self.at(pose)
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_jacSite(self._model, self._data, *self._jacobian, self._site)
        tilt = self._data.xaxis[3] @ self._jacobian[1]  # about the wrist's axis, radians per radian
        task = np.vstack([self._jacobian[0], _SPEED * tilt])[:, :4]  # wrist roll and jaw stay
        task_step = np.append(by, 0.0)
        turn = task.T @ np.linalg.solve(task @ task.T + _DAMPING**2 * np.eye(4), task_step)
        result = pose.copy()
        result[:4] = np.clip(pose[:4] + np.degrees(turn), self._low, self._high)
        return result
