"""Asynchronous execution: the next action chunk is computed while the current one is executed, and joined to it.

The parts of real-time chunking (Black et al., arXiv 2506.07339) that apply to every chunked policy. Actions are counted
from the control step of their observation, so execution of a chunk that arrives d steps later begins at its d-th action
(section 2). A policy that samples in steps and supports it (`supports_rtc`: TinyVLA, SmolVLA) continues the actions
that are executed during sampling, under a soft mask (section 3.2). The chunks of other policies, and chunks that arrive
later than predicted, are cross-faded with the previous one.
"""

import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE
from torch import Tensor

from tinyvla.errors import UserError

from .runner import Runner

if TYPE_CHECKING:
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies import PreTrainedPolicy

    from .factory import Pipeline

_SHORTEST_FADE = 4  # control steps, if the old chunk is almost over and its last action is held
_SWITCH_INTERVAL = 0.5e-3  # seconds; by default a ready thread waits up to 5 ms for another one


class Chunk(NamedTuple):
    """Actions for the control steps from `step` on, the step of their observation.

    normalised: (H, A), the policy's output.
    actions: the same in the robot's units, float32 (H, A).
    predicted_delay: delay in control steps for which it was sampled to continue the previous chunk; None: it was not.
    """

    step: int
    normalised: Tensor
    actions: np.ndarray
    predicted_delay: int | None = None

    @property
    def end(self) -> int:
        """The first control step after the chunk."""
        return self.step + len(self.actions)


def join(old: Chunk, new: Chunk, step: int) -> Chunk:
    """Chunk to execute from `step` on: over the steps of both chunks, `old` fades linearly into `new`.

    After the end of `old`, its last action is held.
    """
    index = np.arange(len(new.actions))
    start, end = step - new.step, max(old.end, step + _SHORTEST_FADE) - new.step
    share = np.clip((end - index) / (end - start + 1), 0, 1).astype(np.float32)[:, None]  # of the old chunk
    old_index = np.clip(index + new.step - old.step, 0, len(old.actions) - 1)
    return Chunk(
        new.step,
        torch.lerp(new.normalised, old.normalised[old_index], torch.from_numpy(share)),
        new.actions + share * (old.actions[old_index] - new.actions),
    )


def check_latency(config: "PreTrainedConfig", latency_steps: int | None) -> None:
    """Raise UserError if a policy's chunks are over when they arrive, `latency_steps` control steps late."""
    lengths = [getattr(config, name, None) for name in ("chunk_size", "action_chunk_size")]
    if hasattr(config, "horizon"):
        lengths.append(config.horizon - config.n_obs_steps + 1)
    length = next(filter(None, lengths), None)
    if length is not None and latency_steps is not None and latency_steps >= length:
        raise UserError(
            f"runner.latency_steps={latency_steps} does not fit chunks of {length} actions, which are over then; "
            f"use less than {length}"
        )


