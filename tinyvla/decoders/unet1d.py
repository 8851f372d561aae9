"""Conditional 1-D U-Net over the time axis of an action chunk (Diffusion Policy, arXiv 2303.04137, section IV-A)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ranges import MAX_WIDTH, check_range
from .denoiser import Denoiser, DenoiserConfig

MAX_RESOLUTIONS = 6


@DenoiserConfig.register_subclass("unet")
@dataclass
class UNet1dConfig(DenoiserConfig):
    """Options of the U-Net; the released TinyVLA has widths 256, 512, 1024 and step_embedding 256.

    Args:
        widths: channels at each resolution; the chunk's length must be a multiple of 2 ** (len(widths) - 1).
        kernel_size: odd width of the temporal convolutions.
        groups: groups of the group normalisation.
        step_embedding: width of the diffusion step's sinusoidal embedding.
        bfloat16_steps: compute that embedding in bfloat16, as the released TinyVLA does; its weights have learnt the
            rounded values.
        identity_film: the condition multiplies by 1 plus its scale, so that an untrained network passes its input on;
            False: by its scale, as in the released TinyVLA.
    """

    widths: list[int] = field(default_factory=lambda: [64, 128])
    kernel_size: int = 5
    groups: int = 8
    step_embedding: int = 64
    bfloat16_steps: bool = False
    identity_film: bool = True

    def __post_init__(self) -> None:
        check_range(self, "kernel_size", "groups", "step_embedding", low=1, high=MAX_WIDTH)
        if not 1 <= len(self.widths) <= MAX_RESOLUTIONS:
            raise ValueError(f"widths has {len(self.widths)} numbers; give 1 to {MAX_RESOLUTIONS}")
        if wrong := [width for width in self.widths if not 1 <= width <= MAX_WIDTH or width % self.groups]:
            raise ValueError(f"widths has {wrong[0]}; give multiples of groups {self.groups} from 1 to {MAX_WIDTH}")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {self.kernel_size}; give an odd number")
        if self.step_embedding % 2:
            raise ValueError(f"step_embedding is {self.step_embedding}; give an even number")

    def build(self, action_dim: int, chunk_size: int, condition_dim: int) -> "UNet1d":
        if chunk_size % 2 ** (len(self.widths) - 1):
            raise ValueError(
                f"chunk_size {chunk_size} must divide by {2 ** (len(self.widths) - 1)} for {len(self.widths)} widths"
            )
        return UNet1d(self, action_dim, condition_dim)


class Bfloat16Timesteps(nn.Module):
    """Sinusoidal embedding of diffusion steps (N,) to (N, dim), rounded to bfloat16 after every operation."""

    def __init__(self, dim: int):
        super().__init__()
        self.frequency_count = dim // 2

    def forward(self, steps: Tensor) -> Tensor:
        # A buffer of the frequencies would not stay rounded when the policy is cast.
        exponents = torch.arange(self.frequency_count, dtype=torch.bfloat16, device=steps.device)
        frequencies = torch.exp(exponents * (-math.log(10_000) / max(1, self.frequency_count - 1)))
        angles = steps.to(torch.bfloat16).unsqueeze(-1) * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class ConvBlock(nn.Sequential):
    """Temporal convolution, group normalisation, Mish."""

    def __init__(self, c_in: int, c_out: int, kernel_size: int, groups: int):
        super().__init__(
            nn.Conv1d(c_in, c_out, kernel_size, padding=kernel_size // 2), nn.GroupNorm(groups, c_out), nn.Mish()
        )


class ResidualBlock(nn.Module):
    """Two convolution blocks; the condition scales and shifts the output of the first one (FiLM)."""

    def __init__(
        self, c_in: int, c_out: int, condition_dim: int, kernel_size: int, groups: int, identity_film: bool = True
    ):
        super().__init__()
        self.scale_offset = float(identity_film)
        self.first = ConvBlock(c_in, c_out, kernel_size, groups)
        self.second = ConvBlock(c_out, c_out, kernel_size, groups)
        self.film = nn.Linear(condition_dim, 2 * c_out)
        self.skip = nn.Conv1d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def modulate(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift (N, c_out, 1) for conditions (N, condition_dim), already activated."""
        scale, shift = self.film(condition).unsqueeze(-1).chunk(2, dim=1)
        return self.scale_offset + scale, shift

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """x (B, c_in, T), scale and shift (B, c_out, 1) -> (B, c_out, T)."""
        return self.second(self.first(x) * scale + shift) + self.skip(x)


class UNet1d(Denoiser):
    """Two residual blocks per resolution on the way down and up, with skip connections; see the module's docstring."""

    def __init__(self, config: UNet1dConfig, action_dim: int, condition_dim: int):
        from diffusers.models.embeddings import Timesteps

        super().__init__()
        widths, dim = config.widths, config.step_embedding
        self.step_embedding = nn.Sequential(
            Bfloat16Timesteps(dim) if config.bfloat16_steps else Timesteps(dim, False, downscale_freq_shift=1),
            nn.Linear(dim, 4 * dim),
            nn.Mish(),
            nn.Linear(4 * dim, dim),
        )

        def pair(c_in: int, c_out: int) -> nn.ModuleList:
            shared = (condition_dim + dim, config.kernel_size, config.groups, config.identity_film)
            return nn.ModuleList([ResidualBlock(c_in, c_out, *shared), ResidualBlock(c_out, c_out, *shared)])

        steps = list(zip([action_dim, *widths[:-1]], widths, strict=True))
        self.down = nn.ModuleList(pair(c_in, c_out) for c_in, c_out in steps)
        self.shrink = nn.ModuleList(nn.Conv1d(c, c, 3, stride=2, padding=1) for c in widths[:-1])
        self.middle = pair(widths[-1], widths[-1])
        self.up = nn.ModuleList(pair(2 * c_out, c_in) for c_in, c_out in reversed(steps[1:]))
        self.grow = nn.ModuleList(nn.ConvTranspose1d(c, c, 4, stride=2, padding=1) for c in reversed(widths[:-1]))
        self.final = nn.Sequential(
            ConvBlock(widths[0], widths[0], config.kernel_size, config.groups), nn.Conv1d(widths[0], action_dim, 1)
        )

    def _blocks(self) -> Iterator[ResidualBlock]:
        """The residual blocks in the order of computation."""
        for pair in (*self.down, self.middle, *self.up):
            yield from cast(Iterator[ResidualBlock], iter(cast(nn.ModuleList, pair)))

    def modulate(self, steps: Tensor, condition: Tensor) -> list[Tensor]:
        embedded = self.step_embedding[1:](self.step_embedding[0](steps).to(condition.dtype))
        condition = F.mish(torch.cat([embedded, condition], dim=-1))
        return [tensor for block in self._blocks() for tensor in block.modulate(condition)]

    def denoise(self, actions: Tensor, modulation: Sequence[Tensor]) -> Tensor:
        x = actions.transpose(1, 2)
        film = zip(modulation[::2], modulation[1::2], strict=True)
        skips: list[Tensor] = []
        for level, blocks in enumerate(self.down):
            for block in cast(nn.ModuleList, blocks):
                x = block(x, *next(film))
            if level < len(self.shrink):
                skips.append(x)
                x = self.shrink[level](x)
        skips.append(x)
        for block in self.middle:
            x = block(x, *next(film))
        for blocks, grow in zip(self.up, self.grow, strict=True):
            x = torch.cat([x, skips.pop()], dim=1)
            for block in cast(nn.ModuleList, blocks):
                x = block(x, *next(film))
            x = grow(x)
        return self.final(x).transpose(1, 2)
