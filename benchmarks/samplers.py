"""What fewer denoising steps cost: success and time of one trained policy under several samplers, on the same seeds.

    uv run benchmarks/samplers.py outputs/tinyvla-metaworld/<time> --episodes 50
    uv run benchmarks/samplers.py <checkpoint> --tasks drawer-open-v3 --samplers DDIM-10 DPM-2 --runtime int8

A sampler's row is kept in benchmarks/results as soon as it is there; the same command goes on where it stopped. The
time of a chunk is measured by itself, on one thread, in turns with the first sampler. The last line is one JSON object.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS, Machine, keep, markdown

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
    "chunk_ms": "ms a chunk",
    "ratio": "times as fast",
    "ms_per_action": "ms an action",
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


def time_chunks(checkpoint: Path, how: dict[str, Any], reference: dict[str, Any], chunks: int) -> tuple[float, float]:
    """Milliseconds a chunk of a sampler and of the reference, medians of `chunks` measured in turns on one thread."""
    import torch

    from policies import PolicyRunner

    torch.set_num_threads(1)
    runners = [PolicyRunner.from_checkpoint(checkpoint, "cpu", **each) for each in (how, reference)]
    times: list[list[float]] = [[], []]
    for _ in range(chunks + 5):
        for runner, spent in zip(runners, times, strict=True):
            runner.reset(0)
            start = time.perf_counter()
            runner.act(random_observation(runner))
            spent.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[0][5:]), statistics.median(times[1][5:])


def measure(args: argparse.Namespace, checkpoint: Path, name: str, first: str, how: dict[str, Any]) -> dict[str, Any]:
    """One row of the table."""
    from configs.composing import as_dict, load_config
    from envs import decode_env
    from envs.evaluation import EvaluationOptions, evaluate

    cfg = load_config("evaluate", [f"env.tasks=[{','.join(args.tasks)}]", f"checkpoint={checkpoint}", *args.settings])
    runner = how[name] | {"runtime": args.runtime}
    options = EvaluationOptions(args.episodes, seed=args.seed, workers=args.workers, runner=runner)
    result = evaluate(checkpoint, decode_env(as_dict(cfg.env)), options)
    chunk_ms, reference_ms = time_chunks(checkpoint, runner, how[first] | {"runtime": "torch"}, args.chunks)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="a run folder or a pretrained_model folder")
    parser.add_argument("--samplers", nargs="+", metavar="NAME", help="those of the table to measure (default: all)")
    parser.add_argument("--tasks", nargs="+", default=["default"], help="tasks and suites (default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=20, help="a task, on seeds of the evaluation split")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", default="auto")
    parser.add_argument("--runtime", default="torch", help="of runner.runtime")
    parser.add_argument("--chunks", type=int, default=50, help="timed chunks")
    parser.add_argument(
        "--settings", nargs="*", default=[], help="further settings of evaluate.py, as in env.max_steps=200"
    )
    parser.add_argument("--name", default="samplers", help="of the files in benchmarks/results")
    args = parser.parse_args()

    from policies import find_checkpoint, load_checkpoint
    from tinyvla.decoders import FlowConfig

    machine, checkpoint = Machine(), find_checkpoint(args.checkpoint)
    is_flow = isinstance(getattr(load_checkpoint(checkpoint, "cpu")[0].config, "decoder", None), FlowConfig)
    how = FLOW_SAMPLERS if is_flow else SAMPLERS
    names = args.samplers or list(how)
    if unknown := set(names) - set(how):
        parser.error(f"no sampler {', '.join(sorted(unknown))} for this checkpoint; there are {', '.join(how)}")
    weights = (checkpoint / "model.safetensors").stat()
    asked = {
        "checkpoint": str(args.checkpoint),
        "checkpoint_written": int(weights.st_mtime),
        **{key: getattr(args, key) for key in ("tasks", "episodes", "seed", "runtime", "settings")},
    }
    file = RESULTS / f"{args.name}.json"
    kept = json.loads(file.read_text()) if file.exists() else {}
    rows = kept.get("rows", []) if kept.get("asked") == asked else []
    first = next(iter(how))
    for name in names:
        if name not in {row["sampler"] for row in rows}:
            rows.append(measure(args, checkpoint, name, first, how))
        rows.sort(key=lambda row: list(how).index(row["sampler"]))
        result = {"asked": asked, "machine": machine.describe(1), "rows": rows}
        title = f"{machine.title(1)}; {args.episodes} episodes a task of {', '.join(args.tasks)}, seed {args.seed}; "
        text = title + f"runtime {args.runtime}; times as fast: than {first} in torch\n\n" + markdown(rows, TITLES)
        keep(args.name, result, text)
    print(text)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
