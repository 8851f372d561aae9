"""Policies of a server: loaded by name from its folder, a bounded number at a time, computed one after the other."""

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tinyvla.errors import UserError
from tinyvla.untrusted import inside

from ..asynchronous import AsynchronousRunner
from ..checkpoints import feature_names, find_checkpoint, load_checkpoint, recorded_fps
from .messages import ACTION, STATE, Feature, PolicyDescription
from .wire import is_checkpoint_name

type RandomState = tuple[torch.Tensor, torch.Tensor | None]

_STATISTICS = ("min", "max", "mean", "std")


class BusyError(UserError):
    """A request for which the server has no room or no time now; it may be made again later."""


class ServedPolicy:
    """A policy in memory.

    Attributes:
        description: as clients get it.
        users: sessions that have it open.
    """

    def __init__(self, folder: Path, device: str, computing: threading.Lock) -> None:
        """Load a checkpoint and compute a first chunk. Raises UserError if one of them fails."""
        names, fps = feature_names(folder), recorded_fps(folder)
        # Without latency it has no thread: the requests come in those of the server.
        self._runner = AsynchronousRunner(*load_checkpoint(folder, device), latency_steps=0)
        self._computing, self._device = computing, torch.device(device)
        self.users = 0
        self.last_used = time.monotonic()
        self.description = self._describe(names, fps)

    def compute(
        self,
        step: int,
        observations: Sequence[Mapping[str, Any]],
        previous: np.ndarray | None,
        delay: int,
        random_state: RandomState | int | None,
        patience_s: float,
    ) -> tuple[np.ndarray, np.ndarray, RandomState]:
        """Normalised actions and actions, float32 (chunk_size, A) each, and the state of the random numbers afterwards.

        All policies of a server are computed one after the other, because they share the random numbers.

        Args:
            random_state: that of the session's last chunk; a number: a seed; None: the numbers go on anywhere.
            patience_s: seconds to wait for the chunks of others.

        Raises BusyError if they take longer, and UserError for a policy that fails.
        """
        if not self._computing.acquire(timeout=max(patience_s, 0)):
            raise BusyError("other arms keep the policy server busy; use one server per arm, or a faster device")
        try:
            self.last_used = time.monotonic()
            self._set_random_state(random_state)
            self._runner.policy.reset()  # the request brings every observation that the chunk depends on
            tensor = None if previous is None else torch.from_numpy(previous)
            normalised, actions = self._runner.compute(step, observations, tensor, delay)
            return normalised.numpy(), actions, self._random_state()
        finally:
            self._computing.release()

    def _random_state(self) -> RandomState:
        has_own = self._device.type == "cuda"
        return torch.get_rng_state(), torch.cuda.get_rng_state(self._device) if has_own else None

    def _set_random_state(self, state: RandomState | int | None) -> None:
        if isinstance(state, int):
            torch.manual_seed(state)
        elif state is not None:
            torch.set_rng_state(state[0])
            if state[1] is not None:
                torch.cuda.set_rng_state(state[1], self._device)

    def _describe(self, names: Mapping[str, Sequence[str]], fps: float | None) -> PolicyDescription:
        config, image_step = self._runner.policy.config, self._runner.image_step
        if config.robot_state_feature is None or config.action_feature is None or not config.image_features:
            raise UserError("its policy has no camera, state or action; a policy for an arm has all three")
        state = self._feature(STATE, config.robot_state_feature.shape, names)
        recorded = {} if image_step is None else image_step.recorded
        inputs = {
            name: Feature(tuple(feature.shape), recorded=tuple(recorded.get(name, ())))
            for name, feature in config.image_features.items()
        }
        action = self._feature(ACTION, config.action_feature.shape, names)
        chunk, _, _ = self.compute(0, [_blank({**inputs, STATE: state})], None, 0, None, 60.0)
        if chunk.ndim != 2 or chunk.shape[1:] != action.shape:
            raise UserError(f"its policy returns chunks of shape {chunk.shape} for actions of shape {action.shape}")
        return PolicyDescription(
            {**inputs, STATE: state},
            action,
            chunk_size=len(chunk),
            observation_steps=config.n_obs_steps,
            execution_steps=self._runner.interval,
            guided=self._runner.guided,
            image_fit="" if image_step is None else image_step.fit,
            fps=fps or 0.0,
        )

    def _feature(self, name: str, shape: Sequence[int], names: Mapping[str, Sequence[str]]) -> Feature:
        pipeline = self._runner.preprocessor if name == STATE else self._runner.postprocessor
        statistics: dict[str, tuple[float, ...]] = {}
        for processor in pipeline.steps:
            values = (getattr(processor, "stats", None) or {}).get(name) or {}
            for key in _STATISTICS:
                if key in values and np.size(values[key]) == shape[0]:
                    statistics[key] = tuple(np.asarray(values[key], dtype=float).ravel().tolist())
        value_names = tuple(names.get(name, ()))
        return Feature(tuple(shape), value_names if len(value_names) == shape[0] else (), statistics)


