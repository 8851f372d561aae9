"""An exported model in place of the TinyVLA that it was made from."""

import numpy as np
import torch
from torch import Tensor, nn

from ..model import TinyVLA
from .graph import INPUTS, onnx_bytes
from .sessions import SESSIONS


class SessionModel(nn.Module):
    """Samples chunks with another engine, one at a time, in place of a TinyVLA.

    Args:
        model: the TinyVLA; its weights are not stored.
        engine: one of SESSIONS.
        cameras, image_size: number of cameras, and height and width of their images.
        state_dim: size of the state.

    Raises UserError if the model cannot be exported or the engine is not installed.
    """

    def __init__(self, model: TinyVLA, engine: str, cameras: int, image_size: tuple[int, int], state_dim: int):
        super().__init__()
        content = onnx_bytes(model, cameras, image_size, state_dim)
        self.chunk_shape = model.chunk_shape
        self._tokenizer, self._prompt = model.backbone.tokenizer, model.backbone.prompt
        self._run = SESSIONS[engine](content, torch.get_num_threads())

    def sample(
        self,
        images: Tensor,
        instructions: list[str],
        state: Tensor,
        noise: Tensor | None = None,
        known: None = None,
    ) -> Tensor:
        """As TinyVLA.sample, for a batch of one; exported models do not support `known`."""
        if noise is None:
            noise = torch.randn(len(state), *self.chunk_shape, device=state.device, dtype=state.dtype)
        ids, mask = self._tokenizer([self._prompt(instruction) for instruction in instructions])
        if ids.shape[1] < 2:  # an exported model takes two tokens or more
            ids, mask = (nn.functional.pad(tensor, (0, 1)) for tensor in (ids, mask))
        tensors = dict(zip(INPUTS, (images, ids, mask, state, noise), strict=True))
        inputs = {name: np.ascontiguousarray(tensor.cpu().numpy()) for name, tensor in tensors.items()}
        return torch.from_numpy(self._run(inputs)).to(state.device)
