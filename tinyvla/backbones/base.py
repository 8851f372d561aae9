"""The backbone seam: images of one or more cameras and an instruction go in, token features come out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import draccus
import torch
from torch import Tensor, nn


class Features(NamedTuple):
    """Token features of a batch, computed once an action chunk and read by an action decoder.

    tokens: (B, N, D) last hidden states: every camera's image tokens, then the instruction's.
    mask: (B, N) bool, True where a token is real and False where it is padding.
    """

    tokens: Tensor
    mask: Tensor


class Words(NamedTuple):
    """B texts as a language model takes them in, padded on the right.

    embedded: (B, L, D) word embeddings.
    mask: (B, L) bool, True where a token is real.
    """

    embedded: Tensor
    mask: Tensor


class Backbone(nn.Module):
    """A multimodal encoder. Subclasses set `hidden_size` (D) and `tokenizer`, and implement what raises here."""

    hidden_size: int
    tokenizer: Any  # B texts -> ids (B, L), mask (B, L) bool
    REMEMBERED = 64  # batches of texts
    exportable = True  # `encode` computes from its tensors alone, so that it can be traced

    def __init__(self) -> None:
        super().__init__()
        self._remembered: dict[tuple[Any, ...], Words] = {}

    def get_input_embeddings(self) -> nn.Embedding:
        """The language model's word embeddings."""
        raise NotImplementedError

    @classmethod
    def prompt(cls, instruction: str) -> str:
        """The text that follows the images. Default: the instruction."""
        return instruction

    def encode(self, images: Tensor, words: Words) -> Features:
        """Encode images (B, C, 3, H, W), float in [0, 1], of C cameras, with B prompts. Tensors in, tensors out."""
        raise NotImplementedError

    def forward(self, images: Tensor, instructions: list[str]) -> Features:
        """Encode images (B, C, 3, H, W), float in [0, 1], of C cameras, with B instructions."""
        words = self.read([self.prompt(instruction) for instruction in instructions])
        return self.encode(images.to(words.embedded.dtype), words)

    def read(self, texts: list[str]) -> Words:
        """Tokenise and embed B texts; in evaluation mode and without gradients, what was read before is remembered."""
        if self.training or torch.is_grad_enabled():
            return self._read(texts)
        # A tensor's version counts its changes in place, and its address tells whether another one took its place.
        table = self.get_input_embeddings().weight
        key = (*texts, table._version, table.data_ptr(), table.dtype, table.device)
        if key not in self._remembered:
            if len(self._remembered) >= self.REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = self._read(texts)
        return self._remembered[key]

    def _read(self, texts: list[str]) -> Words:
        table = self.get_input_embeddings()
        ids, mask = (tensor.to(table.weight.device) for tensor in self.tokenizer(texts))
        return Words(table(ids), mask)

    def train(self, mode: bool = True) -> Self:
        if mode != self.training:  # policies call eval() before every chunk
            self._remembered.clear()
        return super().train(mode)

    def save_assets(self, directory: Path) -> None:
        """Write what rebuilding the architecture needs beside the weights (configs, tokenizer). Default: nothing."""


@dataclass
class BackboneConfig(draccus.ChoiceRegistry):
    """Base of every backbone's options; the registered name is what `backbone.type` selects."""

    def build(self) -> Backbone:
        """Make the backbone that these options describe."""
        raise NotImplementedError
