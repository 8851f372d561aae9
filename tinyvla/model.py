"""TinyVLA (arXiv 2409.12514): a multimodal backbone whose features condition a generative action decoder."""

import torch
from torch import Tensor, nn

from .backbones import BackboneConfig
from .decoders import DecoderConfig, Known


class TinyVLA(nn.Module):
    """Backbone and decoder behind two calls. The backbone runs once a chunk, never once a denoising step."""

    def __init__(
        self, backbone: BackboneConfig, decoder: DecoderConfig, state_dim: int, action_dim: int, chunk_size: int
    ):
        super().__init__()
        self.chunk_shape = (chunk_size, action_dim)
        self.backbone = backbone.build()
        self.decoder = decoder.build(self.backbone.hidden_size, state_dim, action_dim, chunk_size)

    def loss(self, images: Tensor, instructions: list[str], state: Tensor, actions: Tensor, is_pad: Tensor) -> Tensor:
        """Scalar loss of B samples: images (B, C, 3, H, W), state (B, S), actions (B, H, A), is_pad (B, H) bool."""
        return self.decoder.loss(self.backbone(images, instructions), state, actions, is_pad)

    def sample(
        self,
        images: Tensor,
        instructions: list[str],
        state: Tensor,
        noise: Tensor | None = None,
        known: Known | None = None,
    ) -> Tensor:
        """Action chunks (B, H, A) for B observations; `noise` (B, H, A) fixes the draw, `known` what they continue."""
        if noise is None:
            noise = torch.randn(len(state), *self.chunk_shape, device=state.device, dtype=state.dtype)
        return self.decoder.sample(self.backbone(images, instructions), state, noise, known)
