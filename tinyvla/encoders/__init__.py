"""Image encoders: TinyViT through timm, and Compact Transformers, registered with timm when this is imported."""

from .encoder import ENCODERS, Classifier, Encoder, known_name, make_encoder, make_net
from .tinyvit import timm_name

__all__ = ["ENCODERS", "Classifier", "Encoder", "known_name", "make_encoder", "make_net", "timm_name"]
