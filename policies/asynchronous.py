"""Asynchronous execution: the next action chunk is computed while the current one is executed, and joined to it.

Real-time chunking (Black et al., arXiv 2506.07339) in the parts that every chunked policy here can have. Actions are
counted from the control step of their observation, so a chunk that arrives d steps later is entered at its d-th action
(section 2). A policy that samples in steps and says so (`supports_rtc`: TinyVLA, SmolVLA) is told while it samples what
will be executed meanwhile, and continues it under a soft mask (section 3.2). The chunks of all others, and those that
come later than was foreseen, are cross-faded with the one before.
"""

import sys
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import numpy as np
import torch
from lerobot.configs import RTCAttentionSchedule
from lerobot.policies import PreTrainedPolicy
from lerobot.policies.rtc import RTCConfig
from lerobot.policies.utils import populate_queues
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE
from torch import Tensor

from tinyvla.errors import UserError

from .factory import Pipeline
from .runner import PolicyRunner

_SHORTEST_FADE = 4  # control steps, where the old chunk is all but over and its last action is held
_SWITCH_INTERVAL = 0.5e-3  # seconds: a thread that wants to go on waits up to 5 ms for one that computes in Python


class Chunk(NamedTuple):
    """Actions for the control steps from `step` on, that of their observation.

    normalised: (H, A) as the policy puts them out. actions: the same in the robot's units, float32 (H, A).
    foreseen: the delay in control steps for which it was sampled to continue the chunk before; None: it was not.
    """

    step: int
    normalised: Tensor
    actions: np.ndarray
    foreseen: int | None = None

    @property
    def end(self) -> int:
        """The first control step that has no action."""
        return self.step + len(self.actions)


def join(old: Chunk, new: Chunk, step: int) -> Chunk:
    """`new` as it is to be executed from `step` on: over the steps that both have, `old` fades into it linearly.

    Where `old` is over before, its last action counts as held.
    """
    index = np.arange(len(new.actions))
    start, end = step - new.step, max(old.end, step + _SHORTEST_FADE) - new.step
    share = np.clip((end - index) / (end - start + 1), 0, 1).astype(np.float32)[:, None]  # of the old chunk
    at = np.clip(index + new.step - old.step, 0, len(old.actions) - 1)
    return Chunk(
        new.step,
        torch.lerp(new.normalised, old.normalised[at], torch.from_numpy(share)),
        new.actions + share * (old.actions[at] - new.actions),
    )


