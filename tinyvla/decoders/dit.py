"""Diffusion transformer over action chunks: adaLN-Zero blocks (DiT, arXiv 2212.09748, section 3.2) on action tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ranges import MAX_LAYERS, MAX_WIDTH, check_range
from .denoiser import Denoiser, DenoiserConfig


@DenoiserConfig.register_subclass("dit")
@dataclass
class DiTConfig(DenoiserConfig):
    """Options of the diffusion transformer.

    Args:
        width, layers, heads: the transformer.
        step_embedding: width of the diffusion step's sinusoidal embedding.
    """

    width: int = 256
    layers: int = 6
    heads: int = 4
    step_embedding: int = 256

    def __post_init__(self) -> None:
        check_range(self, "layers", low=1, high=MAX_LAYERS)
        check_range(self, "width", "heads", "step_embedding", low=1, high=MAX_WIDTH)
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must divide by heads {self.heads}")
        if self.step_embedding % 2:
            raise ValueError(f"step_embedding is {self.step_embedding}; give an even number")

    def build(self, action_dim: int, chunk_size: int, condition_dim: int) -> "DiT":
        return DiT(self, action_dim, chunk_size, condition_dim)


class DiTBlock(nn.Module):
    """Self-attention and MLP, each scaled, shifted and gated by the condition; the gates start at zero."""

    NUM_MODULATIONS = 6  # shift, scale and gate of either layer

    def __init__(self, width: int, heads: int):
        # Not at the top: timm imports all its models and wandb, which takes seconds.
        from timm.layers import Mlp
        from timm.models.vision_transformer import Attention

        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.attention = Attention(width, heads, qkv_bias=True)
        self.attention.fused_attn = False  # plain products of so few tokens are several times faster on a CPU
        self.mlp = Mlp(width, 4 * width)
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def modulate(self, condition: Tensor) -> list[Tensor]:
        """Shift, scale and gate (N, 1, width) of either layer for conditions (N, width), already activated."""
        chunks = self.modulation(condition).unsqueeze(1).chunk(self.NUM_MODULATIONS, dim=-1)
        return [1 + chunk if i % 3 == 1 else chunk for i, chunk in enumerate(chunks)]

    def forward(self, x: Tensor, modulation: Sequence[Tensor]) -> Tensor:
        for norm, layer, (shift, scale, gate) in zip(
            self.norms, (self.attention, self.mlp), (modulation[:3], modulation[3:]), strict=True
        ):
            x = x + gate * layer(norm(x) * scale + shift)
        return x


class DiT(Denoiser):
    """Transformer over action tokens with learnt positions; the output layer starts at zero."""

    def __init__(self, config: DiTConfig, action_dim: int, chunk_size: int, condition_dim: int):
        from diffusers.models.embeddings import Timesteps

        super().__init__()
        width = config.width
        self.embed = nn.Linear(action_dim, width)
        self.position = nn.Parameter(torch.randn(1, chunk_size, width) * 0.02)
        self.step_frequencies = Timesteps(config.step_embedding, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.step_embedding = nn.Sequential(nn.Linear(config.step_embedding, width), nn.SiLU(), nn.Linear(width, width))
        self.condition = nn.Linear(condition_dim, width)
        self.blocks = nn.ModuleList(DiTBlock(width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, action_dim)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def modulate(self, steps: Tensor, condition: Tensor) -> list[Tensor]:
        embedded = self.step_embedding(self.step_frequencies(steps).to(condition.dtype))
        condition = F.silu(embedded + self.condition(condition))
        return [tensor for block in self.blocks for tensor in cast(DiTBlock, block).modulate(condition)]

    def denoise(self, actions: Tensor, modulation: Sequence[Tensor]) -> Tensor:
        x, size = self.embed(actions) + self.position, DiTBlock.NUM_MODULATIONS
        for i, block in enumerate(self.blocks):
            x = block(x, modulation[i * size : (i + 1) * size])
        return self.head(self.norm(x))
