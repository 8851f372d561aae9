"""A policy and its batches of demonstrations, as the training loop trains it."""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from lerobot.datasets import LeRobotDataset
from lerobot.policies import PreTrainedPolicy
from torch import Tensor, nn
from torch.optim import Optimizer

from tinyvla.augment import augment_images
from tinyvla.errors import UserError
from tinyvla.files import finished_checkpoints, model_in
from tinyvla.machine import count_cores
from tinyvla.network_size import bounded_network, stored_size
from tinyvla.training import sample_order
from tinyvla.training.device import device_of
from tinyvla.training.loop import Validate, fit
from tinyvla.training.timing import StepTimer
from tinyvla.training.tracking import Tracker
from tinyvla.training.trainable import Batch, Trainable, step_generator, step_seed

from ..checkpoints import find_checkpoint, save_checkpoint_files
from ..data import (
    TrainingData,
    cache_features,
    cache_frames,
    cache_frontends,
    find_part,
    instructions_of,
    open_all,
    open_dataset,
    open_metadata,
    stream_batches,
)
from ..data.dataset_check import check_dataset
from ..data.origin import own_recording
from ..data.run_dataset import download, keep_statistics
from ..data.units import convert_to_degrees
from ..factory import make_policy, make_processors
from ..image_size import camera_sizes, make_step
from ..instructions import fit_instructions
from ..model_card import write_model_card
from ..offline_evaluation.evaluation import MEASURE
from ..offline_evaluation.held_out import SHARE, held_out_episodes, write_held_out
from ..tinyvla.modeling_tinyvla import TinyVLAPolicy
from .initial_weights import take_weights
from .phases import averaged_parameters, keep_codebooks_precise, resume_phase, training_phase
from .settings import RunSettings


def train(
    settings: RunSettings,
    dataset_root: Path | None,
    accelerator: Accelerator,
    tracker: Tracker,
    validate: Validate | None = None,
    timer: StepTimer | None = None,
) -> Path:
    """Train a policy, see `tinyvla.training.fit`; returns the folder of the best checkpoint.

    Args:
        settings: of the run.
        dataset_root: a LeRobotDataset; None: the dataset of `settings.dataset` is streamed.
        validate: scores the policy in a folder; `success_rate` selects the best one, or `action_error` with episodes
            that are held out.
    """
    trainable = PolicyTrainable(settings, dataset_root, accelerator)
    fit(trainable, settings.trainer, settings.run_dir, settings.seed, accelerator, tracker, validate, timer)
    return find_checkpoint(settings.run_dir)


def find_dataset(settings: RunSettings, collect: Callable[[], Path]) -> Path | None:
    """Folder of a run's dataset: the named one, downloaded to `settings.data_dir` if necessary, else `collect()`.

    None if it is streamed. Raises UserError if there is no dataset of that name, or not what settings choose of it.
    """
    dataset = settings.dataset
    if not dataset.is_given:
        return collect()
    if settings.trainer.streaming:
        return None
    roots = dataset.roots or [download(str(dataset.repo_id), settings.data_dir)]
    for finding in check_dataset(dataset, roots):
        print(f"warning: {finding}")
    return find_part(dataset, roots, settings.data_dir)


def hold_out_episodes(settings: RunSettings, dataset_root: Path | None, env_cameras: Sequence[str]) -> Path | None:
    """Folder of the recordings that a run's policy is compared with, in place of episodes in a simulator; else None.

    These are a person's own, or any dataset of which `dataset.held_out` is a share. Sets `settings.held_out`.

    Args:
        dataset_root: of `find_dataset`. A stream is compared where it is read from this disk.
        env_cameras: of the run's environment.

    Raises UserError for a stream from the hub that would have to be judged.
    """
    dataset = settings.dataset
    if not dataset.is_given:
        return None
    root = dataset_root or next(iter(dataset.roots), None)
    meta = open_metadata(dataset.repo_id, None if root is None else str(root))
    if not dataset.held_out and not own_recording(meta, env_cameras):
        return None
    if root is None:
        if settings.trainer.validate_every == 0:
            return None
        raise UserError(
            f"{dataset.repo_id} is streamed and has cameras that env does not have, so the policy cannot be judged; "
            "leave out trainer.streaming, or add trainer.validate_every=0 eval.episodes=0"
        )
    share = SHARE if dataset.held_out is None else dataset.held_out
    settings.held_out = held_out_episodes(meta.total_episodes, share)
    return root


def make_optimizer(policy: PreTrainedPolicy, lr: float, weight_decay: float) -> Optimizer:
    """The policy's own optimizer and parameter groups, with the run's learning rate and weight decay."""
    policy.config.optimizer_lr = lr  # some groups have a multiple of it
    preset = replace(policy.config.get_optimizer_preset(), lr=lr, weight_decay=weight_decay)
    optimizer = preset.build(policy.get_optim_params())
    for group in optimizer.param_groups:
        if "fused" in group:
            group["fused"] = True  # one pass over each parameter: a third of the time on a CPU
    return optimizer


def _bounded_as_stored(run_dir: Path) -> AbstractContextManager[None]:
    """Context in which a resumed run makes no network that is far larger than that of its checkpoint."""
    with contextlib.suppress(UserError):  # damaged weights: those of the training state may be whole
        if checkpoint := model_in(run_dir):
            stored_size(checkpoint)
            return bounded_network(checkpoint)
    return contextlib.nullcontext()


