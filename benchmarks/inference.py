"""Time and memory of one action chunk (vision, language, 10 denoising steps) for every backbone, batch 1, two cameras.

    uv run benchmarks/inference.py                    # everything; the largest model needs about 5 GB
    uv run benchmarks/inference.py --models nano
    uv run benchmarks/inference.py --models nano --runtimes torch compile bf16 int8 onnx openvino

Weights are random in the true shape, LoRA counts as merged, and every model runs in a process of its own, so that peak
memory is that model's alone. On a CPU it is the whole process's; `libraries_mb` of it are there before the model is.
`--runtimes` adds the nano model under runtimes of evaluate.py (runner.runtime), each timed in turns with torch; the
peak memory of exported models is that of a process without PyTorch. The last line is one JSON object.
"""

import argparse
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import Machine, markdown

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
RUNTIMES = ("torch", "compile", "bf16", "int8", "onnx", "openvino")
RUNTIME_TITLES = {
    "runtime": "runtime",
    "chunk_ms": "ms a chunk",
    "torch_ms": "torch in turns",
    "ratio": "times as fast",
    "start_s": "start (s)",
    "peak_memory_mb": "peak memory (MB)",
    "file_mb": "weights (MB)",
    "parity": "largest difference",
}


def make_policy(name: str, device: str) -> tuple[Any, dict[str, Any]]:
    """A policy with random weights, and a batch of one observation."""
    import torch
    from lerobot.configs import FeatureType, PolicyFeature

    from configs.composing import as_dict, load_config
    from policies.factory import decode_policy_config
    from policies.tinyvla.modeling_tinyvla import TinyVLAPolicy

    torch.manual_seed(0)
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
    return policy, batch


def measure(name: str, device: str, threads: int, repeats: int, seconds: float) -> dict[str, Any]:
    """One row of the table, measured in this process."""
    import torch

    from policies.tinyvla import modeling_tinyvla  # noqa: F401  counts as libraries

    torch.set_num_threads(threads)
    libraries = peak_memory_mb("cpu")
    policy, batch = make_policy(name, device)
    height, width = batch[policy.cameras[0]].shape[-2:]
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
        "dtype": MODELS[name][1],
        "image": f"{width}x{height}",
        "chunk_ms": round(statistics.median(times[WARM_UP:]), 1),
        "repeats": len(times) - WARM_UP,
        "peak_memory_mb": round(peak_memory_mb(device)),
        "libraries_mb": round(libraries),
    }


def measure_runtime(runtime: str, device: str, threads: int, repeats: int) -> dict[str, Any]:
    """The nano model's row of one runtime, measured in this process (an exported one's memory: in another)."""
    import torch

    from policies.runtimes import adapt_policy

    torch.set_num_threads(threads)
    policy, batch = make_policy("nano", device)
    start = time.perf_counter()
    adapt_policy(policy, runtime)
    started = time.perf_counter() - start
    noise = torch.randn(1, *policy.model.chunk_shape, generator=torch.Generator().manual_seed(1)).to(device)

    def chunk_ms(which: Any) -> float:
        start = time.perf_counter()
        which.predict_action_chunk(batch, noise=noise).cpu()
        return (time.perf_counter() - start) * 1e3

    for _ in range(WARM_UP):
        chunk_ms(policy)
    if runtime in ("onnx", "openvino"):
        peak, size = measure_exported(runtime, threads)
    else:
        peak, weights = peak_memory_mb(device), io.BytesIO()
        torch.save(policy.model.state_dict(), weights)
        size = weights.tell() / 1e6
    reference, _ = make_policy("nano", device)
    times = [(chunk_ms(policy), chunk_ms(reference)) for _ in range(WARM_UP + repeats)][WARM_UP:]
    own, torchs = (statistics.median(column) for column in zip(*times, strict=True))
    difference = policy.predict_action_chunk(batch, noise=noise) - reference.predict_action_chunk(batch, noise=noise)
    return {
        "runtime": runtime,
        "chunk_ms": round(own, 2),
        "torch_ms": round(torchs, 2),
        "ratio": round(torchs / own, 2),
        "start_s": round(started, 1),
        "peak_memory_mb": round(peak),
        "file_mb": round(size, 1),
        "parity": float(f"{difference.abs().max().item():.1e}"),
    }


