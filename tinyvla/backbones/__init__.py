"""Multimodal backbones. `backbone.type` names one of `BackboneConfig.registry`; `config.build()` makes it."""

from .base import Backbone, BackboneConfig, Features, Words, resize
from .film import FilmConfig

__all__ = ["Backbone", "BackboneConfig", "Features", "FilmConfig", "Words", "resize"]
