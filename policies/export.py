"""A trained TinyVLA policy as a folder that runs without PyTorch."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from lerobot.utils.constants import OBS_STATE

from tinyvla.backbones.tokenizer import HashTokenizer
from tinyvla.errors import UserError
from tinyvla.inference.exported import DESCRIPTION_FILE, MODEL_FILE
from tinyvla.inference.graph import OPSET, onnx_bytes

from .checkpoints import find_checkpoint, load_checkpoint
from .factory import Pipeline
from .image_size import CROP, step_of
from .runtimes import adapt_policy, input_sizes
from .tinyvla.modeling_tinyvla import TinyVLAPolicy


def export_policy(
    checkpoint: Path | str, folder: Path, scheduler: str | None = None, inference_steps: int | None = None
) -> Path:
    """Write a policy's chunk computation as `model.onnx` and a description of its inputs and output as `policy.json`.

    Args:
        checkpoint: a policy's folder, or a run's.
        folder: to create; it is complete or absent.
        scheduler, inference_steps: see `runtimes.adapt_policy`.

    Raises UserError if the policy cannot be exported or the folder exists.
    """
    if folder.exists():
        raise UserError(f"{folder} exists already; choose another folder")
    policy, preprocessor, postprocessor = load_checkpoint(checkpoint, "cpu")
    adapt_policy(policy, "torch", scheduler, inference_steps)
    if not isinstance(policy, TinyVLAPolicy):
        raise UserError(f"only TinyVLA policies can be exported, and this one has type '{policy.config.type}'")
    if policy.frontends:
        raise UserError("a policy with front-ends cannot be exported: their computation is not part of its graph")
    if policy.config.crop_ratio != 1:
        raise UserError("a policy with policy.crop_ratio cannot be exported: the crop is not part of its graph")
    content = onnx_bytes(policy.model, *input_sizes(policy))
    description = describe(policy, preprocessor, postprocessor) | {"checkpoint": str(find_checkpoint(checkpoint))}
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        (temporary / MODEL_FILE).write_bytes(content)
        (temporary / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1))
        temporary.replace(folder)
    except OSError as error:
        raise UserError(f"{folder} could not be written ({error}); free some space or choose another folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def describe(policy: TinyVLAPolicy, preprocessor: Pipeline, postprocessor: Pipeline) -> dict[str, Any]:
    """Description of an exported model for its users: inputs, output, tokens, normalisation, sampler."""
    cameras, (height, width), state_dim = input_sizes(policy)
    image_step = step_of(preprocessor)
    horizon, action_dim = policy.model.chunk_shape
    tokenizer, decoder = policy.model.backbone.tokenizer, policy.config.decoder
    assert isinstance(tokenizer, HashTokenizer)
    return {
        "format": f"ONNX, opset {OPSET}",
        "cameras": policy.cameras,
        "image_fit": CROP if image_step is None else image_step.fit,
        "inputs": {
            "images": _input([1, cameras, 3, height, width], "float32", "cameras in this order, RGB in [0, 1]"),
            "ids": _input([1, "length"], "int64", "token ids of the instruction, length 2 or more"),
            "mask": _input([1, "length"], "bool", "false where a token is padding, which comes last"),
            "state": _input([1, state_dim], "float32", "proprioception, times scale plus offset"),
            "noise": _input([1, horizon, action_dim], "float32", "standard normal"),
        },
        "output": {"actions": _input([1, horizon, action_dim], "float32", "times scale plus offset: robot's units")},
        "tokenizer": {"type": "hash", "vocab_size": tokenizer.vocab_size, "max_length": tokenizer.max_length},
        "normalisation": {
            "state": _affine(lambda x: preprocessor({OBS_STATE: x})[OBS_STATE], state_dim),
            "action": _affine(lambda x: postprocessor(x), action_dim),
        },
        "chunk_size": horizon,
        "n_action_steps": policy.config.n_action_steps,
        "sampler": {
            "scheduler": decoder.sampler_name,
            "inference_steps": decoder.inference_steps,
        },
    }


def _input(shape: list[int | str], dtype: str, meaning: str) -> dict[str, Any]:
    return {"shape": shape, "dtype": dtype, "meaning": meaning}


def _affine(function: Any, size: int) -> dict[str, list[float]]:
    """Scale and offset of a pipeline's (un-)normalisation, which is affine in every mode that LeRobot has."""
    zero, one = (function(torch.full((1, size), value, dtype=torch.float64)).squeeze(0) for value in (0, 1))
    return {"scale": (one - zero).tolist(), "offset": zero.tolist()}