class PolicyTrainable(Trainable):
    """A policy with its two pipelines, and batches of demonstrations with augmented images."""

    measure = "success_rate"

    def __init__(self, settings: RunSettings, dataset_root: Path | None, accelerator: Accelerator):
        self._settings, self._accelerator = settings, accelerator
        if settings.held_out:
            self.measure, self.lower_is_better = MEASURE, True
        self._part = (accelerator.process_index, accelerator.num_processes)
        self._dataset = None if dataset_root is None else open_dataset(dataset_root)
        dataset = settings.dataset
        self._meta = self._dataset.meta if self._dataset else open_all(dataset)[0]
        if dataset.calibration:
            self._meta.stats = convert_to_degrees(self._meta.features, self._meta.stats, Path(dataset.calibration))
        sizes, image_size = camera_sizes(self._meta.features), dataset.image_size if dataset.is_given else None
        self._image_step = make_step(settings.policy, sizes, image_size, dataset.image_fit)
        size = self._image_step.size if self._image_step else None
        torch.manual_seed(settings.seed)
        with _bounded_as_stored(settings.run_dir):
            self.module: Any = make_policy(settings.policy, self._meta, device_of(accelerator), size)
        with accelerator.main_process_first():
            is_first = accelerator.is_main_process
            stats = keep_statistics(settings.run_dir, self._meta, dataset.accept_changed, is_first)
        self._pipelines = make_processors(self.module, stats, self._image_step)
        warning = fit_instructions(self.module, self._pipelines[0], map(str, self._meta.tasks.index))
        if warning and accelerator.is_main_process:
            print(f"warning: {warning}")
        if settings.init_from and not finished_checkpoints(settings.run_dir):
            weights = take_weights(self.module, settings.init_from, self._meta)
            accelerator.print(weights)

    def start(self, step: int) -> None:
        resume_phase(self.module, step)
        keep_codebooks_precise(self.module, self._accelerator.device.type)
        self._load = self._from_stream(step) if self._dataset is None else self._from_disk(self._dataset)

    def batch(self, step: int) -> Batch:
        return self._load(step)

    def prepare(self, batch: Batch) -> Batch:
        return self._pipelines[0](batch)

    def make_optimizer(self, lr: float, weight_decay: float) -> Optimizer:
        return make_optimizer(self.module, lr, weight_decay)

    def averaged_parameters(self) -> dict[str, nn.Parameter]:
        return averaged_parameters(self.module)

    def phase(self) -> int:
        return training_phase(self.module)

    def loss_weight(self, batch: Batch) -> float | Tensor:
        return self.module.loss_weight(batch) if isinstance(self.module, TinyVLAPolicy) else 1.0

    def save(self, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
        save_checkpoint_files(
            self.module, *self._pipelines, folder, weights=weights, features=self._meta.features, fps=self._meta.fps
        )
        write_model_card(folder, self.module, self._meta, self._settings, self._accelerator.num_processes)
        if self._settings.dataset.is_given:
            write_held_out(folder, self._meta, self._settings.held_out)

    def _from_stream(self, start: int) -> Callable[[int], Batch]:
        # A stream has no random access: a resumed run continues with other samples of it.
        settings, (index, of) = self._settings, self._part
        if settings.dataset.correction_weight != 1:
            raise UserError("dataset.correction_weight needs trainer.streaming=false; leave one of them out")
        stream = stream_batches(
            settings.dataset,
            self.module.config,
            settings.trainer.batch_size,
            seed=step_seed(settings.seed, start) * of + index,
            image_step=self._image_step,
            held_out=settings.held_out,
        )
        return lambda step: self._augment(stream(), step)

    def _from_disk(self, dataset: LeRobotDataset) -> Callable[[int], Batch]:
        """Loader of this process's part of a step's batch."""
        config, accelerator, (index, of) = self.module.config, self._accelerator, self._part
        tinyvla = self.module if isinstance(self.module, TinyVLAPolicy) else None
        has_features = tinyvla is not None and tinyvla.config.backbone.cache_features
        with accelerator.main_process_first():
            largest = None  # front-ends and a frozen vision tower are given the camera's own pixels
            if tinyvla and not has_features and not tinyvla.frontends:
                largest = tinyvla.model.backbone.resized_to
            frames: dict[str, Any] = dict(cache_frames(dataset, count_cores(), largest, self._image_step))
            inputs = {key: frames[key] for key in config.image_features}
            if tinyvla and has_features:
                backbone = tinyvla.model.backbone
                frames |= cache_features(
                    backbone, dataset.root, inputs, accelerator.device, accelerator.autocast, self._image_step
                )
            if tinyvla and tinyvla.frontends:
                instructions = instructions_of(dataset)
                frames |= cache_frontends(
                    tinyvla.frontends, dataset.root, inputs, instructions, accelerator.device, self._image_step
                )
            chosen = self._settings.dataset
            corrections = (chosen.correction_weight, chosen.policy_frames)
            data = TrainingData(dataset, config, frames, *corrections, held_out=self._settings.held_out)
            if data.summary and accelerator.is_main_process:
                print(data.summary, flush=True)
        order, size = sample_order(len(data), self._settings.seed), self._settings.trainer.batch_size

        def load(step: int) -> Batch:
            batch = data.batch(order((step * of + index) * size, size))
            return batch if has_features else self._augment(batch, step)

        return load

    def _augment(self, batch: Batch, step: int) -> Batch:
        generator = step_generator(self._settings.seed, step)
        for key in self.module.config.image_features:
            batch[key] = augment_images(batch[key], self._settings.trainer.augment, generator, self._part)
        return batch
