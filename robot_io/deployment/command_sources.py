"""Command sources of the control loop: a policy, and the slow path to a pose."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.utils.constants import OBS_IMAGES, OBS_STATE

from policies import PolicyRunner
from tinyvla.errors import UserError

from ..safety import SafetyLimits
from .checks import cameras_of

# Of a minimum-jerk motion over a distance d in time T: greatest speed 1.875 d/T, greatest acceleration 5.774 d/T^2.
_SPEED, _ACCELERATION = 1.875, 5.774
_SETTLE_S = 0.2  # at the goal before it counts as reached
NEAR = 6.0  # LeRobot's units: an arm that has come so close to a pose is there
_BEHIND = 12.0  # LeRobot's units: the way waits for an arm that is further behind
_PATIENCE = 3.0  # times its duration, and so many seconds more, that a way may take
_GIVE_UP_S = 5.0  # seconds without a chunk after which a policy counts as hanging

# A person who may take over: from an observation to the pose they want, (joints,); None while the policy is to act.
Operator = Callable[[Mapping[str, Any]], np.ndarray | None]


def load_runner(checkpoint: Path | str, device: str = "auto", server: str | None = None, **how: Any) -> PolicyRunner:
    """A policy that computes its chunks beside the control loop, for which it leaves a core.

    server: host:port of a policy server to compute on in place of this machine, see `policies.remote`.
    how: see `policies.runtimes.adapt_policy`; of no effect on a server.
    Raises UserError for a checkpoint that cannot be loaded, or a server that does not.
    """
    if server is not None:
        from policies.remote import RemoteRunner  # needs gRPC

        return RemoteRunner.connect(checkpoint, server, "cuda" if device == "auto" else device)
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) - 1))
    where = None if device == "auto" else device
    return PolicyRunner.from_checkpoint(checkpoint, where, asynchronous=True, latency_steps=None, **how)


class ArmPolicy:
    """For `ControlLoop.policy`; `begin` each episode first.

    The policy goes on predicting while a person has taken over, so that it is up to date when they let go. Where the
    next chunk is late there is no pose, so that the watchdog holds the arm; a policy that hangs is an error.

    policy_pose: the policy's command of the last tick. taken_over: whether a person's pose was returned in its place.
    """

    def __init__(
        self, runner: PolicyRunner, joints: Sequence[str], rate_hz: float, operator: Operator | None = None
    ) -> None:
        self.runner, self.operator = runner, operator
        self.policy_pose: np.ndarray | None = None
        self.taken_over = False
        self._keys = [f"{joint}.pos" for joint in joints]
        self._cameras = list(cameras_of(runner))
        self._instruction = ""
        self._first: np.ndarray | None = None
        self._most_held = round(_GIVE_UP_S * rate_hz)
        self._held = 0  # ticks in a row without a chunk

    def begin(self, instruction: str, seed: int, observation: Mapping[str, Any]) -> np.ndarray:
        """Begin an episode and wait for its first chunk; the action that it begins with, (joints,)."""
        self._instruction = instruction
        self.runner.reset(seed)
        self.policy_pose, self.taken_over, self._held = None, False, 0
        self._first = self.runner.act(self._seen(observation))
        return self._first

    def __call__(self, observation: Mapping[str, Any]) -> np.ndarray | None:
        """Raises UserError for a policy that hangs, and what it and the person raise."""
        if self._first is not None:
            self.policy_pose, self._first = self._first, None
        else:
            before = held_ticks(self.runner)
            self.policy_pose = self.runner.act(self._seen(observation) if self.runner.needs_observation else None)
            self._held = self._held + 1 if held_ticks(self.runner) > before else 0
        if self._held > self._most_held:
            raise UserError(
                f"the policy has put out nothing new for {_GIVE_UP_S:.0f} s; look at what else this machine, or its "
                "policy server, is busy with"
            )
        taken = self.operator(observation) if self.operator is not None else None
        self.taken_over = taken is not None
        if taken is not None:
            return taken
        return self.policy_pose if self._held == 0 else None

    def _seen(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """An observation as `PolicyRunner` takes it."""
        pictures = {f"{OBS_IMAGES}.{camera}": observation[camera] for camera in self._cameras}
        state = np.array([observation[key] for key in self._keys], np.float32)
        return pictures | {OBS_STATE: state, "task": self._instruction}


def held_ticks(runner: PolicyRunner) -> int:
    """Actions so far that had to be held for want of a chunk."""
    return getattr(runner, "held", 0)


class SlowPath:
    """A straight way in joint space with minimum jerk, for `ControlLoop.policy` and `ControlLoop.done`.

    It waits for an arm that is held up, so that this has no distance to make up for at full speed.

    seconds: the most that it may take.
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
        """
        Args:
            start, goal: (joints,) in LeRobot's units.
            share: of the limits of speed and acceleration that is used.
            give_up_s: an arm that has been held up for so long need not go on.
        """
        speeds, accelerations = (
            share * np.array([getattr(joint, what) for joint in limits.joints.values()])
            for what in ("speed", "acceleration")
        )
        self.goal = np.array(goal, dtype=float)
        self._start = self._pose = np.array(start, dtype=float)
        distance = np.abs(self.goal - self._start)
        durations = [_SPEED * distance / speeds, np.sqrt(_ACCELERATION * distance / accelerations)]
        self._moving = float(np.max(durations))
        self.seconds = _PATIENCE * (self._moving + 1)
        self._keys = [f"{joint}.pos" for joint in limits.joints]
        self._longest_step = 2 / limits.rate_hz
        self._give_up_s, self._clock = give_up_s, clock
        self._then: float | None = None
        self._passed = self._waited = 0.0
        self._done = False

    def __call__(self, observation: Mapping[str, Any]) -> np.ndarray:
        now = self._clock()
        position = np.array([observation[key] for key in self._keys], dtype=float)
        step = 0.0 if self._then is None else min(now - self._then, self._longest_step)
        self._then = now
        settled = self._passed >= self._moving + _SETTLE_S
        if settled or np.abs(position - self._pose).max() >= _BEHIND:
            self._waited += step
        else:
            self._passed, self._waited = self._passed + step, 0.0
        at = min(self._passed / self._moving, 1.0) if self._moving > 0 else 1.0
        share = at**3 * (10 - 15 * at + 6 * at**2)
        self._pose = self._start + share * (self.goal - self._start)
        there = settled and bool(np.abs(position - self.goal).max() < NEAR / 2)
        self._done = there or self._waited >= self._give_up_s
        return self._pose

    def done(self) -> bool:
        """Whether the arm was at the goal in the last tick, or need not go on."""
        return self._done


def check_arrived(position: np.ndarray, goal: np.ndarray, limits: SafetyLimits) -> None:
    """Raise UserError if an arm is not at a pose: something, or its safety limits, kept it from there."""
    away = np.abs(position - goal)
    joint = int(away.argmax())
    if away[joint] > NEAR:
        raise UserError(
            f"the arm did not come to the pose that it was sent to: {list(limits.joints)[joint]} is at "
            f"{position[joint]:.0f} instead of {goal[joint]:.0f}; clear its way, or change start_pose"
        )
