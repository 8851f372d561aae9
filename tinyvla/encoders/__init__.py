"""Image encoders: TinyViT through timm, and Compact Transformers, registered with timm when this is imported."""

from ..frontends.tinyvit.model import timm_name
from .encoder import ENCODERS, Classifier, Encoder, known_name, make_encoder, make_net

__all__ = ["ENCODERS", "Classifier", "Encoder", "known_name", "make_encoder", "make_net", "timm_name"]
