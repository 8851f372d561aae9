"""Success and time of one trained policy under samplers with fewer denoising steps, on the same seeds.

    uv run python -m benchmarks.samplers checkpoint=outputs/tinyvla-metaworld/<time> episodes=50
    uv run python -m benchmarks.samplers checkpoint=<run> tasks=[drawer-open-v3] samplers=[DDIM-10,DPM-2] runtime=int8

The row of a sampler is written to benchmarks/results as soon as it is measured; the same command resumes. Chunks are
timed separately, on one thread, in turns with the first sampler. The last line is one JSON object.
"""

import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import Machine, keep, markdown, read_kept
from benchmarks.settings import required, setting, start
from tinyvla.errors import UserError, did_you_mean

STEPS = {"DDIM": ("DDIMScheduler", (10, 5, 3, 2, 1)), "DPM": ("DPMSolverMultistepScheduler", (5, 3, 2))}
SAMPLERS: dict[str, dict[str, Any]] = {
    f"{short}-{count}": {"scheduler": scheduler, "inference_steps": count}
    for short, (scheduler, counts) in STEPS.items()
    for count in counts
}
FLOW_SAMPLERS: dict[str, dict[str, Any]] = {f"flow-{count}": {"inference_steps": count} for count in (10, 4, 3, 2, 1)}
TITLES = {
    "sampler": "sampler",
    "success": "success",
    "ci95": "Wilson 95%",
    "chunk_ms": "ms per chunk",
    "ratio": "times as fast",
    "ms_per_action": "ms per action",
}


def random_observation(runner: Any) -> dict[str, Any]:
    """An observation of the policy's shapes."""
    import numpy as np

    rng = np.random.default_rng(0)
    config = runner.policy.config
    observation: dict[str, Any] = {
        key: rng.integers(0, 256, (*feature.shape[1:], 3), np.uint8) for key, feature in config.image_features.items()
    }
    state = rng.normal(size=config.robot_state_feature.shape[0])
    return observation | {"observation.state": state, "task": "open the drawer"}


def time_chunks(
    checkpoint: Path, sampler: dict[str, Any], reference: dict[str, Any], chunks: int
) -> tuple[float, float]:
    """Milliseconds per chunk of a sampler and of the reference: medians of `chunks`, in turns on one thread."""
    import torch

    from policies import load_policy

    torch.set_num_threads(1)
    runners = [load_policy(checkpoint, "cpu", **runner) for runner in (sampler, reference)]
    times: list[list[float]] = [[], []]
    for _ in range(chunks + 5):
        for runner, spent in zip(runners, times, strict=True):
            runner.reset(0)
            start = time.perf_counter()
            runner.act(random_observation(runner))
            spent.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[0][5:]), statistics.median(times[1][5:])


@dataclass
class Settings:
    """Settings of the command line."""

    checkpoint: Path = required("run folder or pretrained_model folder")
    samplers: list[str] = setting([], f"samplers to measure, such as {', '.join(SAMPLERS)}; none: all of them")
    tasks: list[str] = setting(["default"], "tasks and suites")
    episodes: int = setting(20, "episodes per task, on seeds of the evaluation split")
    seed: int = setting(0, "seed of the evaluation")
    workers: int | str = setting("auto", "worker processes; auto: one per core")
    runtime: str = setting("torch", "runner.runtime of evaluate.py")
    chunks: int = setting(50, "timed chunks")
    overrides: list[str] = setting([], "settings of evaluate.py, such as [env.max_steps=200]")
    name: str = setting("samplers", "name of the files in benchmarks/results")


def measure(settings: Settings, checkpoint: Path, name: str, first: str, samplers: dict[str, Any]) -> dict[str, Any]:
    """One row of the table."""
    from configs.composing import as_dict, load_config
    from envs.evaluation import EvaluationOptions, decode_env_of_policy, evaluate

    cfg = load_config(
        "evaluate", [f"env.tasks=[{','.join(settings.tasks)}]", f"checkpoint={checkpoint}", *settings.overrides]
    )
    runner = samplers[name] | {"runtime": settings.runtime}
    options = EvaluationOptions(settings.episodes, seed=settings.seed, workers=settings.workers, runner=runner)
    result = evaluate(checkpoint, decode_env_of_policy(as_dict(cfg.env), checkpoint), options)
    chunk_ms, reference_ms = time_chunks(checkpoint, runner, samplers[first] | {"runtime": "torch"}, settings.chunks)
    low, high = result["ci95"]
    return {
        "sampler": name,
        "success": f"{result['successes']}/{result['episodes']}",
        "ci95": f"{100 * low:.1f}–{100 * high:.1f}%",
        "chunk_ms": round(chunk_ms, 2),
        "ratio": round(reference_ms / chunk_ms, 2),
        "ms_per_action": result["ms_per_action"],
        "tasks": {task: [figures["successes"], figures["episodes"]] for task, figures in result["tasks"].items()},
    }


def main(settings: Settings) -> None:

    from policies import find_checkpoint, load_checkpoint
    from tinyvla.decoders import FlowConfig

    machine, checkpoint = Machine(), find_checkpoint(settings.checkpoint)
    is_flow = isinstance(getattr(load_checkpoint(checkpoint, "cpu")[0].config, "decoder", None), FlowConfig)
    samplers = FLOW_SAMPLERS if is_flow else SAMPLERS
    names = settings.samplers or list(samplers)
    if unknown := set(names) - set(samplers):
        raise UserError(f"no sampler {min(unknown)} for this checkpoint; {did_you_mean(min(unknown), samplers)}")
    weights = (checkpoint / "model.safetensors").stat()
    conditions = {
        "checkpoint": str(settings.checkpoint),
        "checkpoint_written": int(weights.st_mtime),
        **{key: getattr(settings, key) for key in ("tasks", "episodes", "seed", "runtime")},
        "settings": settings.overrides,
    }
    rows = read_kept(settings.name, conditions).get("rows", [])
    first = next(iter(samplers))
    for name in names:
        if name not in {row["sampler"] for row in rows}:
            rows.append(measure(settings, checkpoint, name, first, samplers))
        rows.sort(key=lambda row: list(samplers).index(row["sampler"]))
        result = {"asked": conditions, "machine": machine.describe(1), "rows": rows}
        title = f"{machine.title(1)}; {settings.episodes} episodes per task of {', '.join(settings.tasks)}, "
        title += f"seed {settings.seed}; runtime {settings.runtime}; times as fast: than {first} in torch"
        text = f"{title}\n\n{markdown(rows, TITLES)}"
        keep(settings.name, result, text)
    print(text)
    print(json.dumps(result))


if __name__ == "__main__":
    start(main, Settings, __doc__)