def measure_exported(engine: str, threads: int) -> tuple[float, float]:
    """Peak memory of a process that runs the exported nano model without PyTorch, and the model file's size, in MB."""
    from policies.runtimes import input_sizes
    from tinyvla.inference.graph import onnx_bytes

    policy, batch = make_policy("nano", "cpu")
    ids, mask = policy.model.backbone.tokenizer(batch["task"])
    inputs = {"ids": [list(ids.shape), "int64"], "mask": [list(mask.shape), "bool"]}
    cameras, image_size, state_dim = input_sizes(policy)
    shapes = {"images": [1, cameras, 3, *image_size], "state": [1, state_dim], "noise": [1, *policy.model.chunk_shape]}
    inputs |= {name: [shape, "float32"] for name, shape in shapes.items()}
    code = (
        "import json, sys, numpy\nfrom pathlib import Path\nfrom benchmarks.inference import peak_memory_mb\n"
        "from tinyvla.inference.sessions import SESSIONS\n"
        "run = SESSIONS[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))\n"
        "inputs = {name: numpy.ones(shape, dtype) for name, (shape, dtype) in json.loads(sys.argv[4]).items()}\n"
        "for _ in range(5): run(inputs)\n"
        "assert 'torch' not in sys.modules\nprint(peak_memory_mb('cpu'))"
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        file.write_bytes(onnx_bytes(policy.model, cameras, image_size, state_dim))
        command = [sys.executable, "-c", code, engine, str(file), str(threads), json.dumps(inputs)]
        result = subprocess.run(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True, check=True)
        return float(result.stdout.splitlines()[-1]), file.stat().st_size / 1e6


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
    return markdown(rows, titles)


def main() -> None:
    this = Machine()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--runtimes", nargs="*", choices=RUNTIMES, default=[], help="of the nano model")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=this.cores, help="CPU threads (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=50, help="timed chunks a model at most")
    parser.add_argument("--seconds", type=float, default=30, help="time a model at most, but three chunks at least")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()

    if args.in_process:
        if args.runtimes:
            print(json.dumps(measure_runtime(args.runtimes[0], args.device, args.threads, args.repeats)))
        else:
            print(json.dumps(measure(args.models[0], args.device, args.threads, args.repeats, args.seconds)))
        return
    busy = os.getloadavg()[0]
    if busy > 0.5:
        print(f"other programs keep {busy:.1f} cores busy: the times will be too long", file=sys.stderr)

    def in_process(*which: str) -> dict[str, Any]:
        print(f"{which[-1]} ...", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "benchmarks.inference", "--in-process", *which, "--device", args.device]
        command += ["--threads", str(args.threads), "--repeats", str(args.repeats), "--seconds", str(args.seconds)]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(result.stdout.splitlines()[-1])

    rows = [in_process("--models", name) for name in args.models]
    runtimes = [in_process("--models", "nano", "--runtimes", name) for name in args.runtimes]
    print(f"{this.name}; {args.device}, {args.threads} threads; batch 1, median of at most {args.repeats} chunks\n")
    print(table(rows) + "\n")
    if runtimes:
        print(markdown(runtimes, RUNTIME_TITLES) + "\n")
    nano = {f"{row['backbone']}_chunk_ms": row["chunk_ms"] for row in rows if row["backbone"] == "nano"}
    setting = {"machine": this.name, "device": args.device, "threads": args.threads, "load_before": round(busy, 2)}
    print(json.dumps(nano | setting | {"models": rows} | ({"runtimes": runtimes} if runtimes else {})))


if __name__ == "__main__":
    main()
