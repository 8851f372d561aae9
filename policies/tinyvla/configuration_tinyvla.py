"""TinyVLA's options, as LeRobot stores them in a policy's config.json."""

from dataclasses import dataclass, field
from typing import Any

from lerobot.configs import NormalizationMode, PreTrainedConfig
from lerobot.optim import AdamWConfig, DiffuserSchedulerConfig

from tinyvla.backbones import BackboneConfig, FilmConfig
from tinyvla.decoders import DecoderConfig, DiffusionConfig
from tinyvla.ranges import check_range

MAX_CHUNK = 4096  # actions


def add_earlier_defaults(options: dict[str, Any]) -> None:
    """Complete the stored options of a policy from before they existed, in place: their defaults have changed since."""
    options.setdefault("waypoint_weight", 0.0)
    if isinstance(decoder := options.get("decoder"), dict):
        decoder.setdefault("noise_repeats", 1)


@PreTrainedConfig.register_subclass("tinyvla")
@dataclass
class TinyVLAConfig(PreTrainedConfig):
    """Options of a TinyVLA policy. The defaults are those of train.py and of `lerobot-train --policy.type=tinyvla`.

    Args:
        chunk_size: actions predicted at once (H).
        n_action_steps: actions executed before the next chunk is predicted (receding horizon).
        temporal_ensemble_coeff: exponential weight of ACT's temporal ensembling (arXiv 2304.13705, section IV-A), which
            predicts a chunk every step and averages the chunks' actions of the same step; needs n_action_steps = 1.
        crop_ratio: height and width of a crop as a share of the image's, resized to its size: at a random place in
            training, in the middle when the policy acts; 1: the whole image.
        random_rotation: largest rotation of a training image in degrees, to either side, after the crop.
        backbone: images and instruction to token features.
        decoder: token features and proprioception to an action chunk.
        waypoint_weight: weight of an auxiliary loss: the features predict the states at the gripper's next change and
            at the demonstration's end, see `waypoints.py`. 0: none.
        frontend: options by name of vision front-ends whose features are further inputs, see `frontends.py`.
        normalization_mapping: how images, states and actions are normalised, see `processor_tinyvla.py`.
        min_state_std: the least standard deviation that a number of the state is divided by.
        action_margin: widens the range of every number of an action at both ends, in the robot's units.
        optimizer_lr: learning rate of the weights that are trained in full.
        optimizer_lr_lora: learning rate of LoRA matrices, if the backbone has them.
        optimizer_betas, optimizer_eps, optimizer_weight_decay, optimizer_grad_clip_norm: AdamW.
        scheduler_warmup_steps: linear warm-up before the cosine decay.
    """

    n_obs_steps: int = 1
    chunk_size: int = 16
    n_action_steps: int = 4
    temporal_ensemble_coeff: float | None = None
    crop_ratio: float = 1.0
    random_rotation: float = 0.0

    backbone: BackboneConfig = field(default_factory=FilmConfig)
    decoder: DecoderConfig = field(default_factory=DiffusionConfig)
    waypoint_weight: float = 0.2
    frontend: dict[str, dict[str, Any]] = field(default_factory=dict)

    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {
            "VISUAL": NormalizationMode.IDENTITY,
            "STATE": NormalizationMode.MEAN_STD,
            "ACTION": NormalizationMode.MIN_MAX,
        }
    )
    min_state_std: float = 0.0
    action_margin: float = 0.0

    optimizer_lr: float = 1e-3
    optimizer_lr_lora: float = 2e-4
    optimizer_betas: tuple[float, float] = (0.9, 0.98)
    optimizer_eps: float = 1e-8
    optimizer_weight_decay: float = 0.0
    optimizer_grad_clip_norm: float = 1.0
    scheduler_warmup_steps: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "chunk_size", low=1, high=MAX_CHUNK)
        check_range(self, "optimizer_lr", "optimizer_lr_lora", "optimizer_eps", "optimizer_grad_clip_norm", above=0)
        check_range(self, "optimizer_weight_decay", "scheduler_warmup_steps", "waypoint_weight", low=0)
        check_range(self, "temporal_ensemble_coeff")
        check_range(self, "crop_ratio", above=0, high=1)
        check_range(self, "random_rotation", low=0, high=180)
        check_range(self, "min_state_std", "action_margin", low=0)
        if any(not 0 <= beta < 1 for beta in self.optimizer_betas):
            raise ValueError(f"optimizer_betas is {list(self.optimizer_betas)}; give two numbers from 0 to below 1")
        if self.n_obs_steps != 1:
            raise ValueError(f"TinyVLA sees one observation at a time, n_obs_steps must be 1 (got {self.n_obs_steps})")
        if not 1 <= self.n_action_steps <= self.chunk_size:
            raise ValueError(
                f"n_action_steps must lie between 1 and chunk_size {self.chunk_size}, got {self.n_action_steps}"
            )
        if self.temporal_ensemble_coeff is not None and self.n_action_steps != 1:
            raise ValueError("temporal_ensemble_coeff predicts a chunk every step: set n_action_steps to 1")

    def get_optimizer_preset(self) -> AdamWConfig:
        return AdamWConfig(
            lr=self.optimizer_lr,
            betas=self.optimizer_betas,
            eps=self.optimizer_eps,
            weight_decay=self.optimizer_weight_decay,
            grad_clip_norm=self.optimizer_grad_clip_norm,
        )

    def get_scheduler_preset(self) -> DiffuserSchedulerConfig:
        return DiffuserSchedulerConfig(name="cosine", num_warmup_steps=self.scheduler_warmup_steps)

    def validate_features(self) -> None:
        """Raise ValueError unless there are cameras of one size, proprioception and an action."""
        shapes = {key: tuple(feature.shape) for key, feature in self.image_features.items()}
        if not shapes or len(set(shapes.values())) > 1:
            raise ValueError(f"TinyVLA needs one or more cameras of one size under observation.images.*, got {shapes}")
        if self.robot_state_feature is None or self.action_feature is None:
            raise ValueError("TinyVLA needs the features observation.state and action")

    @property
    def observation_delta_indices(self) -> None:
        return None

    @property
    def action_delta_indices(self) -> list[int]:
        return list(range(self.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        return None
