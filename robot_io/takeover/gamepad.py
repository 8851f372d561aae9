"""A gamepad that moves the arm's hand: through LeRobot's `gamepad` teleoperator, and the SO-101's kinematics."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mujoco
import numpy as np
from lerobot.teleoperators import Teleoperator
from lerobot.teleoperators.utils import TeleopEvents

from tinyvla.errors import UserError

from ..safety.geometry import model_file

_SPEED = 0.12  # m/s of the hand with a stick at its end
_JAW_SPEED = 80.0  # LeRobot's units/s: 0 is closed, 100 open
_LONGEST_S = 0.1  # a step after a longer pause is one of that length
_DAMPING = 0.03  # metres a radian, where the arm is stretched and would have to turn fast
_CLOSE, _OPEN = 0, 2  # LeRobot's gripper commands


class GamepadOperator:
    """While the pad's RB button is held the person has taken over: the left stick moves the hand forwards, backwards
    and sideways, the right one up and down, and the triggers work the gripper. The hand keeps its tilt and its roll.
    """

    def __init__(self, pad: Teleoperator, joints: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        """Raises UserError for an arm whose geometry is not known."""
        self._pad, self._hand, self._clock = pad, Hand(joints), clock
        self._keys = [f"{joint}.pos" for joint in joints]
        self._pose: np.ndarray | None = None
        self._then = 0.0

    def __call__(self, observation: Mapping[str, Any]) -> np.ndarray | None:
        if not self._pad.get_teleop_events()[TeleopEvents.IS_INTERVENTION]:
            self._pose = None
            return None
        now = self._clock()
        if self._pose is None:  # taken over just now, from where the arm is
            self._pose, self._then = np.array([observation[key] for key in self._keys], dtype=float), now
        dt, self._then = min(now - self._then, _LONGEST_S), now
        action = self._pad.get_action()
        stick = np.array([action[f"delta_{axis}"] for axis in "xyz"], dtype=float)
        self._pose = self._hand.moved(self._pose, dt * _SPEED * np.clip(stick, -1, 1))
        jaw = (action["gripper"] == _OPEN) - float(action["gripper"] == _CLOSE)
        self._pose[-1] = np.clip(self._pose[-1] + jaw * _JAW_SPEED * dt, 0, 100)
        return self._pose.copy()

    def keys(self) -> dict[str, Callable[[], object]]:
        return {}


class Hand:
    """Where an SO-101's hand goes when its joints turn."""

    def __init__(self, joints: Sequence[str]) -> None:
        """Raises UserError for an arm that is none."""
        spec = mujoco.MjSpec.from_file(str(model_file()))
        for part in [*spec.geoms, *spec.meshes]:
            part.delete()
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        names = [self._model.joint(index).name for index in range(self._model.njnt)]
        if list(joints) != names:
            raise UserError(
                "takeover.type=gamepad knows only the SO-101's geometry; use keyboard, or the leader of this arm"
            )
        self._site = self._model.site("gripperframe").id
        self._low, self._high = np.degrees(self._model.jnt_range[:4]).T
        self._jacobian = np.zeros((2, 3, self._model.nv))

    def at(self, pose: np.ndarray) -> np.ndarray:
        """The hand's position in metres in the base's frame, (3,), at a pose in LeRobot's units, (6,)."""
        self._data.qpos[:5] = np.radians(pose[:5])  # the jaw moves nothing here
        mujoco.mj_kinematics(self._model, self._data)
        return self._data.site_xpos[self._site].copy()

    def moved(self, pose: np.ndarray, by: np.ndarray) -> np.ndarray:
        """The pose, (6,), whose hand is further by (3,) metres, as far as the arm reaches, and tilted as before."""
        self.at(pose)
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_jacSite(self._model, self._data, *self._jacobian, self._site)
        tilt = self._data.xaxis[3] @ self._jacobian[1]  # about the wrist's axis, radians a radian
        reach = np.vstack([self._jacobian[0], _SPEED * tilt])[:, :4]  # wrist roll and jaw stay
        wanted = np.append(by, 0.0)
        turn = reach.T @ np.linalg.solve(reach @ reach.T + _DAMPING**2 * np.eye(4), wanted)
        result = pose.copy()
        result[:4] = np.clip(pose[:4] + np.degrees(turn), self._low, self._high)
        return result
