"""Time and memory of one action chunk (vision, language, 10 denoising steps) for every backbone, batch 1, two cameras.

    uv run benchmarks/inference.py                    # everything; the largest model needs about 5 GB
    uv run benchmarks/inference.py --models nano

Weights are random in the true shape, LoRA counts as merged, and every model runs in a process of its own, so that peak
memory is that model's alone. On a CPU it is the whole process's; `libraries_mb` of it are there before the model is.
The last line is one JSON object.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

# Settings of train.py, and the dtype: the large ones in float32 would not fit a laptop's memory.
MODELS: dict[str, tuple[list[str], str]] = {
    "nano": ([], "float32"),
    "smolvlm-256M": (
        ["backbone=smolvlm", "decoder/network=unet", "backbone.pretrained=null", "backbone.lora.r=0"],
        "bfloat16",
    ),
    **{
        f"llava_pythia-{size.upper()}": (
            [f"preset=paper_{size}", "backbone.pretrained=null", "backbone.lora.r=0"],
            "bfloat16",
        )
        for size in "sbh"
    },
}
INSTRUCTION = "press the button from the top"
WARM_UP = 3


def measure(name: str, device: str, threads: int, repeats: int, seconds: float) -> dict[str, Any]:
    """One row of the table, measured in this process."""
    import torch
    from lerobot.configs import FeatureType, PolicyFeature

    from configs.composing import as_dict, load_config
    from policies.factory import decode_policy_config
    from policies.tinyvla.modeling_tinyvla import TinyVLAPolicy

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    libraries = peak_memory_mb("cpu")
    overrides, dtype_name = MODELS[name]
    dtype = getattr(torch, dtype_name)
    cfg = load_config("train", ["env.cameras=[corner2,topview]", *overrides])
    size = cfg.env.image_size
    height, width = (size, size) if isinstance(size, int) else size
    config = decode_policy_config(as_dict(cfg.policy), device)
    config.input_features = {
        f"observation.images.{camera}": PolicyFeature(FeatureType.VISUAL, (3, height, width))
        for camera in cfg.env.cameras
    } | {"observation.state": PolicyFeature(FeatureType.STATE, (4,))}
    config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (4,))}

    # Made in its dtype at once: casting afterwards would count both copies as peak memory.
    torch.set_default_dtype(dtype)
    policy = TinyVLAPolicy(config).to(device)
    torch.set_default_dtype(torch.float32)
    batch: dict[str, Any] = {
        key: torch.rand(1, *feature.shape, device=device).to(dtype) for key, feature in config.input_features.items()
    }
    batch["task"] = [INSTRUCTION]

    times: list[float] = []
    began = time.perf_counter()
    while len(times) < WARM_UP + repeats and (len(times) < WARM_UP + 3 or time.perf_counter() - began < seconds):
        start = time.perf_counter()
        policy.predict_action_chunk(batch).cpu()  # .cpu() waits for a GPU
        times.append((time.perf_counter() - start) * 1e3)
    count = {part: sum(p.numel() for p in module.parameters()) / 1e6 for part, module in policy.model.named_children()}
    return {
        "backbone": name,
        "parameters_m": round(sum(count.values()), 1),
        "decoder_m": round(count["decoder"], 1),
        "dtype": dtype_name,
        "image": f"{width}x{height}",
        "chunk_ms": round(statistics.median(times[WARM_UP:]), 1),
        "repeats": len(times) - WARM_UP,
        "peak_memory_mb": round(peak_memory_mb(device)),
        "libraries_mb": round(libraries),
    }


def peak_memory_mb(device: str) -> float:
    """Peak memory of this process, or on the GPU what PyTorch allocated there, in 10^6 bytes."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated() / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    titles = {
        "backbone": "backbone",
        "parameters_m": "parameters (M)",
        "decoder_m": "of them decoder (M)",
        "dtype": "dtype",
        "image": "cameras 2 x",
        "chunk_ms": "ms a chunk",
        "peak_memory_mb": "peak memory (MB)",
    }
    lines = [list(titles.values()), ["---"] * len(titles), *([str(row[key]) for key in titles] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=cores, help="CPU threads (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=50, help="timed chunks a model at most")
    parser.add_argument("--seconds", type=float, default=30, help="time a model at most, but three chunks at least")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()

    if args.in_process:
        print(json.dumps(measure(args.models[0], args.device, args.threads, args.repeats, args.seconds)))
        return
    busy = os.getloadavg()[0]
    if busy > 0.5:
        print(f"other programs keep {busy:.1f} cores busy: the times will be too long", file=sys.stderr)
    rows = []
    for name in args.models:
        print(f"{name} ...", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, "--in-process", "--models", name, "--device", args.device]
        command += ["--threads", str(args.threads), "--repeats", str(args.repeats), "--seconds", str(args.seconds)]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(result.stdout.splitlines()[-1]))
    machine = f"{platform.system()} {platform.machine()}, {processor()}"
    print(f"{machine}; {args.device}, {args.threads} threads; batch 1, median of at most {args.repeats} chunks\n")
    print(table(rows) + "\n")
    nano = {f"{row['backbone']}_chunk_ms": row["chunk_ms"] for row in rows if row["backbone"] == "nano"}
    setting = {"machine": machine, "device": args.device, "threads": args.threads, "load_before": round(busy, 2)}
    print(json.dumps(nano | setting | {"models": rows}))


def processor() -> str:
    """The CPU's name, where the system tells."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"


if __name__ == "__main__":
    main()