def _blank(inputs: Mapping[str, Feature]) -> dict[str, Any]:
    """Observation of black images and a state of zeros."""
    observation: dict[str, Any] = {"task": ""}
    for name, feature in inputs.items():
        if name == STATE:
            observation[name] = np.zeros(feature.shape, np.float32)
        else:
            channels, height, width = feature.shape
            observation[name] = np.zeros((height, width, channels), np.uint8)
    return observation


class PolicyStore:
    """Policies of a folder by name; those without a session make room for others."""

    def __init__(self, folder: Path, device: str, size: int) -> None:
        """size: greatest number of policies in memory."""
        self.folder, self._device, self._size = folder, device, size
        self._policies: dict[Path, ServedPolicy] = {}  # by checkpoint: the best one of a run may change
        self._loading, self._lock, self._computing = threading.Lock(), threading.Lock(), threading.Lock()

    def open(self, name: str) -> ServedPolicy:
        """The policy of that name, with one more user. Raises UserError if it cannot be loaded or there is no room."""
        with self._loading:
            checkpoint = self._find(name)
            with self._lock:
                policy = self._policies.get(checkpoint)
                if policy is None:
                    self._make_room()
            try:
                policy = policy or ServedPolicy(checkpoint, self._device, self._computing)
            except UserError as error:
                raise UserError(self._without_folder(str(error))) from error
            with self._lock:
                self._policies[checkpoint] = policy
                policy.users += 1
            return policy

    def close(self, policy: ServedPolicy) -> None:
        """Give a policy back; it stays in memory until its place is needed."""
        with self._lock:
            policy.users -= 1

    def names(self) -> list[str]:
        """Names that the folder has, at most 20."""
        names = (path.name for path in sorted(self.folder.iterdir()) if is_checkpoint_name(path.name) and path.is_dir())
        return [name for _, name in zip(range(20), names, strict=False)]

    def _find(self, name: str) -> Path:
        if not is_checkpoint_name(name):
            raise UserError(f"a checkpoint has a name without / and .., such as {self._examples()}")
        try:
            return find_checkpoint(inside(self.folder, name)).resolve()
        except UserError as error:
            raise UserError(f"the policy server has no checkpoint {name}; it has {self._examples()}") from error

    def _examples(self) -> str:
        return ", ".join(self.names()) or "none"

    def _make_room(self) -> None:
        idle = sorted((p for p in self._policies.items() if p[1].users == 0), key=lambda item: item[1].last_used)
        while len(self._policies) >= self._size:
            if not idle:
                raise BusyError(
                    f"the policy server has {self._size} policies in use; close one, or raise its setting policies"
                )
            del self._policies[idle.pop(0)[0]]

    def _without_folder(self, text: str) -> str:
        for folder in (self.folder.resolve(), self.folder):
            text = text.replace(f"{folder}/", "")
        return text
