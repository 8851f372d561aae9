"""Action decoders. `decoder.type` names one of `DecoderConfig.registry`; `config.build(...)` makes it."""

from .base import ActionDecoder, DecoderConfig, Known
from .denoiser import DenoiserConfig
from .diffusion import DiffusionConfig
from .dit import DiTConfig
from .flow import FlowConfig
from .unet1d import UNet1dConfig

__all__ = [
    "ActionDecoder",
    "DecoderConfig",
    "DenoiserConfig",
    "DiTConfig",
    "DiffusionConfig",
    "FlowConfig",
    "Known",
    "UNet1dConfig",
]
