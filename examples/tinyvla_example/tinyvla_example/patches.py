"""Backbone of a few thousand parameters: one token per image patch and one per word."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tinyvla.backbones import Backbone, BackboneConfig, Features, Words
from tinyvla.backbones.tokenizer import HashTokenizer


@BackboneConfig.register_subclass("patches")
@dataclass
class PatchesConfig(BackboneConfig):
    """Options of the backbone.

    Args:
        width: size of a token.
        grid: patches per side of an image.
    """

    width: int = 64
    grid: int = 8

    def build(self) -> "PatchesBackbone":
        return PatchesBackbone(self)


class PatchesBackbone(Backbone):
    """Mean colour and place of every patch, and the words of the instruction, as tokens."""

    def __init__(self, config: PatchesConfig):
        super().__init__()
        self.hidden_size = config.width
        self.tokenizer = HashTokenizer(vocab_size=256)
        self.patches = nn.AdaptiveAvgPool2d(config.grid)
        self.colour = nn.Linear(3, config.width)
        self.place = nn.Parameter(torch.randn(config.grid**2, config.width) * 0.02)
        self.words = nn.Embedding(256, config.width)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.words

    def encode(self, images: Tensor, words: Words) -> Features:
        """Tokens (B, C * grid² + L, width) of images (B, C, 3, H, W) and L words."""
        batch, cameras = images.shape[:2]
        patches = self.patches(images.flatten(0, 1)).flatten(2).transpose(1, 2)
        tokens = (self.colour(patches) + self.place).unflatten(0, (batch, cameras)).flatten(1, 2)
        mask = torch.cat([words.mask.new_ones(tokens.shape[:2]), words.mask], dim=1)
        return Features(torch.cat([tokens, words.embedded.to(tokens.dtype)], dim=1), mask)
