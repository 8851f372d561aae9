"""Command sources of the control loop: a policy, and the slow path to a pose."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from lerobot.utils.constants import OBS_IMAGES, OBS_STATE

from policies import Runner, RunnerConfig
from policies.loading import load_runner
from tinyvla.errors import UserError
from tinyvla.machine import count_cores

from ..safety import SafetyLimits
from .policy_server import ServerAccess

# Of a minimum-jerk motion over a distance d in time T: greatest speed 1.875 d/T, greatest acceleration 5.774 d/T^2.
_SPEED, _ACCELERATION = 1.875, 5.774
_SETTLE_S = 0.2  # seconds at the goal until it counts as reached
_NEAR = 6.0  # LeRobot's units: an arm this close to a pose has reached it
_BEHIND = 12.0  # LeRobot's units: the path waits for an arm that is further behind
_PATIENCE = 3.0  # greatest time on a path, as a multiple of its duration plus one second
_HANGING_S = 5.0  # seconds without a chunk after which a policy counts as hanging

# Person who may take over: from an observation to the pose they ask for, (joints,); None while the policy acts.
Operator = Callable[[Mapping[str, Any]], np.ndarray | None]


class EpisodeSource(Protocol):
    """Source of an episode's commands, such as `ArmPolicy`.

    Attributes:
        policy_pose: the source's own command in the last tick, (joints,).
        taken_over: True if a person's pose was returned instead.
        is_person: True if a person steers, whose first pose may change while the arm is brought there.
        held_ticks: ticks so far in which a command was repeated for want of a new one.
    """

    policy_pose: np.ndarray | None
    taken_over: bool
    is_person: bool

    @property
    def held_ticks(self) -> int: ...

    def begin(self, instruction: str, seed: int, observation: Mapping[str, Any]) -> np.ndarray:
        """Begin an episode; its first pose, (joints,)."""

    def command(self, observation: Mapping[str, Any]) -> np.ndarray | None:
        """Pose for this tick, (joints,); None: the watchdog holds the arm."""


def load_arm_runner(
    checkpoint: Path | str,
    device: str = "auto",
    config: RunnerConfig | None = None,
    server: ServerAccess | None = None,
) -> Runner:
    """Load a policy that computes its chunks beside the control loop, for which it leaves a core free.

    Args:
        config: runtime and denoising of the policy; without effect on a server.
        server: policy server to compute on instead of this machine; `checkpoint` is then a name in the folder that it
            serves, and `device` is the server's own.

    Raises UserError for a checkpoint that cannot be loaded, or a server that does not answer or refuses it.
    """
    if server is not None:
        return server.connect(str(checkpoint))
    torch.set_num_threads(max(1, count_cores() - 1))
    device_name = None if device == "auto" else device
    config = replace(config or RunnerConfig(), asynchronous=True, latency_steps=None)
    return load_runner(checkpoint, device_name, config)


class ArmPolicy:
    """Policy, and the person who may take over from it, as a command source; `begin` each episode first.

    The policy goes on predicting while a person has taken over, so that it is up to date when they let go. Where the
    next chunk is late there is no pose, so that the watchdog holds the arm; a policy that hangs is an error.

    Args:
        runner: of the policy.
        joints, rate_hz: of the arm and its control loop.
        operator: person who may take over.
        switched: called whenever the person takes over or lets go, as the other one's pose may be far away.

    Attributes:
        policy_pose: the policy's command in the last tick, (joints,).
        taken_over: True if the operator's pose was returned instead.
    """

    is_person = False

    def __init__(
        self,
        runner: Runner,
        joints: Sequence[str],
        rate_hz: float,
        operator: Operator | None = None,
        switched: Callable[[], object] = lambda: None,
    ) -> None:
        self.runner, self.operator, self._switched = runner, operator, switched
        self.policy_pose: np.ndarray | None = None
        self.taken_over = False
        self._keys = [f"{joint}.pos" for joint in joints]
        self._cameras = list(runner.cameras)
        self._instruction = ""
        self._first_action: np.ndarray | None = None
        self._max_held = round(_HANGING_S * rate_hz)
        self._held = 0  # ticks in a row without a chunk

    @property
    def held_ticks(self) -> int:
        """Ticks so far in which an action was repeated because the next chunk was late."""
        return self.runner.held

    def begin(self, instruction: str, seed: int, observation: Mapping[str, Any]) -> np.ndarray:
        """Begin an episode and wait for its first chunk. Returns the first action, (joints,)."""
        self._instruction = instruction
        self.runner.reset(seed)
        self.policy_pose, self.taken_over, self._held = None, False, 0
        self._first_action = self.runner.act(self._policy_observation(observation))
        return self._first_action

    def command(self, observation: Mapping[str, Any]) -> np.ndarray | None:
        """Pose for this tick, (joints,). Raises UserError for a policy that hangs, and what it or the person raises."""
        if self._first_action is not None:
            self.policy_pose, self._first_action = self._first_action, None
        else:
            held_before = self.held_ticks
            needs_observation = self.runner.needs_observation
            self.policy_pose = self.runner.act(self._policy_observation(observation) if needs_observation else None)
            self._held = self._held + 1 if self.held_ticks > held_before else 0
        if self._held > self._max_held:
            raise UserError(
                f"the policy has put out nothing new for {_HANGING_S:.0f} s; look at what else this machine, or its "
                "policy server, is busy with"
            )
        operator_pose = self.operator(observation) if self.operator is not None else None
        if self.taken_over != (operator_pose is not None):
            self._switched()
        self.taken_over = operator_pose is not None
        if operator_pose is not None:
            return operator_pose
        return self.policy_pose if self._held == 0 else None

    def _policy_observation(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """Convert an observation of LeRobot to that of `Runner`."""
        images = {f"{OBS_IMAGES}.{camera}": observation[camera] for camera in self._cameras}
        state = np.array([observation[key] for key in self._keys], np.float32)
        return images | {OBS_STATE: state, "task": self._instruction}


class SlowPath:
    """Straight minimum-jerk path in joint space to a pose, as a command source.

    It waits for an arm that is held up, so that the arm has no distance to make up for at full speed. It does not wait
    for a gripper, which an object may hold open.

    Args:
        start, goal: (joints,) in LeRobot's units.
        share: of the limits of speed and acceleration that is used.
        give_up_s: seconds without progress after which the path is done.
        clock: of monotonic seconds.

    Attributes:
        seconds: greatest time that the path may take.
    """

    def __init__(
        self,
        start: np.ndarray,
        goal: np.ndarray,
        limits: SafetyLimits,
        share: float,
        give_up_s: float = np.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        joints = limits.joints.values()
        speeds = share * np.array([joint.speed for joint in joints])
        accelerations = share * np.array([joint.acceleration for joint in joints])
        self.goal = np.array(goal, dtype=float)
        self._start = self._pose = np.array(start, dtype=float)
        distance = np.abs(self.goal - self._start)
        durations = [_SPEED * distance / speeds, np.sqrt(_ACCELERATION * distance / accelerations)]
        self._duration = float(np.max(durations))
        self.seconds = _PATIENCE * (self._duration + 1)
        self._keys = [f"{joint}.pos" for joint in limits.joints]
        self._moves = ~np.array(limits.grips)
        self._max_step_s = 2 / limits.rate_hz
        self._give_up_s, self._clock = give_up_s, clock
        self._last_time: float | None = None
        self._moved_s = self._waited_s = 0.0
        self._done = False

    def command(self, observation: Mapping[str, Any]) -> np.ndarray:
        """Pose for this tick, (joints,)."""
        now = self._clock()
        position = np.array([observation[key] for key in self._keys], dtype=float)
        step = 0.0 if self._last_time is None else min(now - self._last_time, self._max_step_s)
        self._last_time = now
        settled = self._moved_s >= self._duration + _SETTLE_S
        if settled or self._distance(position, self._pose) >= _BEHIND:
            self._waited_s += step
        else:
            self._moved_s, self._waited_s = self._moved_s + step, 0.0
        time_share = min(self._moved_s / self._duration, 1.0) if self._duration > 0 else 1.0
        way_share = time_share**3 * (10 - 15 * time_share + 6 * time_share**2)
        self._pose = self._start + way_share * (self.goal - self._start)
        arrived = settled and self._distance(position, self.goal) < _NEAR / 2
        self._done = arrived or self._waited_s >= self._give_up_s
        return self._pose

    def _distance(self, position: np.ndarray, pose: np.ndarray) -> float:
        return float(np.abs(position - pose)[self._moves].max(initial=0.0))

    def is_done(self) -> bool:
        """True if the arm was at the goal in the last tick, or made no progress for `give_up_s`."""
        return self._done


def check_arrived(position: np.ndarray, goal: np.ndarray, limits: SafetyLimits) -> None:
    """Raise UserError if an arm is not at a pose: something, or its safety limits, kept it from there."""
    distance = np.where(limits.grips, 0.0, np.abs(position - goal))
    joint = int(distance.argmax())
    if distance[joint] > _NEAR:
        raise UserError(
            f"the arm did not come to the pose that it was sent to: {list(limits.joints)[joint]} is at "
            f"{position[joint]:.0f} instead of {goal[joint]:.0f}; clear its way, or change start_pose"
        )


def check_unmoved(position: np.ndarray, sent: np.ndarray | None, limits: SafetyLimits) -> None:
    """Raise UserError if an arm that holds a pose is read far from it: the reading is wrong, or the arm was forced.

    A motion that started from there would begin with a jump.

    Args:
        sent: the pose, (joints,); None if it does not hold any yet.
    """
    if sent is None:
        return
    distance = np.where(limits.grips, 0.0, np.abs(position - sent))
    joint = int(distance.argmax())
    if distance[joint] > limits.servo.lag:
        raise UserError(
            f"{list(limits.joints)[joint]} reads {position[joint]:.0f} but the arm was left at {sent[joint]:.0f}; "
            "clear its way and check its cable, then run the command again"
        )
