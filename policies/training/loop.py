"""The training loop: reads top to bottom, and is the same on a CPU, a GPU and many."""

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from lerobot.datasets import LeRobotDataset
from lerobot.policies import PreTrainedPolicy
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from tinyvla.augment import augment_images

from ..data import (
    TrainingData,
    cache_features,
    cache_frames,
    open_dataset,
    open_metadata,
    sample_order,
    stream_batches,
)
from ..factory import find_checkpoint, make_policy, make_processors, save_checkpoint_files
from .checkpoint import CheckpointWriter, read_last_state
from .device import count_cores, device_of
from .distributed import draws_of_whole_batch, gather_shards, load_optimizer, shard_like
from .guard import LossGuard, stop_requests
from .optim import averaged_weights, make_ema, make_optimizer
from .phases import averaged_parameters, keep_codebooks_precise, resume_phase, training_phase
from .timing import StepTimer
from .tracking import Tracker

Validate = Callable[[Path], Mapping[str, float]]


def train(
    cfg: DictConfig,
    dataset_root: Path | None,
    accelerator: Accelerator,
    tracker: Tracker,
    validate: Validate | None = None,
    timer: StepTimer | None = None,
) -> Path:
    """Train a policy, from the start or from the run's newest checkpoint; returns the folder of the best policy.

    Every step draws its samples and its noise from (seed, step) alone, so a run that was stopped, however roughly, goes
    on along the very curve of one that was not; and processes that share a batch draw what one process would.

    Args:
        cfg: the run's configuration: policy, trainer, dataset, seed, run_dir.
        dataset_root: a LeRobotDataset; None: the one that `cfg.dataset` names is streamed.
        tracker: takes the figures.
        validate: scores the policy saved in a folder, `success_rate` among its figures; the highest is the best.
        timer: measures the parts of the steps.

    Raises UserError if the loss is no number or diverges (the batch is saved), and KeyboardInterrupt, once all is
    saved, if the user stops the run.
    """
    trainer, run_dir, world = cfg.trainer, Path(cfg.run_dir), accelerator.num_processes
    if accelerator.device.type == "cpu":
        torch.set_num_threads(count_cores() if trainer.num_threads == "auto" else trainer.num_threads)

    dataset = None if dataset_root is None else open_dataset(dataset_root)
    meta = dataset.meta if dataset else open_metadata(cfg.dataset.repo_id, cfg.dataset.root)
    torch.manual_seed(cfg.seed)
    policy = make_policy(cast(dict[str, Any], OmegaConf.to_container(cfg.policy)), meta, device_of(accelerator))
    preprocess, postprocess = make_processors(policy, meta.stats)
    start, best = 0, -math.inf
    if state := read_last_state(run_dir):
        start, best = state["step"], state["best"]
        policy.load_state_dict(state["policy"])
    load = _batches(cfg, policy, dataset, accelerator, start)

    optimizer, schedule = make_optimizer(policy, trainer)
    if trainer.compile:
        policy.compile()
    model, optimizer = accelerator.prepare(policy, optimizer)
    sharded = accelerator.is_fsdp2  # the parameters are other ones now
    averaged = averaged_parameters(policy)
    ema = make_ema(list(averaged.values()), trainer.ema_decay)
    guard = LossGuard(run_dir)
    if state:
        load_optimizer(optimizer, state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        ema.load_state_dict(state["ema"])
        ema.shadow_params = shard_like(ema.shadow_params, list(averaged.values()))
        guard.load_state_dict(state["guard"])
    ema.to(accelerator.device)
    parts = {"policy": policy, "optimizer": optimizer, "schedule": schedule, "ema": ema, "guard": guard}
    weight_of = getattr(policy, "loss_weight", None) if world > 1 else None
    policy.train()
    resume_phase(policy, start)
    keep_codebooks_precise(policy, accelerator.device.type)

    def save(step: int, validation_due: bool) -> None:
        nonlocal best
        state = {name: part.state_dict() for name, part in parts.items()} | {"step": step}
        weights = None
        if sharded:
            state = gather_shards(state)
            weights = state["policy"] | dict(zip(averaged, state["ema"]["shadow_params"], strict=True))
        if not accelerator.is_main_process:
            return
        with CheckpointWriter(run_dir, step) as checkpoint:
            with nullcontext() if sharded else averaged_weights(list(averaged.values()), ema):
                folder = checkpoint.add_policy(
                    partial(
                        save_checkpoint_files,
                        policy,
                        preprocess,
                        postprocess,
                        weights=weights,
                        features=meta.features,
                    )
                )
            is_best = False
            if validation_due and validate:
                scores = validate(folder)
                is_best = scores["success_rate"] >= best
                best = max(best, scores["success_rate"])
                tracker.log(step, {f"validation/{name}": value for name, value in scores.items()})
            checkpoint.finish(state | {"best": best}, is_best)

    timer, logged, stopping = timer or StepTimer(), start, False
    with (
        stop_requests() as stop,
        ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as loader,
        tqdm(total=trainer.steps, initial=start, desc="training", unit="step", disable=not tracker.enabled) as bar,
    ):
        upcoming = loader.submit(load, start)
        timer.restart()
        for step in range(start, trainer.steps):
            batch = upcoming.result()
            upcoming = loader.submit(load, step + 1)
            timer.lap("data")

            torch.manual_seed(_seed_of(cfg, step))
            batch = preprocess(batch)
            timer.lap("preprocess")
            phase = training_phase(policy)
            with draws_of_whole_batch(accelerator, trainer.batch_size):
                loss, _ = model(batch)
            weight = weight_of(batch) if weight_of else 1.0
            sums = accelerator.reduce(torch.stack([loss.detach() * weight, *loss.new_tensor([weight, stop.asked])]))
            mean_loss, stopping = (sums[0] / sums[1]).item(), bool(sums[2])
            guard.check(step, mean_loss, batch, phase)
            timer.lap("forward")

            # Processes average their gradients; those with more to tell count for more.
            accelerator.backward(loss * (weight * world / sums[1]))
            timer.lap("backward")
            grad_norm = accelerator.clip_grad_norm_(model.parameters(), trainer.grad_clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            timer.lap("optimizer")
            ema.step(averaged.values())
            timer.lap("averaging")

            done = step + 1
            bar.update()
            if _due(done, trainer.log_every) or done == trainer.steps:
                seconds = sum(timer.seconds.values())
                figures = {
                    "loss": mean_loss,
                    "lr": schedule.get_last_lr()[0],
                    "grad_norm": float(grad_norm),
                    "samples_per_s": (done - logged) * trainer.batch_size * world / seconds,
                    "data_share": timer.seconds["data"] / seconds,
                }
                tracker.log(done, {f"train/{name}": value for name, value in figures.items()})
                bar.set_postfix(loss=f"{mean_loss:.4f}", samples_s=f"{figures['samples_per_s']:.0f}")
                logged = done
                timer.restart()
            at_end = done == trainer.steps
            validation_due = trainer.validate_every > 0 and (at_end or _due(done, trainer.validate_every))
            if at_end or validation_due or stopping or _due(done, trainer.save_every):
                if accelerator.is_main_process or sharded:
                    save(done, validation_due)
                accelerator.wait_for_everyone()
                timer.lap(None)
            if stopping:
                break
    if stopping or stop.asked:  # the wish may have come in the last step, after that step looked
        accelerator.print(f"saved; go on with: python train.py run_dir={run_dir} resume=true")
        raise KeyboardInterrupt
    return find_checkpoint(run_dir)


def _seed_of(cfg: DictConfig, step: int) -> int:
    return cfg.seed * 1_000_003 + step


def _batches(
    cfg: DictConfig, policy: PreTrainedPolicy, dataset: LeRobotDataset | None, accelerator: Accelerator, start: int
) -> Callable[[int], dict[str, Any]]:
    """A function that makes this process's part of a step's batch, with augmented pictures; steps come in order."""
    trainer, part = cfg.trainer, (accelerator.process_index, accelerator.num_processes)
    if dataset is None:
        # There is no way back into a stream: a resumed run goes on with another draw of it.
        seed = _seed_of(cfg, start) * part[1] + part[0]
        stream = stream_batches(
            *(cfg.dataset.repo_id, cfg.dataset.root, policy.config, trainer.batch_size, seed),
            buffer=cfg.dataset.shuffle_buffer,
        )
        return lambda step: _augment(stream(), policy, cfg, step, part)

    cached = bool(getattr(getattr(policy.config, "backbone", None), "cache_features", False))
    with accelerator.main_process_first():
        frames: dict[str, Any] = dict(cache_frames(dataset, count_cores()))
        if cached:
            used = {key: frames[key] for key in policy.config.image_features}
            backbone = cast(Any, policy).model.backbone
            frames |= cache_features(backbone, dataset.root, used, accelerator.device, accelerator.autocast)
        data = TrainingData(dataset, policy.config, frames)
    order = sample_order(len(data), cfg.seed)

    def load(step: int) -> dict[str, Any]:
        batch = data.batch(order((step * part[1] + part[0]) * trainer.batch_size, trainer.batch_size))
        return batch if cached else _augment(batch, policy, cfg, step, part)

    return load


def _augment(
    batch: dict[str, Any], policy: PreTrainedPolicy, cfg: DictConfig, step: int, part: tuple[int, int]
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(_seed_of(cfg, step))
    for key in policy.config.image_features:
        batch[key] = augment_images(batch[key], cfg.trainer.augment, generator, part)
    return batch


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
