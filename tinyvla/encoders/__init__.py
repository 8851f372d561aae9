"""Image encoders: TinyViT through timm, and Compact Transformers, which this import registers with timm."""

from ..frontends.classifier import Classifier
from .encoder import ENCODERS, Encoder, known_name, make_encoder

__all__ = ["ENCODERS", "Classifier", "Encoder", "known_name", "make_encoder"]
