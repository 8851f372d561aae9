"""Multimodal backbones. `BackboneConfig` is the registry: `backbone.type` names an entry, `config.build()` makes it."""

from .base import Backbone, BackboneConfig, Features
from .nano import NanoConfig

__all__ = ["Backbone", "BackboneConfig", "Features", "NanoConfig"]
