"""The training loop, the same for policies and front-ends, on a CPU, one GPU or several."""

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from tqdm import tqdm

from ..files import best_checkpoint
from .checkpoint import CheckpointWriter, read_last_state, restoring, settle
from .device import use_threads
from .distributed import draws_of_whole_batch, gather_shards, load_optimizer, shard_like
from .guard import LossGuard, stop_requests
from .optimizer import averaged_weights, make_ema, make_schedule
from .settings import TrainerConfig
from .timing import StepTimer
from .tracking import Tracker
from .trainable import Trainable, step_seed

Validate = Callable[[Path], Mapping[str, float]]


class Stopped(KeyboardInterrupt):
    """The user has stopped a run, and it is saved: it can be resumed."""


def fit(
    trainable: Trainable,
    trainer: TrainerConfig,
    run_dir: Path,
    seed: int,
    accelerator: Accelerator,
    tracker: Tracker,
    validate: Validate | None = None,
    timer: StepTimer | None = None,
) -> None:
    """Train from the start or from the run's newest checkpoint; writes `checkpoints/best` and `checkpoints/last`.

    Every step draws its samples and its noise from (seed, step) alone. So a run that was stopped, even killed, and
    resumed computes the same as an uninterrupted one, and processes that share a batch compute the same as one process.

    Args:
        trainable: the module, its batches and how it is saved.
        trainer: settings of the loop.
        run_dir: folder of the run, with the checkpoints to resume from.
        seed: of every random draw.
        tracker: records the metrics.
        validate: scores the checkpoint in a folder, which has the averaged weights; the score named
            `trainable.measure` selects the best one.
        timer: measures the phases of the steps.

    Raises UserError if the loss is not finite or diverges (the batch is saved), and Stopped, after a checkpoint, if the
    user stops the run.
    """
    world, module = accelerator.num_processes, trainable.module
    use_threads(accelerator, trainer.num_threads)
    start, best = 0, -math.inf
    if state := read_last_state(run_dir):
        start = state["step"]
        if best_checkpoint(run_dir):  # else its score belongs to weights that are gone
            best = state["best"]
        with restoring(run_dir):
            module.load_state_dict(state["model"])
    module.train()
    trainable.start(start)

    optimizer = trainable.make_optimizer(trainer.lr, trainer.weight_decay)
    schedule = make_schedule(optimizer, trainer.steps, trainer.warmup_ratio)
    if trainer.compile:
        module.compile()
    model, optimizer = accelerator.prepare(module, optimizer)
    sharded = accelerator.is_fsdp2  # which replaces the parameters
    averaged = trainable.averaged_parameters()
    ema = make_ema(list(averaged.values()), trainer.ema_decay)
    guard = LossGuard(run_dir)
    if state:
        with restoring(run_dir):
            load_optimizer(optimizer, state["optimizer"])
            schedule.load_state_dict(state["schedule"])
            if [x.shape for x in state["ema"]["shadow_params"]] != [x.shape for x in averaged.values()]:
                raise ValueError("its averaged weights are those of another network")
            ema.load_state_dict(state["ema"])
            ema.shadow_params = shard_like(ema.shadow_params, list(averaged.values()))
            guard.load_state_dict(state["guard"])
    if accelerator.is_main_process:
        settle(run_dir)  # only now: a run that cannot be resumed is left as it is
    ema.to(accelerator.device)
    stateful = {"model": module, "optimizer": optimizer, "schedule": schedule, "ema": ema, "guard": guard}

    def save(step: int, validation_due: bool) -> None:
        nonlocal best
        state = {name: owner.state_dict() for name, owner in stateful.items()} | {"step": step}
        weights = None
        if sharded:
            state = gather_shards(state)
            weights = state["model"] | dict(zip(averaged, state["ema"]["shadow_params"], strict=True))
        if not accelerator.is_main_process:
            return
        with CheckpointWriter(run_dir, step) as checkpoint:
            is_best = False
            with nullcontext() if sharded else averaged_weights(list(averaged.values()), ema):
                folder = checkpoint.add_model(partial(trainable.save, weights=weights))
                if validation_due and validate:
                    scores = {name: float(score) for name, score in validate(folder).items()}  # not tensors
                    score = scores[trainable.measure] * (-1 if trainable.lower_is_better else 1)
                    is_best = score >= best
                    best = max(best, score)
                    tracker.log(step, {f"validation/{name}": value for name, value in scores.items()})
            tracker.sync()
            checkpoint.finish(state | {"best": best}, is_best)

    timer, logged, stopping = timer or StepTimer(), start, False
    with (
        stop_requests() as stop,
        ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as loader,
        tqdm(total=trainer.steps, initial=start, desc="training", unit="step", disable=not tracker.enabled) as bar,
    ):
        upcoming = loader.submit(trainable.batch, start)
        timer.restart()
        for step in range(start, trainer.steps):
            batch = upcoming.result()
            upcoming = loader.submit(trainable.batch, step + 1)
            timer.lap("data")

            torch.manual_seed(step_seed(seed, step))
            batch = trainable.prepare(batch)
            timer.lap("preprocess")
            phase = trainable.phase()
            with draws_of_whole_batch(accelerator, trainer.batch_size):
                loss, metrics = model(batch)
            weight = trainable.loss_weight(batch) if world > 1 else 1.0
            sums = accelerator.reduce(torch.stack([loss.detach() * weight, *loss.new_tensor([weight, stop.received])]))
            mean_loss, stopping = (sums[0] / sums[1]).item(), bool(sums[2])
            guard.check(step, mean_loss, batch, phase)
            timer.lap("forward")

            # Processes average their gradients, weighted by their share of the samples.
            accelerator.backward(loss * (weight * world / sums[1]))
            timer.lap("backward")
            limit = math.inf if trainer.grad_clip is None else trainer.grad_clip
            grad_norm = accelerator.clip_grad_norm_(model.parameters(), limit)
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
                metrics = {
                    **(metrics or {}),
                    "loss": mean_loss,
                    "lr": schedule.get_last_lr()[0],
                    "grad_norm": float(grad_norm),
                    "samples_per_s": (done - logged) * trainer.batch_size * world / seconds,
                    "data_share": timer.seconds["data"] / seconds,
                }
                tracker.log(done, {f"train/{name}": value for name, value in metrics.items()})
                bar.set_postfix(loss=f"{mean_loss:.4f}", samples_s=f"{metrics['samples_per_s']:.0f}")
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
    if stopping or stop.received:  # the request may have come in the last step, after it was checked
        raise Stopped


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
