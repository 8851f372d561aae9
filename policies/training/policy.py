"""Training a policy on demonstrations."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from lerobot.datasets import LeRobotDataset
from lerobot.policies import PreTrainedPolicy
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.optim import Optimizer

from tinyvla.augment import augment_images
from tinyvla.machine import count_cores
from tinyvla.training import sample_order
from tinyvla.training.device import device_of
from tinyvla.training.loop import Validate, fit
from tinyvla.training.timing import StepTimer
from tinyvla.training.tracking import Tracker
from tinyvla.training.trainable import Batch, Trainable, step_generator, step_seed

from ..data import (
    TrainingData,
    cache_features,
    cache_frames,
    cache_frontends,
    instructions_of,
    open_dataset,
    open_metadata,
    stream_batches,
)
from ..factory import find_checkpoint, make_policy, make_processors, save_checkpoint_files
from ..model_card import write_model_card
from .phases import averaged_parameters, keep_codebooks_precise, resume_phase, training_phase


def train(
    cfg: DictConfig,
    dataset_root: Path | None,
    accelerator: Accelerator,
    tracker: Tracker,
    validate: Validate | None = None,
    timer: StepTimer | None = None,
) -> Path:
    """Train a policy, see `fit`; returns the folder of the best one.

    Args:
        cfg: the run's configuration: policy, trainer, dataset, seed, run_dir.
        dataset_root: a LeRobotDataset; None: the one that `cfg.dataset` names is streamed.
        validate: scores the policy saved in a folder, `success_rate` among its figures.
    """
    fit(PolicyTrainable(cfg, dataset_root, accelerator), cfg, accelerator, tracker, validate, timer)
    return find_checkpoint(Path(cfg.run_dir))


def make_optimizer(policy: PreTrainedPolicy, trainer: Mapping[str, Any]) -> Optimizer:
    """The policy's own optimizer and parameter groups at the run's rate and weight decay."""
    policy.config.optimizer_lr = trainer["lr"]  # groups whose rate is a multiple of it follow
    preset = replace(policy.config.get_optimizer_preset(), lr=trainer["lr"], weight_decay=trainer["weight_decay"])
    optimizer = preset.build(policy.get_optim_params())
    for group in optimizer.param_groups:
        if "fused" in group:
            group["fused"] = True  # one pass over each parameter: a third of the time on a CPU
    return optimizer


class PolicyTrainable(Trainable):
    """A policy with its two pipelines, and batches of demonstrations with augmented pictures."""

    measure = "success_rate"

    def __init__(self, cfg: DictConfig, dataset_root: Path | None, accelerator: Accelerator):
        self._cfg, self._accelerator = cfg, accelerator
        self._part = (accelerator.process_index, accelerator.num_processes)
        self._dataset = None if dataset_root is None else open_dataset(dataset_root)
        named = cfg.dataset
        self._meta = self._dataset.meta if self._dataset else open_metadata(named.repo_id, named.root)
        torch.manual_seed(cfg.seed)
        policy_cfg = cast(dict[str, Any], OmegaConf.to_container(cfg.policy))
        self.module: Any = make_policy(policy_cfg, self._meta, device_of(accelerator))
        self._pipelines = make_processors(self.module, self._meta.stats)

    def start(self, step: int) -> None:
        resume_phase(self.module, step)
        keep_codebooks_precise(self.module, self._accelerator.device.type)
        self._load = self._from_stream(step) if self._dataset is None else self._from_disk(self._dataset)

    def batch(self, step: int) -> Batch:
        return self._load(step)

    def prepare(self, batch: Batch) -> Batch:
        return self._pipelines[0](batch)

    def make_optimizer(self, trainer: Mapping[str, Any]) -> Optimizer:
        return make_optimizer(self.module, trainer)

    def averaged_parameters(self) -> dict[str, nn.Parameter]:
        return averaged_parameters(self.module)

    def phase(self) -> int:
        return training_phase(self.module)

    def loss_weight(self, batch: Batch) -> float | Tensor:
        return self.module.loss_weight(batch) if hasattr(self.module, "loss_weight") else 1.0

    def save(self, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
        save_checkpoint_files(self.module, *self._pipelines, folder, weights=weights, features=self._meta.features)
        write_model_card(folder, self.module, self._meta, self._cfg)

    def _from_stream(self, start: int) -> Callable[[int], Batch]:
        # There is no way back into a stream: a resumed run goes on with another draw of it.
        cfg, (index, of) = self._cfg, self._part
        stream = stream_batches(
            *(cfg.dataset.repo_id, cfg.dataset.root, self.module.config),
            *(cfg.trainer.batch_size, step_seed(cfg.seed, start) * of + index),
            buffer=cfg.dataset.shuffle_buffer,
        )
        return lambda step: self._augment(stream(), step)

    def _from_disk(self, dataset: LeRobotDataset) -> Callable[[int], Batch]:
        """A function that makes this process's part of a step's batch."""
        config, accelerator, (index, of) = self.module.config, self._accelerator, self._part
        cached = bool(getattr(getattr(config, "backbone", None), "cache_features", False))
        with accelerator.main_process_first():
            frames: dict[str, Any] = dict(cache_frames(dataset, count_cores()))
            used = {key: frames[key] for key in config.image_features}
            if cached:
                backbone = self.module.model.backbone
                frames |= cache_features(backbone, dataset.root, used, accelerator.device, accelerator.autocast)
            if frontends := getattr(self.module, "frontends", None):
                told = instructions_of(dataset)
                frames |= cache_frontends(frontends, dataset.root, used, told, accelerator.device)
            data = TrainingData(dataset, config, frames)
        order, size = sample_order(len(data), self._cfg.seed), self._cfg.trainer.batch_size

        def load(step: int) -> Batch:
            batch = data.batch(order((step * of + index) * size, size))
            return batch if cached else self._augment(batch, step)

        return load

    def _augment(self, batch: Batch, step: int) -> Batch:
        generator = step_generator(self._cfg.seed, step)
        for key in self.module.config.image_features:
            batch[key] = augment_images(batch[key], self._cfg.trainer.augment, generator, self._part)
        return batch
