"""The TinyVLA backbone with a few million parameters, trained from scratch.

Same shape as the released one (arXiv 2409.12514, section 3.1): vision tower -> MLP projector -> GPT-NeoX decoder over
image tokens followed by instruction tokens. Two parts differ, for training from scratch on a few dozen demonstrations:
a vision tower whose tokens encode the positions of objects, and a tokenizer that needs no vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from ..ranges import MAX_LAYERS, MAX_WIDTH, check_range
from .base import Backbone, BackboneConfig, Features, Words, resize
from .tokenizer import MAX_WORDS, WORDS, HashTokenizer

if TYPE_CHECKING:
    from ..encoders import Encoder

KEYPOINTS = "keypoints"
MAX_SIDE, MAX_VOCABULARY = 2048, 1_000_000  # pixels, buckets
TINYVIT_STRIDE = 16  # of the map with the keypoints; TinyViT's last map has 3 x 3 cells for a 96-pixel image


@BackboneConfig.register_subclass("nano")
@dataclass
class NanoConfig(BackboneConfig):
    """Options of the nano backbone.

    Args:
        image_size: side in pixels that every camera's image is resized to (a multiple of 4).
        vision: the vision tower: `keypoints`, a few convolutions, or an image encoder (`tinyvit_5m`, `cct_7_3x2` ...,
            see tinyvla.encoders.make_encoder).
        vision_pretrained: initial weights of an image encoder: `released`, the folder or run folder of a classifier
            that was trained with train.py, or None.
        vision_width: channels of the last maps of `vision=keypoints`.
        keypoints: number of image positions that the vision tower learns to find.
        image_tokens: tokens per camera that encode these positions for the language model.
        hidden_size, layers, heads: the GPT-NeoX decoder.
        vocab_size: buckets of the hashing tokenizer.
        max_words: words of an instruction that are read, the mark at its beginning among them; training raises it to
            the longest instruction of its dataset.
    """

    image_size: int = 96
    vision: str = KEYPOINTS
    vision_pretrained: str | None = None
    vision_width: int = 64
    keypoints: int = 64
    image_tokens: int = 4
    hidden_size: int = 256
    layers: int = 2
    heads: int = 4
    vocab_size: int = 8192
    max_words: int = WORDS

    def __post_init__(self) -> None:
        check_range(self, "image_size", low=8, high=MAX_SIDE)
        check_range(self, "layers", low=1, high=MAX_LAYERS)
        check_range(self, "vision_width", "keypoints", "image_tokens", "hidden_size", "heads", low=1, high=MAX_WIDTH)
        check_range(self, "vocab_size", low=1, high=MAX_VOCABULARY)
        check_range(self, "max_words", low=2, high=MAX_WORDS)
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size {self.hidden_size} must divide by heads {self.heads}")

    def build(self) -> "NanoBackbone":
        return NanoBackbone(self)

    def for_checkpoint(self, assets: Path | None) -> Self:
        return replace(self, vision_pretrained=None)  # the checkpoint has the encoder's weights


class SpatialSoftmaxTower(nn.Module):
    """Expected position of every map's activation: images (B, 3, S, S) in [0, 1] -> (B, 2 K), x and y in [-1, 1].

    The spatial softmax of end-to-end visuomotor policies (arXiv 1504.00702, section 5.1). With a few dozen
    demonstrations a policy learns from positions many times faster than from patches, and positions are finer than
    pixels.

    Args:
        stem: images, and what else `forward` is given, to K maps (B, K, h, w).
        keypoints: K.
        map_size: h and w.
    """

    def __init__(self, stem: nn.Module, keypoints: int, map_size: tuple[int, int]):
        super().__init__()
        self.stem = stem
        self.sharpness = nn.Parameter(torch.full((keypoints, 1), 3.0))
        y, x = (torch.linspace(-1, 1, side) for side in map_size)
        positions = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)
        self.register_buffer("positions", positions, persistent=False)  # (cells, 2): x, y of every cell

    def forward(self, images: Tensor, *conditions: Tensor) -> Tensor:
        maps = self.stem(images, *conditions).flatten(2).float() * self.sharpness
        return (maps.softmax(-1) @ self.positions).flatten(1).to(images.dtype)


def keypoint_convolutions(width: int) -> list[nn.Conv2d]:
    """Convolutions from an image's 3 channels to maps of `width` channels and a quarter of its side."""
    # Stride 4 in the first layer: full-resolution maps would cost more than all later layers.
    return [
        nn.Conv2d(3, width // 2, 6, stride=4, padding=1),
        nn.Conv2d(width // 2, width, 3, padding=1),
        nn.Conv2d(width, width, 3, padding=1),
    ]


class KeypointTower(SpatialSoftmaxTower):
    """Positions in the maps of a few convolutions of stride 4."""

    STRIDE = 4

    def __init__(self, image_size: int, width: int, keypoints: int):
        convolutions = keypoint_convolutions(width)
        stem = nn.Sequential(
            *(nn.Sequential(layer, nn.GroupNorm(8, layer.out_channels), nn.GELU()) for layer in convolutions),
            nn.Conv2d(width, keypoints, 1),
            nn.InstanceNorm2d(keypoints),
        )
        side = image_size // self.STRIDE
        super().__init__(stem, keypoints, (side, side))

    def forward(self, images: Tensor, *_: Tensor) -> Tensor:
        return super().forward(images * 2 - 1)


class EncoderTower(SpatialSoftmaxTower):
    """Positions in linear maps of an image encoder's features."""

    def __init__(self, encoder: "Encoder", keypoints: int):
        if min(encoder.map_size) < 2:
            raise ValueError(
                f"the image encoder's map has {encoder.map_size[0]} cell per side, which is too few for positions; "
                "raise backbone.image_size"
            )
        stem = nn.Sequential(encoder, nn.Conv2d(encoder.num_features, keypoints, 1), nn.InstanceNorm2d(keypoints))
        super().__init__(stem, keypoints, encoder.map_size)


def make_tower(config: NanoConfig) -> SpatialSoftmaxTower:
    """Vision tower of the options. Raises UserError for an unknown one, naming the nearest."""
    if config.vision == KEYPOINTS:
        return KeypointTower(config.image_size, config.vision_width, config.keypoints)
    from ..encoders import known_name, make_encoder  # timm takes a second to import
    from ..frontends.tinyvit.model import is_tinyvit

    pretrained: bool | str = config.vision_pretrained or False
    stride = TINYVIT_STRIDE if is_tinyvit(known_name(config.vision, [KEYPOINTS])) else None
    encoder = make_encoder(config.vision, config.image_size, pretrained == "released" or pretrained, stride)
    return EncoderTower(encoder, config.keypoints)


class NanoBackbone(Backbone):
    """Keypoint tower, MLP and GPT-NeoX; every camera has a learnt embedding that is added to its tokens."""

    MAX_CAMERAS = 8

    def __init__(self, config: NanoConfig):
        super().__init__()
        if config.image_size % KeypointTower.STRIDE:
            raise ValueError(
                f"backbone.image_size must be a multiple of {KeypointTower.STRIDE}, got {config.image_size}"
            )
        self.config = config
        self.hidden_size = config.hidden_size
        self.resized_to = (config.image_size, config.image_size)
        self.tokenizer = HashTokenizer(config.vocab_size, config.max_words)
        self.vision_tower = make_tower(config)
        self.projector = nn.Sequential(
            nn.Linear(2 * config.keypoints, config.hidden_size),
            nn.GELU(),
            nn.Linear(config.hidden_size, config.image_tokens * config.hidden_size),
            nn.Unflatten(1, (config.image_tokens, config.hidden_size)),
        )
        self.camera_embedding = nn.Parameter(torch.randn(self.MAX_CAMERAS, 1, config.hidden_size) * 0.02)
        from transformers import GPTNeoXConfig, GPTNeoXModel  # seconds to import

        self.language_model = GPTNeoXModel(
            GPTNeoXConfig(
                vocab_size=config.vocab_size,
                hidden_size=config.hidden_size,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=4 * config.hidden_size,
                max_position_embeddings=2048,
                use_cache=False,
                attn_implementation="eager",
            )
        )

    def encode_images(self, images: Tensor) -> Tensor:
        """Image tokens (B, C * image_tokens, D) for images (B, C, 3, H, W)."""
        batch, cameras = images.shape[:2]
        flat = resize(images.flatten(0, 1), self.resized_to)
        tokens = self.projector(self.vision_tower(flat)).unflatten(0, (batch, cameras))
        return (tokens + self.camera_embedding[:cameras]).flatten(1, 2)

    def move_cameras(self, weights: dict[str, Tensor], sources: Sequence[int | None]) -> dict[str, Tensor]:
        embedding, before = self.camera_embedding.detach().cpu().clone(), weights["camera_embedding"]
        for camera, source in enumerate(sources):
            if source is not None:
                embedding[camera] = before[source]
        return weights | {"camera_embedding": embedding}

    def get_input_embeddings(self) -> nn.Embedding:
        return self.language_model.embed_in

    def encode(self, images: Tensor, words: Words) -> Features:
        image_tokens = self.encode_images(images)
        tokens = torch.cat([image_tokens, words.embedded.to(image_tokens.dtype)], dim=1)
        mask = torch.cat([words.mask.new_ones(image_tokens.shape[:2]), words.mask], dim=1)
        hidden = self.language_model(inputs_embeds=tokens, attention_mask=mask.long()).last_hidden_state
        return Features(hidden, mask)
