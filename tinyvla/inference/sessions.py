"""Engines that run an exported model. PyTorch is not imported, directly or indirectly."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..extras import needs_extra

type Session = Callable[[Mapping[str, np.ndarray]], np.ndarray]


def onnxruntime_session(model: bytes | Path, threads: int) -> Session:
    """ONNX Runtime on the CPU: inputs by name -> the model's output."""
    with needs_extra("export", "runner.runtime=onnx"):
        import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that spin while they wait for work would take the cores of other processes between two chunks.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    source = model if isinstance(model, bytes) else os.fspath(model)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, dict(inputs))[0]


def openvino_session(model: bytes | Path, threads: int) -> Session:
    """OpenVINO on the CPU, in float32: inputs by name -> the output. Raises UserError if it is not installed."""
    with needs_extra("openvino", "runner.runtime=openvino"):
        import openvino
    core = openvino.Core()
    # By default it computes in bfloat16 if the CPU supports it.
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = core.compile_model(core.read_model(model), "CPU", options)
    request = compiled.create_infer_request()
    return lambda inputs: request.infer(dict(inputs))[0].copy()


SESSIONS: dict[str, Callable[[bytes | Path, int], Session]] = {
    "onnx": onnxruntime_session,
    "openvino": openvino_session,
}
