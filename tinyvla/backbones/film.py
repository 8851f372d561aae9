"""A backbone whose vision towers are given the instruction: the default.

Each camera has a keypoint tower of its own, and the instruction scales and shifts its maps (FiLM, arXiv 1709.07871, as
in RT-1, arXiv 2212.06817, section 5.1). So the few keypoints are those of the objects in the sentence. An MLP fuses the
positions of all cameras with the sentence into one token.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ranges import MAX_WIDTH, check_range
from .base import Backbone, BackboneConfig, Features, Words, resize
from .nano import MAX_SIDE, MAX_VOCABULARY, SpatialSoftmaxTower, keypoint_convolutions
from .tokenizer import MAX_WORDS, WORDS, HashTokenizer

MAX_CAMERAS = 16
_GROUPS = 8  # of the group normalisation


@BackboneConfig.register_subclass("film")
@dataclass
class FilmConfig(BackboneConfig):
    """Options of the FiLM backbone.

    Args:
        image_size: side in pixels that every camera's image is resized to (a multiple of 4).
        cameras: number of cameras, each with its own tower; the policy sets it.
        vision_width: channels of a tower's last maps (a multiple of 16).
        keypoints: number of image positions that each tower learns to find.
        text_size: width of the instruction's vector.
        hidden_size: width of the fused token.
        vocab_size: buckets of the hashing tokenizer.
        max_words: words of an instruction that are read, the mark at its beginning among them; training raises it to
            the longest instruction of its dataset.
    """

    image_size: int = 96
    cameras: int = 1
    vision_width: int = 64
    keypoints: int = 64
    text_size: int = 64
    hidden_size: int = 256
    vocab_size: int = 8192
    max_words: int = WORDS

    def __post_init__(self) -> None:
        check_range(self, "image_size", low=8, high=MAX_SIDE)
        check_range(self, "cameras", low=1, high=MAX_CAMERAS)
        check_range(self, "vision_width", "keypoints", "text_size", "hidden_size", low=1, high=MAX_WIDTH)
        check_range(self, "vocab_size", low=2, high=MAX_VOCABULARY)
        check_range(self, "max_words", low=2, high=MAX_WORDS)
        if self.image_size % FilmTower.STRIDE:
            raise ValueError(f"image_size is {self.image_size}; give a multiple of {FilmTower.STRIDE}")
        if self.vision_width % (2 * _GROUPS):
            raise ValueError(f"vision_width is {self.vision_width}; give a multiple of {2 * _GROUPS}")

    def for_cameras(self, cameras: int) -> Self:
        return replace(self, cameras=cameras)

    def build(self) -> "FilmBackbone":
        return FilmBackbone(self)


class FilmBlock(nn.Module):
    """Convolution and group normalisation, scaled and shifted by a linear map of the instruction's vector, then GELU.

    The map begins at zero: an untrained block ignores the instruction.
    """

    def __init__(self, convolution: nn.Conv2d, text_size: int):
        super().__init__()
        self.convolution = convolution
        self.norm = nn.GroupNorm(_GROUPS, convolution.out_channels)
        self.film = nn.Linear(text_size, 2 * convolution.out_channels)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, maps: Tensor, text: Tensor) -> Tensor:
        scale, shift = self.film(text)[..., None, None].chunk(2, dim=1)
        return F.gelu(self.norm(self.convolution(maps)) * (1 + scale) + shift)


class FilmStem(nn.Module):
    """Images (B, 3, S, S) in [0, 1] and the instruction's vector (B, T) to keypoint maps (B, K, S / 4, S / 4)."""

    def __init__(self, width: int, keypoints: int, text_size: int):
        super().__init__()
        self.blocks = nn.ModuleList(FilmBlock(convolution, text_size) for convolution in keypoint_convolutions(width))
        self.head = nn.Sequential(nn.Conv2d(width, keypoints, 1), nn.InstanceNorm2d(keypoints))

    def forward(self, images: Tensor, text: Tensor) -> Tensor:
        maps = images * 2 - 1
        for block in self.blocks:
            maps = block(maps, text)
        return self.head(maps)


class FilmTower(SpatialSoftmaxTower):
    """Positions in the maps of a `FilmStem`: (B, 2 K), x and y in [-1, 1]."""

    STRIDE = 4

    def __init__(self, config: FilmConfig):
        side = config.image_size // self.STRIDE
        stem = FilmStem(config.vision_width, config.keypoints, config.text_size)
        super().__init__(stem, config.keypoints, (side, side))


class FilmBackbone(Backbone):
    """One keypoint tower per camera and an MLP; the features are one token."""

    def __init__(self, config: FilmConfig):
        super().__init__()
        self.config = config
        self.hidden_size = config.hidden_size
        self.resized_to = (config.image_size, config.image_size)
        self.tokenizer = HashTokenizer(config.vocab_size, config.max_words)
        self.words = nn.Embedding(config.vocab_size, config.text_size)
        self.text = nn.Sequential(
            nn.LayerNorm(config.text_size), nn.Linear(config.text_size, config.text_size), nn.GELU()
        )
        self.towers = nn.ModuleList(FilmTower(config) for _ in range(config.cameras))
        self.fuse = nn.Sequential(
            nn.Linear(2 * config.keypoints * config.cameras + config.text_size, 2 * config.hidden_size),
            nn.GELU(),
            nn.Linear(2 * config.hidden_size, config.hidden_size),
            nn.GELU(),
        )

    def move_cameras(self, weights: dict[str, Tensor], sources: Sequence[int | None]) -> dict[str, Tensor]:
        positions, words = 2 * self.config.keypoints, self.config.text_size
        fused = weights["fuse.0.weight"]  # columns: every camera's positions, then the text
        columns = list(self.get_parameter("fuse.0.weight").detach().split([positions] * len(sources) + [words], dim=1))
        columns[-1] = fused[:, -words:]
        moved = {name: tensor for name, tensor in weights.items() if not name.startswith("towers.")}
        for camera, source in enumerate(sources):
            if source is not None:
                columns[camera] = fused[:, source * positions : (source + 1) * positions]
                tower = f"towers.{source}."
                moved |= {
                    f"towers.{camera}.{name.removeprefix(tower)}": tensor
                    for name, tensor in weights.items()
                    if name.startswith(tower)
                }
        return moved | {"fuse.0.weight": torch.cat([column.cpu() for column in columns], dim=1)}

    def get_input_embeddings(self) -> nn.Embedding:
        return self.words

    def encode(self, images: Tensor, words: Words) -> Features:
        weight = words.mask.to(words.embedded.dtype).unsqueeze(-1)
        text = self.text((words.embedded * weight).sum(1) / weight.sum(1))
        positions = []
        for tower, image in zip(self.towers, images.unbind(1), strict=True):
            positions.append(tower(resize(image, self.resized_to), text))
        token = self.fuse(torch.cat([*positions, text.to(positions[0].dtype)], dim=-1)).unsqueeze(1)
        return Features(token, words.mask.new_ones(token.shape[:2]))
