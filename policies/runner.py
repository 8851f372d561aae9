"""A policy as a closed loop sees it: raw observations in, raw actions out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.policies import PreTrainedPolicy
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE
from torch import Tensor

from tinyvla.errors import UserError

from .factory import Pipeline, find_checkpoint, load_checkpoint
from .runtimes import adapt_policy


class PolicyRunner:
    """Runs one policy in one environment or on one robot, whichever LeRobot policy it is.

    Observations are unbatched: observation.images.<camera> uint8 (H, W, 3), observation.state float (S,), task str.

    checkpoint: folder that the policy was loaded from; None if it was not loaded.
    held: actions that were repeated because the next chunk was late; 0 unless it computes beside the robot.
    """

    checkpoint: Path | None = None
    held: int = 0

    def __init__(self, policy: PreTrainedPolicy, preprocessor: Pipeline, postprocessor: Pipeline):
        self.policy, self.preprocessor, self.postprocessor = policy, preprocessor, postprocessor
        self.reset()

    @classmethod
    def from_checkpoint(
        cls,
        path: Path | str,
        device: str | None = None,
        *,
        asynchronous: bool = False,
        latency_steps: int | None = None,
        **how: Any,
    ) -> "PolicyRunner":
        """Load from a checkpoint or run folder, see `policies.load_checkpoint`.

        asynchronous, latency_steps: compute the next chunk while one is executed, see `policies.AsynchronousRunner`.
        how: see `runtimes.adapt_policy`.
        """
        policy, preprocessor, postprocessor = load_checkpoint(path, device)
        adapt_policy(policy, **how)
        if asynchronous:
            from .asynchronous import AsynchronousRunner

            runner: PolicyRunner = AsynchronousRunner(policy, preprocessor, postprocessor, latency_steps)
        else:
            runner = cls(policy, preprocessor, postprocessor)
        runner.checkpoint = find_checkpoint(path)
        return runner

    @property
    def cameras(self) -> dict[str, tuple[int, int]]:
        """Cameras that the policy needs, with the height and width of their images in pixels."""
        features = self.policy.config.image_features
        return {
            key.removeprefix(f"{OBS_IMAGES}."): (int(feature.shape[1]), int(feature.shape[2]))
            for key, feature in features.items()
        }

    @property
    def state_size(self) -> int:
        """Numbers in the policy's observation.state."""
        return int(self.policy.config.robot_state_feature.shape[0])

    def check(self, observation_space: Any, action_space: Any) -> None:
        """Raise UserError unless the cameras, their size, the state and the action are those of the policy.

        observation_space: gymnasium Dict space of the observations that `act` will get.
        action_space: gymnasium Box space of the actions that will be taken.
        """
        config = self.policy.config
        cameras = {key for key in observation_space if key.startswith(f"{OBS_IMAGES}.")}
        wanted = set(config.image_features)
        if missing := wanted - cameras:
            needs, has, lacks = (
                ", ".join(sorted(key.removeprefix(f"{OBS_IMAGES}.") for key in keys))
                for keys in (wanted, cameras, missing)
            )
            raise UserError(f"the policy needs the cameras {needs} but there are {has}; add {lacks} to env.cameras")
        for key, feature in config.image_features.items():
            have, want = observation_space[key].shape[:2], tuple(feature.shape[1:])
            if have != want:
                raise UserError(
                    f"the policy sees pictures of {want[0]}x{want[1]} pixels but {key} has {have[0]}x{have[1]}; "
                    f"set env.image_size={want[0]}"
                )
        for key, have, want in (
            (OBS_STATE, observation_space[OBS_STATE].shape[0], config.robot_state_feature.shape[0]),
            ("action", action_space.shape[0], config.action_feature.shape[0]),
        ):
            if have != want:
                raise UserError(
                    f"the policy was trained with a {want}-d {key} but the environment has {have}; "
                    "use the environment that it was trained in"
                )

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode. `seed` fixes every random draw of the policy until the next reset."""
        self.policy.reset()
        self._batch_seen: dict[str, Any] = {}
        if seed is not None:
            torch.manual_seed(seed)

    @property
    def needs_observation(self) -> bool:
        """False while the policy executes a chunk that it has already predicted and would not look anyway.

        A policy that sees several steps at once looks at the last of them before the next prediction.
        """
        queue = getattr(self.policy, "_action_queue", None) or getattr(self.policy, "_queues", {}).get(ACTION, ())
        return len(queue) < self.policy.config.n_obs_steps

    @torch.inference_mode()
    def act(self, observation: Mapping[str, Any] | None) -> np.ndarray:
        """The next action, float32 (A,), in the robot's own units.

        The observation may be None when `needs_observation` is False. Raises UserError if the policy puts out NaN.
        """
        if self.needs_observation:
            self._batch_seen = self._batch(observation)
        # A policy that need not look forgets what it is given before it predicts, but may ask for it.
        return self._in_robot_units(self.policy.select_action(dict(self._batch_seen))).squeeze(0)

    def _in_robot_units(self, actions: Tensor) -> np.ndarray:
        taken = self.postprocessor(actions).float().cpu().numpy()
        if not np.isfinite(taken).all():
            raise UserError("the policy put out a non-finite action; train again or use another checkpoint")
        return taken

    def _batch(self, observation: Mapping[str, Any] | None) -> dict[str, Any]:
        if observation is None:
            raise ValueError("this step needs an observation, see needs_observation")
        keys = [*self.policy.config.image_features, OBS_STATE, "task"]
        if missing := [key for key in keys if key not in observation]:
            raise UserError(f"the observation has no {missing[0]}; the policy needs {', '.join(keys)}")
        batch: dict[str, Any] = {
            key: torch.from_numpy(np.ascontiguousarray(observation[key])).permute(2, 0, 1).float().div_(255)
            for key in self.policy.config.image_features
        }
        batch[OBS_STATE] = torch.as_tensor(observation[OBS_STATE], dtype=torch.float32)
        batch["task"] = observation["task"]
        return self.preprocessor(batch)
