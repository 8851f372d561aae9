"""Exported policies, run with NumPy and ONNX Runtime only; PyTorch is not needed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..hashing import hash_words
from .sessions import SESSIONS

MODEL_FILE, DESCRIPTION_FILE = "model.onnx", "policy.json"


class ExportedPolicy:
    """A policy that export.py wrote: observations in the robot's units to action chunks in the robot's units.

    Args:
        folder: written by export.py.
        engine: `onnx` (ONNX Runtime) or `openvino`.
        threads: CPU threads.

    Raises UserError if the folder does not hold an exported policy or the engine is not installed.
    """

    def __init__(self, folder: Path | str, engine: str = "onnx", threads: int = 1):
        folder = Path(folder)
        if missing := [name for name in (MODEL_FILE, DESCRIPTION_FILE) if not (folder / name).is_file()]:
            raise UserError(f"{folder} lacks {missing[0]}; give a folder that export.py wrote")
        if engine not in SESSIONS:
            raise UserError(f"unknown engine '{engine}'; use {' or '.join(SESSIONS)}")
        self.description: dict[str, Any] = json.loads((folder / DESCRIPTION_FILE).read_text())
        self._run = SESSIONS[engine](folder / MODEL_FILE, threads)

    def predict_chunk(
        self, observation: Mapping[str, Any], rng: np.random.Generator | None = None, noise: np.ndarray | None = None
    ) -> np.ndarray:
        """The next actions, float32 (chunk_size, A), in the robot's units.

        Args:
            observation: observation.images.<camera> uint8 (H, W, 3), observation.state (S,), task str.
            rng: draws the noise that the chunk is denoised from.
            noise: (chunk_size, A), in place of `rng`.
        """
        inputs, tokenizer = self.description["inputs"], self.description["tokenizer"]
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
