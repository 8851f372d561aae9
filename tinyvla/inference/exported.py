"""Exported policies, run with NumPy and ONNX Runtime only; PyTorch is not needed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError, one_line
from ..hashing import hash_words
from ..untrusted import check_values, inside, read_json_object
from .onnx_check import check_onnx
from .sessions import SESSIONS

MODEL_FILE, DESCRIPTION_FILE = "model.onnx", "policy.json"
_MAX_BYTES, _MAX_SIZE = 4 << 20, 1 << 20


class ExportedPolicy:
    """A policy that export.py wrote: observations in the robot's units to action chunks in the robot's units.

    Args:
        folder: written by export.py.
        engine: `onnx` (ONNX Runtime) or `openvino`.
        threads: CPU threads.

    Nothing of the folder is run, and no other file is opened: see docs/security.md.

    Raises UserError if the folder does not hold an exported policy, if its files are refused, or if the engine is not
    installed.
    """

    def __init__(self, folder: Path | str, engine: str = "onnx", threads: int = 1):
        folder = Path(folder)
        if missing := [name for name in (MODEL_FILE, DESCRIPTION_FILE) if not (folder / name).is_file()]:
            raise UserError(f"{folder} lacks {missing[0]}; give a folder that export.py wrote")
        if engine not in SESSIONS:
            raise UserError(f"unknown engine '{engine}'; use {' or '.join(SESSIONS)}")
        self.description = read_description(folder)
        check_onnx(inside(folder, MODEL_FILE))
        try:
            self._run = SESSIONS[engine](folder / MODEL_FILE, threads)
        except UserError:
            raise
        except Exception as error:  # the engines have their own classes of errors
            raise UserError(
                f"{folder / MODEL_FILE} cannot be opened ({one_line(error)}); export the policy again"
            ) from error

    def predict_chunk(
        self, observation: Mapping[str, Any], rng: np.random.Generator | None = None, noise: np.ndarray | None = None
    ) -> np.ndarray:
        """The next actions, float32 (chunk_size, A), in the robot's units.

        Args:
            observation: observation.images.<camera> uint8 (H, W, 3) of the model's size, observation.state (S,), task
                str.
            rng: draws the noise that the chunk is denoised from.
            noise: (chunk_size, A), in place of `rng`.

        Raises UserError for images of another size.
        """
        inputs, tokenizer = self.description["inputs"], self.description["tokenizer"]
        size = tuple(inputs["images"]["shape"][-2:])
        for camera in self.description["cameras"]:
            if size and (shape := np.shape(observation[camera])[:2]) != size:
                fit = self.description.get("image_fit", "crop")
                raise UserError(f"{camera} has {shape} pixels and the exported policy takes {size}; {fit} it first")
        images = [np.asarray(observation[camera]).transpose(2, 0, 1) for camera in self.description["cameras"]]
        ids = np.array([hash_words(observation["task"], tokenizer["vocab_size"], tokenizer["max_length"])])
        mask = np.ones(ids.shape, bool)
        if ids.shape[1] < 2:  # the model takes two tokens or more
            ids, mask = (np.pad(array, ((0, 0), (0, 1))) for array in (ids, mask))
        if noise is None:
            noise = (rng or np.random.default_rng()).standard_normal(inputs["noise"]["shape"][1:])
        state = self._scaled("state", np.asarray(observation["observation.state"]))
        actions = self._run(
            {
                "images": np.stack(images)[None].astype(np.float32) / 255,
                "ids": ids,
                "mask": mask,
                "state": state[None].astype(np.float32),
                "noise": np.asarray(noise, np.float32)[None],
            }
        )
        return self._scaled("action", actions[0]).astype(np.float32)

    def _scaled(self, name: str, values: np.ndarray) -> np.ndarray:
        affine = self.description["normalisation"][name]
        return values * np.array(affine["scale"]) + np.array(affine["offset"])


def read_description(folder: Path) -> dict[str, Any]:
    """Content of an exported policy's policy.json. Raises UserError if a value is missing or unsuitable."""
    file = inside(folder, DESCRIPTION_FILE)
    content = read_json_object(file, _MAX_BYTES)
    check_values(content, file.name)
    try:
        cameras, tokenizer, scales = content["cameras"], content["tokenizer"], content["normalisation"]
        shape, state_shape = content["inputs"]["noise"]["shape"], content["inputs"]["state"]["shape"]
        image_shape = content["inputs"].setdefault("images", {"shape": []})["shape"]
        sizes = [*shape[1:], *image_shape, tokenizer["vocab_size"], tokenizer["max_length"]]
        lengths = {"state": state_shape[-1], "action": shape[-1]}
        affine = {(part, key): scales[part][key] for part in lengths for key in ("scale", "offset")}
        is_suitable = (
            isinstance(cameras, list)
            and all(isinstance(camera, str) for camera in cameras)
            and len(shape) == 3
            and all(type(size) is int and 1 <= size <= _MAX_SIZE for size in sizes)
            and all(isinstance(values, list) and len(values) == lengths[part] for (part, _), values in affine.items())
            and all(type(value) in (int, float) for values in affine.values() for value in values)
        )
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"{file} lacks {one_line(error)}; export the policy again") from error
    if not is_suitable:
        raise UserError(f"{file} has unsuitable cameras, sizes or normalisation; export the policy again")
    return content
