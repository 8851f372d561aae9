"""Time and memory of one action chunk for every backbone, batch 1, default cameras.

    uv run python -m benchmarks.inference                    # everything; the largest model needs about 5 GB
    uv run python -m benchmarks.inference models=[film]
    uv run python -m benchmarks.inference models=[film] runtimes=[torch,compile,bf16,int8,onnx,openvino]

Weights are random in the true shape, LoRA counts as merged, and every model runs in its own process, so that peak
memory is that model's alone. On a CPU it is that of the whole process, `libraries_mb` of it before the model is built.
`runtimes` adds the default model under runtimes of evaluate.py (runner.runtime), timed in turns with torch; the peak
memory of exported models is that of a process without PyTorch. Writes results/inference.json and .md; the last line is
one JSON object.
"""

import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, Machine, keep, markdown, peak_memory_mb, warn_if_busy
from benchmarks.own_process import in_own_process
from benchmarks.settings import setting, start
from tinyvla.machine import count_cores

# Settings of train.py, and the dtype: in float32 the large models would not fit a laptop's memory.
MODELS: dict[str, tuple[list[str], str]] = {
    "film": ([], "float32"),
    "nano": (["backbone=nano"], "float32"),
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
DEFAULT = "film"
WARM_UP = 3
RUNTIMES = ("torch", "compile", "bf16", "int8", "onnx", "openvino")
RUNTIME_TITLES = {
    "runtime": "runtime",
    "chunk_ms": "ms per chunk",
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
    cfg = load_config("train", overrides)
    size = cfg.env.image_size
    height, width = (size, size) if isinstance(size, int) else size
    config = decode_policy_config(as_dict(cfg.policy), device)
    config.input_features = {
        f"observation.images.{camera}": PolicyFeature(FeatureType.VISUAL, (3, height, width))
        for camera in cfg.env.cameras
    } | {"observation.state": PolicyFeature(FeatureType.STATE, (4,))}
    config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (4,))}

    # Built in its dtype: casting afterwards would count both copies as peak memory.
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
        "image": f"{len(policy.cameras)} x {width}x{height}",
        "chunk_ms": round(statistics.median(times[WARM_UP:]), 1),
        "repeats": len(times) - WARM_UP,
        "peak_memory_mb": round(peak_memory_mb(device)),
        "libraries_mb": round(libraries),
    }


def measure_runtime(runtime: str, device: str, threads: int, repeats: int) -> dict[str, Any]:
    """Row of the default model in one runtime, measured in this process (memory of an exported model: in another)."""
    import torch

    from policies.runtimes import adapt_policy

    torch.set_num_threads(threads)
    policy, batch = make_policy(DEFAULT, device)
    start = time.perf_counter()
    adapt_policy(policy, runtime)
    started = time.perf_counter() - start
    noise = torch.randn(1, *policy.model.chunk_shape, generator=torch.Generator().manual_seed(1)).to(device)

    def chunk_ms(model: Any) -> float:
        start = time.perf_counter()
        model.predict_action_chunk(batch, noise=noise).cpu()
        return (time.perf_counter() - start) * 1e3

    for _ in range(WARM_UP):
        chunk_ms(policy)
    if runtime in ("onnx", "openvino"):
        peak, size = measure_exported(runtime, threads)
    else:
        peak, weights = peak_memory_mb(device), io.BytesIO()
        torch.save(policy.model.state_dict(), weights)
        size = weights.tell() / 1e6
    reference, _ = make_policy(DEFAULT, device)
    times = [(chunk_ms(policy), chunk_ms(reference)) for _ in range(WARM_UP + repeats)][WARM_UP:]
    runtime_ms, torch_ms = (statistics.median(column) for column in zip(*times, strict=True))
    difference = policy.predict_action_chunk(batch, noise=noise) - reference.predict_action_chunk(batch, noise=noise)
    return {
        "runtime": runtime,
        "chunk_ms": round(runtime_ms, 2),
        "torch_ms": round(torch_ms, 2),
        "ratio": round(torch_ms / runtime_ms, 2),
        "start_s": round(started, 1),
        "peak_memory_mb": round(peak),
        "file_mb": round(size, 1),
        "parity": float(f"{difference.abs().max().item():.1e}"),
    }


def measure_exported(engine: str, threads: int) -> tuple[float, float]:
    """Peak memory of a process that runs the exported default model without PyTorch, and its file's size, in MB."""
    from policies.runtimes import input_sizes
    from tinyvla.inference.graph import onnx_bytes

    policy, batch = make_policy(DEFAULT, "cpu")
    ids, mask = policy.model.backbone.tokenizer(batch["task"])
    inputs = {"ids": [list(ids.shape), "int64"], "mask": [list(mask.shape), "bool"]}
    cameras, image_size, state_dim = input_sizes(policy)
    shapes = {"images": [1, cameras, 3, *image_size], "state": [1, state_dim], "noise": [1, *policy.model.chunk_shape]}
    inputs |= {name: [shape, "float32"] for name, shape in shapes.items()}
    code = (
        "import json, sys, numpy\nfrom pathlib import Path\nfrom benchmarks.machine import peak_memory_mb\n"
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
        result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        return float(result.stdout.splitlines()[-1]), file.stat().st_size / 1e6


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    titles = {
        "backbone": "backbone",
        "parameters_m": "parameters (M)",
        "decoder_m": "of them decoder (M)",
        "dtype": "dtype",
        "image": "cameras",
        "chunk_ms": "ms per chunk",
        "peak_memory_mb": "peak memory (MB)",
    }
    return markdown(rows, titles)


@dataclass
class Settings:
    """Settings of the command line."""

    models: list[str] = setting(list(MODELS), "backbones", MODELS)
    runtimes: list[str] = setting([], "runtimes of the default model", RUNTIMES)
    device: str = setting("cpu", "device of all models", ("cpu", "cuda"))
    threads: int = setting(count_cores(), "CPU threads")
    repeats: int = setting(50, "most timed chunks per model")
    seconds: float = setting(30.0, "most time per model, but at least three chunks")


def main(settings: Settings) -> None:
    machine, load = Machine(), warn_if_busy("times are too long")
    device, threads, repeats = settings.device, settings.threads, settings.repeats
    rows = []
    for model in settings.models:
        print(f"{model} ...", file=sys.stderr, flush=True)
        arguments = (model, device, threads, repeats, settings.seconds)
        rows.append(in_own_process("benchmarks.inference:measure", *arguments))
    runtimes = []
    for runtime in settings.runtimes:
        print(f"{runtime} ...", file=sys.stderr, flush=True)
        runtimes.append(in_own_process("benchmarks.inference:measure_runtime", runtime, device, threads, repeats))
    title = f"{machine.name}; {device}, {threads} threads; batch 1, median of at most {repeats} chunks"
    text = "\n\n".join([title, table(rows), *([markdown(runtimes, RUNTIME_TITLES)] if runtimes else [])])
    conditions = {"machine": machine.name, "device": device, "threads": threads, "load_before": load}
    result = conditions | {"models": rows} | ({"runtimes": runtimes} if runtimes else {})
    keep("inference", result, text)
    print(f"{text}\n\n{json.dumps(result)}")


if __name__ == "__main__":
    start(main, Settings, __doc__)
