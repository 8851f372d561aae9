"""Multimodal backbones. `backbone.type` names one of `BackboneConfig.registry`; `config.build()` makes it."""

from .base import Backbone, BackboneConfig, Features, Words, resize
from .nano import NanoConfig

__all__ = ["Backbone", "BackboneConfig", "Features", "NanoConfig", "Words", "resize"]
