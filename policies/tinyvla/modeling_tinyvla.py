"""TinyVLA as a LeRobot policy: the model of `tinyvla.model` behind LeRobot's batches, queues and checkpoints."""

from collections import deque
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from huggingface_hub import snapshot_download
from lerobot.configs import PreTrainedConfig
from lerobot.policies.act.modeling_act import ACTTemporalEnsembler
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.policies.rtc import RTCConfig, RTCProcessor
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import Tensor

from tinyvla.crop import centre_crop, random_crop
from tinyvla.decoders import Known
from tinyvla.model import TinyVLA

from .configuration_tinyvla import TinyVLAConfig
from .frontends import Frontends, checkpoint_options
from .waypoints import WAYPOINT_COUNT, WAYPOINTS

ASSETS = "backbone"  # folder of a checkpoint with the backbone's architecture and tokenizer


class TinyVLAPolicy(PreTrainedPolicy):
    """A small vision-language-action policy (arXiv 2409.12514).

    Batches hold observation.images.<camera> (B, 3, H, W) in [0, 1], observation.state (B, S), task (B strings) and, for
    training, action (B, chunk_size, A) with action_is_pad (B, chunk_size); state and action are normalised. Training
    batches may have waypoints (B, 2, S), see `waypoints.py`.
    """

    config_class = TinyVLAConfig
    name = "tinyvla"

    def __init__(self, config: TinyVLAConfig, **_: Any):
        super().__init__(config)
        config.validate_features()
        self.config: TinyVLAConfig = config
        self.cameras = list(config.image_features)
        image_size = next(iter(config.image_features.values())).shape[1:]
        # In a tuple, so that they are not submodules: the model is trained and saved without them.
        self._frontends = (Frontends(config.frontend, self.cameras, image_size),)
        self.model = TinyVLA(
            config.backbone.for_cameras(len(self.cameras) + len(self.frontends.image_keys)),
            config.decoder,
            state_dim=config.robot_state_feature.shape[0],
            action_dim=config.action_feature.shape[0],
            chunk_size=config.chunk_size,
            token_sizes=self.frontends.token_sizes,
            waypoints=WAYPOINT_COUNT if config.waypoint_weight else 0,
        )
        self.reset()

    @property
    def frontends(self) -> Frontends:
        """Frozen vision models beside the backbone; none by default."""
        return self._frontends[0]

    def get_optim_params(self) -> list[dict[str, Any]]:
        """Trainable parameters in one group, LoRA matrices (if any) in a second one with their own learning rate."""
        trainable = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        groups = [{"params": [p for name, p in trainable if "lora_" not in name]}]
        lora = [p for name, p in trainable if "lora_" in name]
        return groups + ([{"params": lora, "lr": self.config.optimizer_lr_lora}] if lora else [])

    def reset(self) -> None:
        """Drop the current chunk; to call at the beginning of an episode."""
        self._action_queue: deque[Tensor] = deque(maxlen=self.config.n_action_steps)
        self._ensembler = None
        if self.config.temporal_ensemble_coeff is not None:
            self._ensembler = ACTTemporalEnsembler(self.config.temporal_ensemble_coeff, self.config.chunk_size)

    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, float] | None]:
        """Training loss of a batch, and no metrics."""
        is_pad = batch.get("action_is_pad")
        if is_pad is None:
            is_pad = torch.zeros(batch[ACTION].shape[:2], dtype=torch.bool, device=batch[ACTION].device)
        images, instructions, state, tokens = self._inputs(batch)
        loss = self.model.loss(
            images,
            instructions,
            state,
            batch[ACTION],
            is_pad,
            waypoints=batch.get(WAYPOINTS),
            waypoint_weight=self.config.waypoint_weight,
            **tokens,
        )
        return loss, None

    @staticmethod
    def loss_weight(batch: dict[str, Any]) -> Tensor:
        """Number of action steps that the loss of a batch is the mean of."""
        return (~batch["action_is_pad"]).sum().clamp(min=1)

    @torch.no_grad()
    def predict_action_chunk(
        self,
        batch: dict[str, Any],
        noise: Tensor | None = None,
        inference_delay: int = 0,
        prev_chunk_left_over: Tensor | None = None,
        execution_horizon: int | None = None,
        **_: Any,
    ) -> Tensor:
        """Normalised action chunk (B, chunk_size, A); `noise` of that shape fixes the draw.

        The other arguments are LeRobot's for real-time chunking (arXiv 2506.07339): the chunk continues
        `prev_chunk_left_over` (B, T, A) or (T, A), the normalised actions that are executed during inference, with full
        weight for `inference_delay` steps and decreasing weight up to `execution_horizon`.
        """
        if self.training:  # eval() visits every module, which takes a share of a chunk's time
            self.eval()
        known = None
        if prev_chunk_left_over is not None:
            known = self._known(prev_chunk_left_over, inference_delay, execution_horizon)
        images, instructions, state, tokens = self._inputs(batch)
        return self.model.sample(images, instructions, state, noise=noise, known=known, **tokens)

    def supports_rtc(self) -> bool:
        """True if `prev_chunk_left_over` is supported, as LeRobot asks; exported models do not support it."""
        return isinstance(self.model, TinyVLA)

    def _known(self, left_over: Tensor, delay: int, horizon: int | None) -> Known:
        chunk_size = self.config.chunk_size
        left_over = left_over.reshape(-1, *left_over.shape[-2:])[:, :chunk_size]
        steps = left_over.shape[1]
        rtc = getattr(self.config, "rtc_config", None) or RTCConfig()  # set by LeRobot's tools
        end = min(steps, horizon or rtc.execution_horizon)
        weights = RTCProcessor(rtc).get_prefix_weights(delay, end, chunk_size)
        actions = F.pad(left_over, (0, 0, 0, chunk_size - steps))  # padding has weight zero
        return Known(actions, weights.to(actions).unsqueeze(-1))

    @torch.no_grad()
    def select_action(self, batch: dict[str, Any], noise: Tensor | None = None, **_: Any) -> Tensor:
        """The next normalised action (B, A). The batch is read only when a new chunk is due."""
        if self._ensembler is not None:
            return self._ensembler.update(self.predict_action_chunk(batch, noise=noise))
        if not self._action_queue:
            chunk = self.predict_action_chunk(batch, noise=noise)[:, : self.config.n_action_steps]
            self._action_queue.extend(chunk.transpose(0, 1))
        return self._action_queue.popleft()

    def _inputs(self, batch: dict[str, Any]) -> tuple[Tensor, list[str], Tensor, dict[str, Any]]:
        """Images, instructions, state and, with front-ends, the keyword `tokens` of the model."""
        state, task = batch[OBS_STATE], batch["task"]
        instructions = [task] * len(state) if isinstance(task, str) else list(task)
        images = [batch[camera] for camera in self.cameras]
        if not self.frontends:
            return self._crop(torch.stack(images, dim=1)), instructions, state, {}
        added_images, tokens = self.frontends.inputs(batch, instructions)
        stacked = torch.stack([*images, *(image.to(images[0]) for image in added_images)], dim=1)
        return self._crop(stacked), instructions, state, {"tokens": tokens}

    def _crop(self, images: Tensor) -> Tensor:
        """Images (B, C, 3, H, W) cropped as the options say: in training at random, otherwise in the middle."""
        if self.training:
            return random_crop(images, self.config.crop_ratio, self.config.random_rotation)
        return centre_crop(images, self.config.crop_ratio)

    def _save_pretrained(self, save_directory: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        backbone = self.config.backbone
        frontend = self.config.frontend
        # Folders of this machine mean nothing elsewhere; from_pretrained sets them again.
        self.config.frontend = {name: {} for name in frontend}
        self.config.backbone = backbone.to_save()
        try:
            super()._save_pretrained(save_directory, state_dict=state_dict)
        finally:
            self.config.backbone, self.config.frontend = backbone, frontend
        self.model.backbone.save_assets(save_directory / ASSETS)
        self.frontends.save(save_directory)

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, config: PreTrainedConfig | None = None, **kwargs: Any
    ) -> Self:
        """As LeRobot's, with the backbone's architecture and the front-ends read from the checkpoint itself."""
        hub = {key: kwargs[key] for key in ("revision", "cache_dir", "token", "local_files_only") if key in kwargs}
        if config is None:
            config = PreTrainedConfig.from_pretrained(pretrained_name_or_path, **hub)
        folder = Path(pretrained_name_or_path)
        if not folder.is_dir():
            folder = Path(snapshot_download(str(pretrained_name_or_path), **hub))
        config.backbone = config.backbone.for_checkpoint(folder / ASSETS if (folder / ASSETS).is_dir() else None)
        config.frontend = checkpoint_options(config.frontend, folder)
        return super().from_pretrained(folder, config=config, **kwargs)