class AsynchronousRunner(Runner):
    """Runs a policy that predicts action chunks, without waiting for it between two control steps.

    Call `act` once per control step. A new chunk is requested every `n_action_steps` control steps, or half a chunk if
    that is less, from the newest observation. Only the first action of an episode waits for its chunk, so start the
    clock after it. If a chunk is over before the next one has arrived, its last action is held, and counted in `held`.
    An error in the background is raised once, by the next `act`.

    Args:
        policy, preprocessor, postprocessor: as from `policies.load_checkpoint`; used by this runner only.
        latency_steps: None: chunks are computed in a background thread and arrive when they are ready; until `close`
            the interpreter switches threads more often than by default (`sys.setswitchinterval`). A number: no thread,
            and the chunk requested at control step t arrives at t + latency_steps, for simulators, whose time does not
            pass while the policy computes.

    Attributes:
        interval: control steps from one request to the next, at most half a chunk; None: half a chunk.
        guided: the policy continues the previous chunk.

    Raises UserError for a negative latency.
    """

    def __init__(
        self,
        policy: "PreTrainedPolicy",
        preprocessor: "Pipeline",
        postprocessor: "Pipeline",
        latency_steps: int | None = None,
    ):
        from lerobot.configs import RTCAttentionSchedule
        from lerobot.policies.rtc import RTCConfig

        if latency_steps is not None and latency_steps < 0:
            raise UserError(f"runner.latency_steps is {latency_steps}; use 0 or more control steps")
        self.latency_steps = latency_steps
        self.held = 0
        config = policy.config
        self.interval: int | None = getattr(config, "n_action_steps", None)
        if hasattr(config, "horizon"):
            # These policies cut their chunks to n_action_steps; the later actions bridge the wait for the next chunk.
            config.n_action_steps = config.horizon - config.n_obs_steps + 1
        self.guided = policy.supports_rtc()
        if self.guided:
            config.rtc_config = RTCConfig(prefix_attention_schedule=RTCAttentionSchedule.EXP)  # the paper's
            getattr(policy, "init_rtc_processor", lambda: None)()
        self._observations: deque[Mapping[str, Any]] = deque(maxlen=config.n_obs_steps)
        self._delays: deque[int] = deque(maxlen=5)  # of the last chunks, in control steps
        self._pending: Future[Chunk] | None = None
        self._switch_interval = sys.getswitchinterval()
        self._worker: Executor = _ImmediateExecutor()
        if latency_steps is None:
            self._worker = ThreadPoolExecutor(1, "chunks")
            sys.setswitchinterval(min(_SWITCH_INTERVAL, self._switch_interval))
        super().__init__(policy, preprocessor, postprocessor)

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode; waits for a chunk that is still computed and drops it, with its error."""
        if self._pending is not None:
            wait([self._pending])
        super().reset(seed)
        self._pending = None
        self._plan: Chunk | None = None
        self._step = self._requested = 0  # control steps from the episode's beginning: now, and of the last request
        self._observations.clear()

    def close(self) -> None:
        """End the background thread, after its current chunk."""
        self._worker.shutdown()
        sys.setswitchinterval(self._switch_interval)

    @property
    def needs_observation(self) -> bool:
        """False while no chunk is due; policies with several observation steps (n_obs_steps) need every one."""
        return self.policy.config.n_obs_steps > 1 or self._due

    def act(self, observation: Mapping[str, Any] | None) -> np.ndarray:
        """The action of this control step, float32 (A,), in the robot's own units.

        The observation may be None when `needs_observation` is False. Raises UserError if the policy returns NaN or
        takes longer than its chunks last, and any error of the policy since the last call.
        """
        self._take_arrived()
        if observation is not None:
            self._observations.append(observation)
            if self._due:
                self._request()
                self._take_arrived()
        if self._plan is None:
            if self._pending is None:
                raise ValueError("this step needs an observation, see needs_observation")
            self._take_arrived(wait_for_it=True)
        assert self._plan is not None
        self.held += self._step >= self._plan.end
        action = self._plan.actions[min(self._step - self._plan.step, len(self._plan.actions) - 1)]
        self._step += 1
        return action

    @property
    def _arrived(self) -> bool:
        if self._pending is None:
            return False
        return (
            self._pending.done() if self.latency_steps is None else self._step - self._requested >= self.latency_steps
        )

    @property
    def _due(self) -> bool:
        if self._pending is not None and not self._arrived:
            return False
        if self._plan is None:
            return True
        half = len(self._plan.actions) // 2
        last = self._plan.step if self._pending is None else self._requested
        return self._step - last >= min(self.interval or half, half)

    def _request(self) -> None:
        delay = max(self._delays, default=0) if self.latency_steps is None else self.latency_steps
        self._requested = self._step
        self._pending = self._worker.submit(self._predict, self._step, list(self._observations), self._plan, delay)

    def _take_arrived(self, wait_for_it: bool = False) -> None:
        """Join the requested chunk to the plan, if it has arrived."""
        if self._pending is None or not (wait_for_it or self._arrived):
            return
        pending, self._pending = self._pending, None
        chunk = pending.result()
        if self._plan is not None:
            if chunk.end <= self._step:
                raise UserError(
                    f"a chunk of {len(chunk.actions)} actions took the policy {self._step - chunk.step} control steps; "
                    "use longer chunks, a faster model or a lower control rate"
                )
            self._delays.append(self._step - chunk.step)
            chunk = self._join(chunk)
        self._plan = chunk

    def _join(self, chunk: Chunk) -> Chunk:
        """Chunk to execute from this control step on: faded in, unless the policy continues the plan up to here."""
        assert self._plan is not None
        delay = self._step - chunk.step
        if chunk.predicted_delay is not None and delay <= chunk.predicted_delay:
            return chunk
        return join(self._plan, chunk, self._step)

    def _predict(self, step: int, observations: list[Mapping[str, Any]], plan: Chunk | None, delay: int) -> Chunk:
        if not self.guided or plan is None or plan.end <= step:
            return Chunk(step, *self.compute(step, observations, None, delay))
        delay = min(delay, plan.end - step)
        # A policy's guidance ends with the actions that it continues. A plan that is almost over therefore holds its
        # last action, as in `join`; otherwise the new chunk would depart from it in one jump.
        length = min(max(plan.end - step, delay + _SHORTEST_FADE), len(plan.normalised))
        index = (torch.arange(length) + step - plan.step).clamp(max=len(plan.normalised) - 1)
        return Chunk(step, *self.compute(step, observations, plan.normalised[index], delay), predicted_delay=delay)

    @torch.no_grad()  # not inference_mode: real-time chunking's guidance differentiates the sampler
    def compute(
        self, step: int, observations: Sequence[Mapping[str, Any]], previous: Tensor | None, delay: int
    ) -> tuple[Tensor, np.ndarray]:
        """Compute a chunk: the policy's output (H, A) on the CPU, and the same in the robot's units, float32 (H, A).

        Args:
            step: control step of the newest observation.
            observations: the last ones that the policy reads, oldest first.
            previous: normalised actions (T, A) from `step` on that the chunk continues; None: it continues none.
            delay: control steps until the chunk arrives, as predicted; with `previous`.
        """
        for observation in observations:
            batch = self._batch(observation)
            self._enqueue(batch)
        guidance: dict[str, Any] = {}
        if previous is not None:
            remaining = previous[None].to(self.policy.config.device)
            guidance = {
                "inference_delay": delay,
                "prev_chunk_left_over": remaining,
                "execution_horizon": remaining.shape[1],
            }
        chunk = self.policy.predict_action_chunk(batch, **guidance).squeeze(0)
        return chunk.float().cpu(), self._unnormalise(chunk)

    def _enqueue(self, batch: dict[str, Any]) -> None:
        """Add an observation to the input queues of the policies that have them, as their select_action does."""
        from lerobot.policies.utils import populate_queues

        queues = getattr(self.policy, "_queues", {})
        if OBS_STATE in queues:
            batch.pop(ACTION, None)
            batch[OBS_IMAGES] = torch.stack([batch[key] for key in self.policy.config.image_features], dim=-4)
            populate_queues(queues, batch, exclude_keys=[ACTION])


class _ImmediateExecutor(Executor):
    """Runs work in `submit`, in place of the thread."""

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*arguments, **named))
        except Exception as error:
            future.set_exception(error)
        return future
