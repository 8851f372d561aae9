"""The interface of backbones: images of one or more cameras and an instruction in, token features out.

To add one: write a module beside this one with its options (a `BackboneConfig`) and its `Backbone`, add a line to
`BackboneConfig.registry`, and a YAML file of the same name to configs/backbone/. A package installed beside this one
adds one through the entry points `tinyvla.backbones`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import draccus
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..choices import LazyChoices
from ..registry import Registry


class Features(NamedTuple):
    """Token features of a batch, computed once per action chunk and read by an action decoder.

    tokens: (B, N, D) last hidden states: every camera's image tokens, then the instruction's.
    mask: (B, N) bool, True where a token is real and False where it is padding.
    """

    tokens: Tensor
    mask: Tensor

    def mean(self) -> Tensor:
        """Mean of the real tokens, (B, D)."""
        weight = self.mask.to(self.tokens.dtype).unsqueeze(-1)
        return (self.tokens * weight).sum(1) / weight.sum(1)


class Words(NamedTuple):
    """B texts as the input of a language model, padded on the right.

    embedded: (B, L, D) word embeddings.
    mask: (B, L) bool, True where a token is real.
    """

    embedded: Tensor
    mask: Tensor


def resize(images: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Images (B, 3, H, W) of another height and width; None: as they are."""
    if size is None or images.shape[-2:] == size:
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True)


class Backbone(nn.Module):
    """A multimodal encoder. Subclasses set `hidden_size` (D) and `tokenizer`, and implement what raises here.

    Attributes:
        hidden_size: width D of the token features.
        tokenizer: B texts -> token ids (B, L) and mask (B, L) bool.
        exportable: `encode` computes from its tensors alone, so that it can be traced.
        resized_to: height and width that `encode` resizes images to first (bilinear, antialiased); None: it does not.
        vision_tower: the image encoder, of backbones that implement `vision_features`.
        vision_settings: settings that `vision_features` depends on beside the tower's weights.
    """

    hidden_size: int
    tokenizer: Any
    vision_tower: nn.Module
    CACHE_SIZE: ClassVar = 64  # batches of texts
    exportable = True
    resized_to: tuple[int, int] | None = None

    def __init__(self) -> None:
        super().__init__()
        self._words: dict[tuple[Any, ...], Words] = {}

    def get_input_embeddings(self) -> nn.Embedding:
        """The language model's word embeddings."""
        raise NotImplementedError

    def prompt(self, instruction: str) -> str:
        """The text that follows the images. Default: the instruction."""
        return instruction

    def encode(self, images: Tensor, words: Words) -> Features:
        """Encode images (B, C, 3, H, W), float in [0, 1], of C cameras, with B prompts. Tensors in, tensors out."""
        raise NotImplementedError

    def forward(self, images: Tensor, instructions: list[str]) -> Features:
        """Encode images (B, C, 3, H, W), float in [0, 1], of C cameras, with B instructions."""
        words = self.embed_texts([self.prompt(instruction) for instruction in instructions])
        return self.encode(images.to(words.embedded.dtype), words)

    def embed_texts(self, texts: list[str]) -> Words:
        """Tokenise and embed B texts. In evaluation mode and without gradients the result is cached."""
        if self.training or torch.is_grad_enabled():
            return self._embed_texts(texts)
        # A tensor's version counts its in-place changes, and its address changes when another tensor replaces it.
        table = self.get_input_embeddings().weight
        key = (*texts, table._version, table.data_ptr(), table.dtype, table.device)
        if key not in self._words:
            if len(self._words) >= self.CACHE_SIZE:
                self._words.clear()
            self._words[key] = self._embed_texts(texts)
        return self._words[key]

    def _embed_texts(self, texts: list[str]) -> Words:
        table = self.get_input_embeddings()
        ids, mask = (tensor.to(table.weight.device) for tensor in self.tokenizer(texts))
        return Words(table(ids), mask)

    def train(self, mode: bool = True) -> Self:
        if mode != self.training:  # policies call eval() before every chunk
            self._words.clear()
        return super().train(mode)

    def vision_features(self, images: Tensor) -> Tensor:
        """Features of the vision tower (B, C, 1, P, V) for images (B, C, 3, H, W), which `encode` takes in their place.

        They have the shape of images with one channel. Only backbones whose options have `cache_features` need this.
        """
        raise NotImplementedError

    @property
    def vision_settings(self) -> tuple[Any, ...]:
        return ()

    def move_cameras(self, weights: dict[str, Tensor], sources: Sequence[int | None]) -> dict[str, Tensor]:
        """Weights of a backbone with other cameras, by name, in the order of this one's. Default: as they are.

        sources: for each camera of this backbone the number of the other one's whose weights it takes; None: its own.
        """
        return weights

    def save_assets(self, directory: Path) -> None:
        """Write what rebuilds the architecture beside the weights (configuration, tokenizer). Default: nothing."""


@dataclass
class BackboneConfig(LazyChoices, draccus.ChoiceRegistry):
    """Base of every backbone's options; `backbone.type` selects one by name."""

    registry: ClassVar = Registry(
        "backbone",
        "tinyvla.backbones",
        {
            "nano": "tinyvla.backbones.nano:NanoConfig",
            "film": "tinyvla.backbones.film:FilmConfig",
            "llava_pythia": "tinyvla.backbones.llava_pythia:LlavaPythiaConfig",
            "smolvlm": "tinyvla.backbones.smolvlm:SmolVLMConfig",
        },
    )

    @property
    def cache_features(self) -> bool:
        """True: the vision tower is frozen, and training caches its features; see `Backbone.vision_features`."""
        return False

    def for_cameras(self, cameras: int) -> Self:
        """The options for a policy with that number of cameras. Default: these."""
        return self

    def build(self) -> Backbone:
        """Make the backbone that these options describe."""
        raise NotImplementedError

    def to_save(self) -> Self:
        """The options to store in a checkpoint: without paths of this machine. Default: these."""
        return self

    def for_checkpoint(self, assets: Path | None) -> Self:
        """The options that rebuild the backbone of a checkpoint, whose weights follow. Default: these.

        assets: the folder that `save_assets` wrote, None if the checkpoint has none.
        """
        return self
