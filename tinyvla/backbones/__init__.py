"""Multimodal backbones. `BackboneConfig` is the registry: `backbone.type` names an entry, `config.build()` makes it."""

from .base import Backbone, BackboneConfig, Features, Words
from .llava_pythia import LlavaPythiaConfig
from .nano import NanoConfig
from .smolvlm import SmolVLMConfig

__all__ = ["Backbone", "BackboneConfig", "Features", "LlavaPythiaConfig", "NanoConfig", "SmolVLMConfig", "Words"]
