"""A policy in a closed loop: raw observations in, raw actions out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE
from torch import Tensor

from tinyvla.errors import UserError, did_you_mean
from tinyvla.ranges import MAX_STEPS, RangeError, check_range

from .image_size import CROP, ImageSizeStep, fit_images, step_of

if TYPE_CHECKING:
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies import PreTrainedPolicy

    from .factory import Pipeline

RUNTIMES = ("torch", "compile", "bf16", "int8", "onnx", "openvino")


@dataclass
class RunnerConfig:
    """Settings of a runner: the section `runner`.

    Args:
        asynchronous: compute the next chunk while one is executed, see `policies.AsynchronousRunner`.
        latency_steps: of the asynchronous runner: control steps from an observation to its chunk, in simulators; None:
            chunks are computed in a background thread.
        runtime: one of `policies.runtimes.RUNTIMES`.
        scheduler: class name of a diffusers noise scheduler; None: the policy's own.
        inference_steps: denoising steps per chunk; None: the policy's own.
        n_action_steps: actions executed of a chunk before the next one is predicted; None: the policy's own.
    """

    asynchronous: bool = False
    latency_steps: int | None = None
    runtime: str = "torch"
    scheduler: str | None = None
    inference_steps: int | None = None
    n_action_steps: int | None = None

    def __post_init__(self) -> None:
        check_range(self, "latency_steps", low=0)
        check_range(self, "inference_steps", "n_action_steps", low=1, high=MAX_STEPS)
        if self.runtime not in RUNTIMES:
            raise RangeError("runtime", self.runtime, did_you_mean(self.runtime, RUNTIMES))


def check_fit(
    config: "PreTrainedConfig", observation_space: Any, action_space: Any, image_step: ImageSizeStep | None = None
) -> None:
    """Raise UserError unless the cameras, their size, the state and the action are those of a policy.

    Args:
        config: of the policy.
        observation_space: gymnasium Dict space of the observations.
        action_space: gymnasium Box space of the actions.
        image_step: of the policy's pre-processor, which fits images of any size.
    """
    cameras = {key for key in observation_space if key.startswith(f"{OBS_IMAGES}.")}
    required = set(config.image_features)
    if missing := required - cameras:
        needs, has, lacks = (
            ", ".join(sorted(key.removeprefix(f"{OBS_IMAGES}.") for key in keys))
            for keys in (required, cameras, missing)
        )
        raise UserError(f"the policy needs the cameras {needs} but there are {has}; add {lacks} to env.cameras")
    for key, feature in config.image_features.items():
        (height, width), (policy_height, policy_width) = observation_space[key].shape[:2], feature.shape[1:]
        if (height, width) != (policy_height, policy_width) and image_step is None:
            raise UserError(
                f"the policy takes images of {policy_height}x{policy_width} pixels but {key} has {height}x{width}; "
                f"set env.image_size={policy_height}"
            )
    for key, size, feature in (
        (OBS_STATE, observation_space[OBS_STATE].shape[0], config.robot_state_feature),
        ("action", action_space.shape[0], config.action_feature),
    ):
        if feature is None or size != feature.shape[0]:
            trained = f"with a {feature.shape[0]}-d" if feature else "without"
            raise UserError(
                f"the policy was trained {trained} {key} but the environment has {size}; "
                "use the environment that it was trained in"
            )


class Runner:
    """Base of the runners: a policy with its pipelines, in one environment or on one robot.

    Observations are unbatched: observation.images.<camera> uint8 (H, W, 3) of any size, observation.state float (S,),
    task str. Subclasses implement `act` and `needs_observation`.

    Attributes:
        checkpoint: folder that the policy was loaded from; None if it was not loaded.
        held: actions that were repeated because the next chunk was late; 0 except in an asynchronous runner.
        image_step: of the pre-processor, which fits images of any size; None: the policy was trained on frames of the
            size that it takes, and of others it is given the middle.
        fps: frames per second of the policy's recordings; None: not known.
        value_names: names of the values of observation.state and action, if a policy server has sent them.
    """

    checkpoint: Path | None = None
    held: int = 0
    fps: float | None = None
    value_names: Mapping[str, Sequence[str]] = MappingProxyType({})

    def __init__(self, policy: "PreTrainedPolicy", preprocessor: "Pipeline", postprocessor: "Pipeline"):
        self.policy, self.preprocessor, self.postprocessor = policy, preprocessor, postprocessor
        self.image_step = step_of(preprocessor)
        self.reset()

    @property
    def cameras(self) -> dict[str, tuple[int, int]]:
        """Cameras that the policy needs, with the height and width of their images in pixels."""
        features = self.policy.config.image_features
        return {
            key.removeprefix(f"{OBS_IMAGES}."): (int(feature.shape[1]), int(feature.shape[2]))
            for key, feature in features.items()
        }

    @property
    def recorded_cameras(self) -> dict[str, tuple[int, int]]:
        """Cameras that the policy needs, with the height and width of their frames in its recordings."""
        recorded = self.image_step.recorded if self.image_step is not None else {}
        sizes = {key.removeprefix(f"{OBS_IMAGES}."): (size[0], size[1]) for key, size in recorded.items()}
        return {camera: sizes.get(camera, size) for camera, size in self.cameras.items()}

    @property
    def image_fit(self) -> str:
        """Way to fit images of another size to the policy's, one of `image_size.FITS`."""
        return CROP if self.image_step is None else self.image_step.fit

    @property
    def state_size(self) -> int:
        """Size of the policy's observation.state."""
        return int(self.policy.config.robot_state_feature.shape[0])

    def check(self, observation_space: Any, action_space: Any) -> None:
        """Raise UserError unless the policy fits an environment's spaces, see `check_fit`."""
        check_fit(self.policy.config, observation_space, action_space, self.image_step)

    def check_observation(self, observation: Mapping[str, Any]) -> None:
        """Raise UserError if an observation lacks something that the policy needs."""
        keys = [*self.policy.config.image_features, OBS_STATE, "task"]
        if missing := [key for key in keys if key not in observation]:
            raise UserError(f"the observation has no {missing[0]}; the policy needs {', '.join(keys)}")

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode. `seed` fixes every random draw of the policy until the next reset."""
        self.policy.reset()
        if seed is not None:
            torch.manual_seed(seed)

    @property
    def needs_observation(self) -> bool:
        """True if the next `act` reads the observation."""
        raise NotImplementedError

    def act(self, observation: Mapping[str, Any] | None) -> np.ndarray:
        """The next action, float32 (A,), in the robot's own units.

        The observation may be None when `needs_observation` is False. Raises UserError if the policy returns NaN.
        """
        raise NotImplementedError

    def _unnormalise(self, actions: Tensor) -> np.ndarray:
        """Actions of the policy in the robot's own units, float32. Raises UserError if one is not finite."""
        raw_actions = self.postprocessor(actions).float().cpu().numpy()
        if not np.isfinite(raw_actions).all():
            raise UserError("the policy returned a non-finite action; train again or use another checkpoint")
        return raw_actions

    def _batch(self, observation: Mapping[str, Any] | None) -> dict[str, Any]:
        """Pre-processed batch of one observation."""
        if observation is None:
            raise ValueError("this step needs an observation, see needs_observation")
        self.check_observation(observation)
        batch: dict[str, Any] = {key: image.div(255).float() for key, image in self._images(observation).items()}
        batch[OBS_STATE] = torch.as_tensor(observation[OBS_STATE], dtype=torch.float32)
        batch["task"] = observation["task"]
        return self.preprocessor(batch)

    def _images(self, observation: Mapping[str, Any]) -> dict[str, Tensor]:
        """Images (3, H, W) of the policy's cameras, of its size. As bytes, this takes a tenth of the time of floats."""
        return {
            key: fit_images(
                torch.from_numpy(np.ascontiguousarray(observation[key])).permute(2, 0, 1),
                (int(feature.shape[1]), int(feature.shape[2])),
                self.image_fit,
            )
            for key, feature in self.policy.config.image_features.items()
        }


class PolicyRunner(Runner):
    """Runs a policy step by step: when a new action chunk is due, `act` waits for it."""

    def reset(self, seed: int | None = None) -> None:
        super().reset(seed)
        self._last_batch: dict[str, Any] = {}

    @property
    def needs_observation(self) -> bool:
        """False while the policy executes a chunk, whose steps do not depend on the observation.

        A policy with several observation steps reads the last ones before the next prediction.
        """
        return len(_action_queue(self.policy)) < self.policy.config.n_obs_steps

    @torch.inference_mode()
    def act(self, observation: Mapping[str, Any] | None) -> np.ndarray:
        if self.needs_observation:
            self._last_batch = self._batch(observation)
        # A policy that executes a chunk ignores its input, but some of LeRobot's still check that it is there.
        return self._unnormalise(self.policy.select_action(dict(self._last_batch))).squeeze(0)


def _action_queue(policy: Any) -> Any:
    """Actions that a policy has predicted and not executed; LeRobot's policies keep them in one of two attributes."""
    return getattr(policy, "_action_queue", None) or getattr(policy, "_queues", {}).get(ACTION, ())