class AsynchronousRunner(PolicyRunner):
    """Runs a policy that predicts action chunks, without ever waiting for it between two control steps.

    Call `act` once a control step. A new chunk is asked for every `n_action_steps` control steps, or half a chunk if
    that is less, from the newest observation. Only the first action of an episode waits for its chunk: there is nothing
    to execute yet, so start the clock after it. If a chunk is over before the next one has arrived, its last action is
    held, and counted in `held`. An error in the background is raised once, by the next `act`.

    Args:
        policy, preprocessor, postprocessor: as `policies.load_checkpoint` returns them; the runner's own from here on.
        latency_steps: None: chunks are computed in a background thread and arrive when they are ready; until `close`
            the interpreter then changes threads more often than usual (`sys.setswitchinterval`). A number: no thread,
            and the chunk asked for at control step t arrives at t + latency_steps, for simulators, whose time stands
            still while the policy computes.

    Raises UserError for a negative latency.
    """

    def __init__(
        self,
        policy: PreTrainedPolicy,
        preprocessor: Pipeline,
        postprocessor: Pipeline,
        latency_steps: int | None = None,
    ):
        if latency_steps is not None and latency_steps < 0:
            raise UserError(f"runner.latency_steps is {latency_steps}; use 0 or more control steps")
        self.latency_steps = latency_steps
        self.held = 0
        config = policy.config
        self._interval = getattr(config, "n_action_steps", None)
        if hasattr(config, "horizon"):
            # These policies cut what they predict to n_action_steps; the rest bridges the wait for the next chunk.
            config.n_action_steps = config.horizon - config.n_obs_steps + 1
        self._guided = policy.supports_rtc()
        if self._guided:
            config.rtc_config = RTCConfig(prefix_attention_schedule=RTCAttentionSchedule.EXP)  # the paper's
            getattr(policy, "init_rtc_processor", lambda: None)()
        self._seen: deque[Mapping[str, Any]] = deque(maxlen=config.n_obs_steps)
        self._delays: deque[int] = deque(maxlen=5)  # control steps that the last chunks took
        self._pending: Future[Chunk] | None = None
        self._switch_interval = sys.getswitchinterval()
        self._worker: Executor = _AtOnce()
        if latency_steps is None:
            self._worker = ThreadPoolExecutor(1, "chunks")
            sys.setswitchinterval(min(_SWITCH_INTERVAL, self._switch_interval))
        super().__init__(policy, preprocessor, postprocessor)

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode; a chunk still being computed is waited for and dropped, and with it its error."""
        if self._pending is not None:
            wait([self._pending])
        super().reset(seed)
        self._pending = None
        self._plan: Chunk | None = None
        self._step = self._asked = 0  # counted from the episode's beginning
        self._seen.clear()

    def close(self) -> None:
        """End the background thread, after the chunk that it is at."""
        self._worker.shutdown()
        sys.setswitchinterval(self._switch_interval)

    @property
    def needs_observation(self) -> bool:
        """False while no chunk is due; policies that see several steps at once (n_obs_steps) want to see every one."""
        return self.policy.config.n_obs_steps > 1 or self._due

    def act(self, observation: Mapping[str, Any] | None) -> np.ndarray:
        """The action of this control step, float32 (A,), in the robot's own units.

        The observation may be None when `needs_observation` is False. Raises UserError if the policy puts out NaN or
        takes longer than its chunks last, and whatever else the policy has raised since the last call.
        """
        self._enter()
        if observation is not None:
            self._seen.append(observation)
            if self._due:
                self._ask()
                self._enter()
        if self._plan is None:
            if self._pending is None:
                raise ValueError("this step needs an observation, see needs_observation")
            self._enter(at_once=True)
        assert self._plan is not None
        self.held += self._step >= self._plan.end
        action = self._plan.actions[min(self._step - self._plan.step, len(self._plan.actions) - 1)]
        self._step += 1
        return action

    @property
    def _arrived(self) -> bool:
        if self._pending is None:
            return False
        return self._pending.done() if self.latency_steps is None else self._step - self._asked >= self.latency_steps

    @property
    def _due(self) -> bool:
        if self._pending is not None and not self._arrived:
            return False
        if self._plan is None:
            return True
        half = len(self._plan.actions) // 2
        last = self._plan.step if self._pending is None else self._asked
        return self._step - last >= min(self._interval or half, half)

    def _ask(self) -> None:
        delay = max(self._delays, default=0) if self.latency_steps is None else self.latency_steps
        self._asked = self._step
        self._pending = self._worker.submit(self._predict, self._step, list(self._seen), self._plan, delay)

    def _enter(self, at_once: bool = False) -> None:
        """Take up the chunk that was asked for, if it has arrived."""
        if self._pending is None or not (at_once or self._arrived):
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
            if chunk.foreseen is None or self._step - chunk.step > chunk.foreseen:
                chunk = join(self._plan, chunk, self._step)
        self._plan = chunk

    @torch.no_grad()  # not inference_mode: real-time chunking's guidance differentiates the sampler
    def _predict(self, step: int, seen: list[Mapping[str, Any]], plan: Chunk | None, delay: int) -> Chunk:
        for observation in seen:
            batch = self._batch(observation)
            self._remember(batch)
        guidance: dict[str, Any] = {}
        if self._guided and plan is not None and plan.end > step:
            left = plan.normalised[step - plan.step :][None].to(self.policy.config.device)
            guidance = {
                "inference_delay": delay,
                "prev_chunk_left_over": left,
                "execution_horizon": left.shape[1],
            }
        chunk = self.policy.predict_action_chunk(batch, **guidance).squeeze(0)
        return Chunk(step, chunk.float().cpu(), self._in_robot_units(chunk), delay if guidance else None)

    def _remember(self, batch: dict[str, Any]) -> None:
        """Hand an observation to the queues that some policies read their inputs from, as their select_action does."""
        queues = getattr(self.policy, "_queues", {})
        if OBS_STATE in queues:
            batch.pop(ACTION, None)
            batch[OBS_IMAGES] = torch.stack([batch[key] for key in self.policy.config.image_features], dim=-4)
            populate_queues(queues, batch, exclude_keys=[ACTION])


class _AtOnce(Executor):
    """Stands in for the thread: work is done when it is submitted."""

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*arguments, **named))
        except Exception as error:
            future.set_exception(error)
        return future
