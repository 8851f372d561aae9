"""The TinyVLA backbone at a few million parameters, trained from scratch: the default where there is no GPU.

Same shape as the released one (arXiv 2409.12514, section 3.1): vision tower -> MLP projector -> GPT-NeoX decoder over
image tokens followed by instruction tokens. What differs is what training from scratch on a few dozen demonstrations
asks for: a vision tower whose tokens say where things are, and a tokenizer that needs no vocabulary.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPTNeoXConfig, GPTNeoXModel

from .base import Backbone, BackboneConfig, Features, Words
from .tokenizer import HashTokenizer


@BackboneConfig.register_subclass("nano")
@dataclass
class NanoConfig(BackboneConfig):
    """Options of the nano backbone.

    Args:
        image_size: side in pixels that every camera's picture is resized to (a multiple of 4).
        vision_width: channels of the vision tower's last maps.
        keypoints: places in a picture that the vision tower learns to find.
        image_tokens: tokens a camera that tell the language model where they are.
        hidden_size, layers, heads: the GPT-NeoX decoder.
        vocab_size: buckets of the hashing tokenizer.
    """

    image_size: int = 96
    vision_width: int = 64
    keypoints: int = 64
    image_tokens: int = 4
    hidden_size: int = 256
    layers: int = 2
    heads: int = 4
    vocab_size: int = 8192

    def build(self) -> "NanoBackbone":
        return NanoBackbone(self)


class KeypointTower(nn.Module):
    """Convolutions (stride 4), then the expected place of every map's activation: (B, 3, S, S) -> (B, 2 K).

    The spatial softmax of end-to-end visuomotor policies (arXiv 1504.00702, section 5.1). A policy that sees a few
    dozen demonstrations learns from places many times sooner than from patches, and places are finer than pixels.
    """

    STRIDE = 4

    def __init__(self, image_size: int, width: int, keypoints: int):
        super().__init__()
        # A quarter of the resolution at once: full-resolution maps would cost more than all that follows.
        convolutions = [
            nn.Conv2d(3, width // 2, 6, stride=4, padding=1),
            nn.Conv2d(width // 2, width, 3, padding=1),
            nn.Conv2d(width, width, 3, padding=1),
        ]
        self.stem = nn.Sequential(
            *(nn.Sequential(layer, nn.GroupNorm(8, layer.out_channels), nn.GELU()) for layer in convolutions),
            nn.Conv2d(width, keypoints, 1),
            nn.InstanceNorm2d(keypoints),
        )
        self.sharpness = nn.Parameter(torch.full((keypoints, 1), 3.0))
        line = torch.linspace(-1, 1, image_size // self.STRIDE)
        places = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1).flatten(0, 1)
        self.register_buffer("places", places, persistent=False)  # (cells, 2): x, y of every cell

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images * 2 - 1).flatten(2).float() * self.sharpness
        return (maps.softmax(-1) @ self.places).flatten(1).to(images.dtype)


class NanoBackbone(Backbone):
    """See the module's docstring. Every camera has an embedding of its own, added to its tokens."""

    MAX_CAMERAS = 8

    def __init__(self, config: NanoConfig):
        super().__init__()
        if config.image_size % KeypointTower.STRIDE:
            raise ValueError(
                f"backbone.image_size must be a multiple of {KeypointTower.STRIDE}, got {config.image_size}"
            )
        self.config = config
        self.hidden_size = config.hidden_size
        self.tokenizer = HashTokenizer(config.vocab_size)
        self.vision_tower = KeypointTower(config.image_size, config.vision_width, config.keypoints)
        self.projector = nn.Sequential(
            nn.Linear(2 * config.keypoints, config.hidden_size),
            nn.GELU(),
            nn.Linear(config.hidden_size, config.image_tokens * config.hidden_size),
            nn.Unflatten(1, (config.image_tokens, config.hidden_size)),
        )
        self.camera_embedding = nn.Parameter(torch.randn(self.MAX_CAMERAS, 1, config.hidden_size) * 0.02)
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
        """Image tokens (B, C * image_tokens, D) of images (B, C, 3, H, W)."""
        batch, cameras = images.shape[:2]
        size = self.config.image_size
        flat = images.flatten(0, 1)
        if flat.shape[-2:] != (size, size):
            flat = F.interpolate(flat, (size, size), mode="bilinear", antialias=True)
        tokens = self.projector(self.vision_tower(flat)).unflatten(0, (batch, cameras))
        return (tokens + self.camera_embedding[:cameras]).flatten(1, 2)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.language_model.embed_in

    def encode(self, images: Tensor, words: Words) -> Features:
        image_tokens = self.encode_images(images)
        tokens = torch.cat([image_tokens, words.embedded.to(image_tokens.dtype)], dim=1)
        mask = torch.cat([words.mask.new_ones(image_tokens.shape[:2]), words.mask], dim=1)
        hidden = self.language_model(inputs_embeds=tokens, attention_mask=mask.long()).last_hidden_state
        return Features(hidden, mask)
