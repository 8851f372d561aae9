"""Diffusion transformer over action chunks: adaLN-Zero blocks (DiT, arXiv 2212.09748, section 3.2) on action tokens."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import Timesteps
from timm.layers import Mlp
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from .denoiser import DenoiserConfig


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

    def build(self, action_dim: int, chunk_size: int, condition_dim: int) -> "DiT":
        return DiT(self, action_dim, chunk_size, condition_dim)


class DiTBlock(nn.Module):
    """Self-attention and MLP, each scaled, shifted and gated by the condition; the gates start at zero."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.attention = Attention(width, heads, qkv_bias=True)
        self.attention.fused_attn = False  # a chunk is a few tokens: plain products train several times faster on a CPU
        self.mlp = Mlp(width, 4 * width)
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        modulation = self.modulation(F.silu(condition)).unsqueeze(1).chunk(6, dim=-1)
        for norm, layer, (shift, scale, gate) in zip(
            self.norms, (self.attention, self.mlp), (modulation[:3], modulation[3:]), strict=True
        ):
            x = x + gate * layer(norm(x) * (1 + scale) + shift)
        return x


class DiT(nn.Module):
    """Predicts the noise (or velocity) of a chunk: (B, H, A), steps (B,), condition (B, D) -> (B, H, A)."""

    def __init__(self, config: DiTConfig, action_dim: int, chunk_size: int, condition_dim: int):
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

    def forward(self, actions: Tensor, steps: Tensor, condition: Tensor) -> Tensor:
        embedded = self.step_embedding(self.step_frequencies(steps).to(condition.dtype))
        condition = embedded + self.condition(condition)
        x = self.embed(actions) + self.position
        for block in self.blocks:
            x = block(x, condition)
        return self.head(self.norm(x))
