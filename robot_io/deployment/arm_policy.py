"""A policy as the control loop of an arm asks it: LeRobot's observation in, the pose wanted next out."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.utils.constants import OBS_IMAGES, OBS_STATE

from policies import PolicyRunner
from tinyvla.errors import UserError

from .checks import cameras_of

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

    wanted: what the policy wanted in the last tick. taken_over: whether a person's pose was returned in its place.
    """

    def __init__(
        self, runner: PolicyRunner, joints: Sequence[str], rate_hz: float, operator: Operator | None = None
    ) -> None:
        self.runner, self.operator = runner, operator
        self.wanted: np.ndarray | None = None
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
        self.wanted, self.taken_over, self._held = None, False, 0
        self._first = self.runner.act(self._seen(observation))
        return self._first

    def __call__(self, observation: Mapping[str, Any]) -> np.ndarray | None:
        """Raises UserError for a policy that hangs, and what it and the person raise."""
        if self._first is not None:
            self.wanted, self._first = self._first, None
        else:
            before = held_ticks(self.runner)
            self.wanted = self.runner.act(self._seen(observation) if self.runner.needs_observation else None)
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
        return self.wanted if self._held == 0 else None

    def _seen(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """An observation as `PolicyRunner` takes it."""
        pictures = {f"{OBS_IMAGES}.{camera}": observation[camera] for camera in self._cameras}
        state = np.array([observation[key] for key in self._keys], np.float32)
        return pictures | {OBS_STATE: state, "task": self._instruction}


def held_ticks(runner: PolicyRunner) -> int:
    """Actions so far that had to be held for want of a chunk."""
    return getattr(runner, "held", 0)
