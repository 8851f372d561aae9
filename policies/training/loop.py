"""The training loop: reads top to bottom, and is the same on a CPU, a GPU and many."""

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from tinyvla.augment import augment_images

from ..factory import find_checkpoint, make_policy, make_processors, save_checkpoint_files
from .checkpoint import CheckpointWriter, read_last_state
from .data import TrainingData, cache_frames, open_dataset, sample_order
from .device import count_cores
from .guard import LossGuard, stop_requests
from .optim import averaged_weights, make_ema, make_optimizer
from .phases import averaged_parameters, resume_phase, training_phase
from .tracking import Tracker

Validate = Callable[[Path], Mapping[str, float]]


def train(
    cfg: DictConfig,
    dataset_root: Path,
    accelerator: Accelerator,
    tracker: Tracker,
    validate: Validate | None = None,
) -> Path:
    """Train a policy, from the start or from the run's newest checkpoint; returns the folder of the best policy.

    Every step draws its samples and its noise from (seed, step, process) alone, so a run that was stopped, however
    roughly, goes on along the very curve of one that was not.

    Args:
        cfg: the run's configuration: policy, trainer, seed, run_dir.
        dataset_root: a LeRobotDataset.
        tracker: takes the figures.
        validate: scores the policy saved in a folder, `success_rate` among its figures; the highest is the best.

    Raises UserError if the loss is no number or diverges (the batch is saved), and KeyboardInterrupt, once all is
    saved, if the user stops the run.
    """
    trainer, run_dir, world = cfg.trainer, Path(cfg.run_dir), accelerator.num_processes
    if accelerator.device.type == "cpu":
        torch.set_num_threads(count_cores() if trainer.num_threads == "auto" else trainer.num_threads)

    dataset = open_dataset(dataset_root)
    torch.manual_seed(cfg.seed)
    policy = make_policy(
        cast(dict[str, Any], OmegaConf.to_container(cfg.policy)), dataset.meta, str(accelerator.device)
    )
    preprocess, postprocess = make_processors(policy, dataset.meta.stats)
    with accelerator.main_process_first():
        data = TrainingData(dataset, policy.config, cache_frames(dataset, count_cores()))
    order = sample_order(len(data), cfg.seed)
    optimizer, schedule = make_optimizer(policy, trainer)
    averaged = averaged_parameters(policy)
    ema = make_ema(averaged, trainer.ema_decay)
    guard = LossGuard(run_dir)

    parts = {"policy": policy, "optimizer": optimizer, "schedule": schedule, "ema": ema, "guard": guard}
    start, best = 0, -math.inf
    if state := read_last_state(run_dir):
        start, best = state["step"], state["best"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
    ema.to(accelerator.device)
    model, optimizer = accelerator.prepare(policy, optimizer)
    policy.train()
    resume_phase(policy, start)

    def seed_of(step: int) -> int:
        return (cfg.seed * 1_000_003 + step) * world + accelerator.process_index

    def load(step: int) -> dict[str, Any]:
        first = (step * world + accelerator.process_index) * trainer.batch_size
        batch = data.batch(order(first, trainer.batch_size))
        generator = torch.Generator().manual_seed(seed_of(step))
        for key in policy.config.image_features:
            batch[key] = augment_images(batch[key], trainer.augment, generator)
        return batch

    def save(step: int, validation_due: bool) -> None:
        nonlocal best
        with CheckpointWriter(run_dir, step) as checkpoint:
            with averaged_weights(averaged, ema):
                folder = checkpoint.add_policy(partial(save_checkpoint_files, policy, preprocess, postprocess))
            is_best = False
            if validation_due and validate:
                scores = validate(folder)
                is_best = scores["success_rate"] >= best
                best = max(best, scores["success_rate"])
                tracker.log(step, {f"validation/{name}": value for name, value in scores.items()})
            state = {name: part.state_dict() for name, part in parts.items()}
            checkpoint.finish(state | {"step": step, "best": best}, is_best)

    clock, waited, logged, stopping = time.perf_counter(), 0.0, start, False
    with (
        stop_requests() as stop,
        ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as loader,
        tqdm(total=trainer.steps, initial=start, desc="training", unit="step", disable=not tracker.enabled) as bar,
    ):
        upcoming = loader.submit(load, start)
        for step in range(start, trainer.steps):
            asked = time.perf_counter()
            batch = upcoming.result()
            waited += time.perf_counter() - asked
            upcoming = loader.submit(load, step + 1)

            torch.manual_seed(seed_of(step))
            batch = preprocess(batch)
            phase = training_phase(policy)
            loss, _ = model(batch)
            sums = accelerator.reduce(torch.stack([loss.detach().float(), loss.new_tensor(float(stop.asked))]))
            mean_loss, stopping = sums[0].item() / world, bool(sums[1])
            guard.check(step, mean_loss, batch, phase)

            accelerator.backward(loss)
            grad_norm = accelerator.clip_grad_norm_(model.parameters(), trainer.grad_clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            ema.step(averaged)

            done = step + 1
            bar.update()
            if _due(done, trainer.log_every) or done == trainer.steps:
                seconds, since = time.perf_counter() - clock, done - logged
                figures = {
                    "loss": mean_loss,
                    "lr": schedule.get_last_lr()[0],
                    "grad_norm": float(grad_norm),
                    "samples_per_s": since * trainer.batch_size * world / seconds,
                    "data_share": waited / seconds,
                }
                tracker.log(done, {f"train/{name}": value for name, value in figures.items()})
                bar.set_postfix(loss=f"{mean_loss:.4f}", samples_s=f"{figures['samples_per_s']:.0f}")
                clock, waited, logged = time.perf_counter(), 0.0, done
            at_end = done == trainer.steps
            validation_due = trainer.validate_every > 0 and (at_end or _due(done, trainer.validate_every))
            if at_end or validation_due or stopping or _due(done, trainer.save_every):
                if accelerator.is_main_process:
                    paused = time.perf_counter()
                    save(done, validation_due)
                    clock += time.perf_counter() - paused
                accelerator.wait_for_everyone()
            if stopping:
                break
    if stopping or stop.asked:  # the wish may have come in the last step, after that step looked
        accelerator.print(f"saved; go on with: python train.py run_dir={run_dir} resume=true")
        raise KeyboardInterrupt
    return find_checkpoint(run_dir)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
