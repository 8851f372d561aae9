"""TinySAM (arXiv 2312.13789): SAM's prompt encoder and mask decoder behind a TinyViT image encoder."""

from dataclasses import dataclass, field
from math import prod
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from transformers import SamConfig, SamMaskDecoderConfig, SamPromptEncoderConfig, SamVisionConfig
from transformers.models.sam.modeling_sam import SamMaskDecoder, SamPromptEncoder, SamVisionEncoder, SamVisionNeck

from ...errors import UserError


@dataclass(frozen=True)
class TinySAMConfig:
    """Sizes of a model; the defaults are the released TinySAM's.

    Args:
        image_size: side in pixels of the square picture that the image encoder sees.
        hidden_size: channels of the image embedding, of the prompts and of the decoder.
        embed_dims, depths, num_heads, window_sizes: TinyViT's, a number a stage.
        stage_strides: by how much TinyViT's stages 2 to 4 shrink the map that the stem has shrunk by 4. TinySAM leaves
            the last halving out, so that the embedding has a sixteenth of the picture's side, as SAM's has.
        prompts, decoder: options of transformers' SamPromptEncoderConfig and SamMaskDecoderConfig.
        vit: options of transformers' SamVisionConfig; if given, SAM's own image encoder takes TinyViT's place.
    """

    image_size: int = 1024
    hidden_size: int = 256
    embed_dims: tuple[int, ...] = (64, 128, 160, 320)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (2, 4, 5, 10)
    window_sizes: tuple[int, ...] = (7, 7, 14, 7)
    stage_strides: tuple[int, ...] = (2, 2, 1)
    prompts: dict[str, Any] = field(default_factory=dict)
    # The authors' layers have PyTorch's own epsilon, transformers' SAM has another.
    decoder: dict[str, Any] = field(default_factory=lambda: {"layer_norm_eps": 1e-5})
    vit: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.image_size % self.stride:
            raise UserError(
                f"image_size={self.image_size} is no multiple of {self.stride}, by which the image encoder shrinks; "
                f"use {max(1, round(self.image_size / self.stride)) * self.stride}"
            )

    @property
    def stride(self) -> int:
        """Pixels a side of one cell of the image embedding."""
        return SamVisionConfig(**self.vit).patch_size if self.vit else 4 * prod(self.stage_strides)

    @property
    def embedding_side(self) -> int:
        """Cells a side of the image embedding; masks come out four times as fine."""
        return self.image_size // self.stride

    def vision(self) -> SamVisionConfig:
        """transformers' options of the image encoder, or of its neck and of the positions where that is TinyViT."""
        sizes = self.vit or {"hidden_size": self.embed_dims[-1], "num_pos_feats": self.hidden_size // 2}
        return SamVisionConfig(**sizes | {"image_size": self.image_size, "output_channels": self.hidden_size})

    def sam(self) -> SamConfig:
        """The same as transformers' options of prompt encoder and mask decoder."""
        prompts = {"hidden_size": self.hidden_size, "image_size": self.image_size, "patch_size": self.stride}
        return SamConfig(
            vision_config=self.vision(),
            prompt_encoder_config=SamPromptEncoderConfig(**self.prompts | prompts),
            mask_decoder_config=SamMaskDecoderConfig(**self.decoder | {"hidden_size": self.hidden_size}),
        )


_NARROW_DECODER = {"mlp_dim": 128, "num_attention_heads": 4, "iou_head_hidden_dim": 64}
# Models for pictures of 128 pixels that train on a CPU in minutes: cells of 8 pixels and masks of 2, where sixteenths
# would lose the small things on a table. `base` is the teacher of `small`.
SIZES = {
    "small": TinySAMConfig(
        image_size=128,
        hidden_size=64,
        embed_dims=(32, 48, 64, 96),
        depths=(1, 1, 2, 1),
        num_heads=(2, 3, 4, 6),
        window_sizes=(8, 8, 8, 16),
        stage_strides=(2, 1, 1),
        decoder=_NARROW_DECODER,
    ),
    "base": TinySAMConfig(
        image_size=128,
        hidden_size=64,
        embed_dims=(48, 96, 128, 192),
        depths=(1, 2, 4, 2),
        num_heads=(3, 6, 8, 12),
        window_sizes=(8, 8, 16, 16),
        stage_strides=(2, 1, 1),
        decoder=_NARROW_DECODER,
    ),
    "released": TinySAMConfig(),
}


class TinyViTEncoder(nn.Module):
    """TinyViT without its last halving, then SAM's neck: (B, 3, S, S) normalised -> (B, hidden_size, s, s)."""

    def __init__(self, config: TinySAMConfig):
        super().__init__()
        self.trunk = timm.create_model(
            "tiny_vit_5m_224",
            embed_dims=list(config.embed_dims),
            depths=list(config.depths),
            num_heads=list(config.num_heads),
            window_sizes=list(config.window_sizes),
        )
        self.trunk.head = nn.Identity()
        for stage, stride in zip(self.trunk.stages[1:], config.stage_strides, strict=True):
            stage.downsample.conv2.conv.stride = (stride, stride)
        self.neck = SamVisionNeck(config.vision())

    def forward(self, images: Tensor) -> Tensor:
        return self.neck(self.trunk.forward_features(images).permute(0, 2, 3, 1))


class ViTEncoder(nn.Module):
    """SAM's own image encoder, neck and all: (B, 3, S, S) normalised -> (B, hidden_size, s, s)."""

    def __init__(self, config: TinySAMConfig):
        super().__init__()
        self.vit = SamVisionEncoder(config.vision())

    def forward(self, images: Tensor) -> Tensor:
        return self.vit(images).last_hidden_state


class Segmenter(nn.Module):
    """A picture is encoded once; any number of prompts are then decoded, each to several masks and their qualities.

    As in TinySAM a prompt is always answered with the decoder's several masks (`num_multimask_outputs`), of which the
    one with the highest predicted IoU is the answer; SAM's further output for single masks is not used.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: TinySAMConfig):
        super().__init__()
        self.config = config
        sam = config.sam()
        sam.mask_decoder_config._attn_implementation = "sdpa"
        self.image_encoder = ViTEncoder(config) if config.vit else TinyViTEncoder(config)
        self.prompt_encoder = SamPromptEncoder(sam)
        self.mask_decoder = SamMaskDecoder(sam.mask_decoder_config)
        # transformers leaves random frequencies hundreds of times SAM's own (of standard deviation 1), which no one
        # can learn from, and would train them.
        frequencies = self.prompt_encoder.shared_embedding.positional_embedding
        nn.init.normal_(frequencies.requires_grad_(False))
        for name, values in (("mean", IMAGENET_DEFAULT_MEAN), ("std", IMAGENET_DEFAULT_STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """Colours in [0, 1] as the image encoder wants them."""
        return (images - self.mean) / self.std

    def encode(self, images: Tensor) -> Tensor:
        """Embeddings (B, C, s, s) of square pictures (B, 3, S, S), float in [0, 1]."""
        return self.image_encoder(self.normalise(images))

    def decode(
        self,
        embeddings: Tensor,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mask logits (B, P, M, 4 s, 4 s) and predicted IoUs (B, P, M) for P prompts a picture.

        Args:
            embeddings: (B, C, s, s) of `encode`.
            points: (B, P, K, 2), x and y in pixels of the square picture.
            labels: (B, P, K), 1 for a point on the object and 0 for one beside it.
            boxes: (B, P, 4), x0, y0, x1, y1 in the same pixels; alone or with as many rows of points.
        """
        with torch.autocast(embeddings.device.type, enabled=False):  # bfloat16 would place points half a pixel off
            positions = self._positions()
            sparse, dense = self.prompt_encoder(points, labels, boxes, None)
        return self.mask_decoder(
            image_embeddings=embeddings,
            image_positional_embeddings=positions.expand(len(embeddings), -1, -1, -1),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )

    def forward(
        self,
        images: Tensor,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`encode`, then `decode`."""
        return self.decode(self.encode(images), points, labels, boxes)

    def _positions(self) -> Tensor:
        """Encoded centres of the embedding's cells, (1, C, s, s)."""
        side = self.config.embedding_side
        line = (torch.arange(side, device=self.mean.device) + 0.5) / side
        centres = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)
        return self.prompt_encoder.shared_embedding(centres).permute(2, 0, 1).unsqueeze(0)
