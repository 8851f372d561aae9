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
    """Sizes of a model. The defaults are those of the released TinySAM.

    Args:
        image_size: side in pixels of the image encoder's square input.
        hidden_size: channels of the image embedding, of the prompts and of the decoder.
        embed_dims, depths, num_heads, window_sizes: of TinyViT, one number per stage.
        stage_strides: strides of TinyViT's stages 2 to 4, after the stem's stride of 4. TinySAM leaves the last halving
            out, so that the embedding has a sixteenth of the image's side, as in SAM.
        prompts, decoder: options of transformers' SamPromptEncoderConfig and SamMaskDecoderConfig.
        vit: options of transformers' SamVisionConfig, for SAM's image encoder in place of TinyViT.
    """

    image_size: int = 1024
    hidden_size: int = 256
    embed_dims: tuple[int, ...] = (64, 128, 160, 320)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (2, 4, 5, 10)
    window_sizes: tuple[int, ...] = (7, 7, 14, 7)
    stage_strides: tuple[int, ...] = (2, 2, 1)
    prompts: dict[str, Any] = field(default_factory=dict)
    # The authors' layers have PyTorch's default epsilon, transformers' SAM has another.
    decoder: dict[str, Any] = field(default_factory=lambda: {"layer_norm_eps": 1e-5})
    vit: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.image_size % self.stride:
            raise UserError(
                f"image_size={self.image_size} is not a multiple of {self.stride}, the stride of the image encoder; "
                f"use {max(1, round(self.image_size / self.stride)) * self.stride}"
            )

    @property
    def stride(self) -> int:
        """Side in pixels of one cell of the image embedding."""
        return SamVisionConfig(**self.vit).patch_size if self.vit else 4 * prod(self.stage_strides)

    @property
    def embedding_side(self) -> int:
        """Cells per side of the image embedding; masks are four times as fine."""
        return self.image_size // self.stride

    def vision(self) -> SamVisionConfig:
        """Options of transformers' image encoder; with TinyViT, of its neck and of the positions."""
        sizes = self.vit or {"hidden_size": self.embed_dims[-1], "num_pos_feats": self.hidden_size // 2}
        return SamVisionConfig(**sizes | {"image_size": self.image_size, "output_channels": self.hidden_size})

    def sam(self) -> SamConfig:
        """Options of transformers' prompt encoder and mask decoder."""
        prompts = {"hidden_size": self.hidden_size, "image_size": self.image_size, "patch_size": self.stride}
        return SamConfig(
            vision_config=self.vision(),
            prompt_encoder_config=SamPromptEncoderConfig(**self.prompts | prompts),
            mask_decoder_config=SamMaskDecoderConfig(**self.decoder | {"hidden_size": self.hidden_size}),
        )


_NARROW_DECODER = {"mlp_dim": 128, "num_attention_heads": 4, "iou_head_hidden_dim": 64}
# Models for images of 128 pixels that train on a CPU in minutes. Cells have 8 pixels and masks 2, because a stride of
# 16 would lose the small objects on a table. `base` is the teacher of `small`.
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
    """TinyViT without the last halving, then SAM's neck: (B, 3, S, S) normalised -> (B, hidden_size, s, s)."""

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
    """SAM's image encoder with its neck: (B, 3, S, S) normalised -> (B, hidden_size, s, s)."""

    def __init__(self, config: TinySAMConfig):
        super().__init__()
        self.vit = SamVisionEncoder(config.vision())

    def forward(self, images: Tensor) -> Tensor:
        return self.vit(images).last_hidden_state


class Segmenter(nn.Module):
    """Segmentation model: encodes an image once, then decodes any number of prompts to several masks with scores.

    As in TinySAM, the answer to a prompt is the mask with the highest predicted IoU among the decoder's several masks
    (`num_multimask_outputs`). SAM's output for a single mask is not used.
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
        # transformers initialises the frequencies hundreds of times larger than SAM (standard deviation 1), too large
        # to learn from, and would train them.
        frequencies = self.prompt_encoder.shared_embedding.positional_embedding
        nn.init.normal_(frequencies.requires_grad_(False))
        for name, values in (("mean", IMAGENET_DEFAULT_MEAN), ("std", IMAGENET_DEFAULT_STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """Images in [0, 1], normalised for the image encoder."""
        return (images - self.mean) / self.std

    def encode(self, images: Tensor) -> Tensor:
        """Embeddings (B, C, s, s) of square images (B, 3, S, S), float in [0, 1]."""
        return self.image_encoder(self.normalise(images))

    def decode(
        self,
        embeddings: Tensor,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mask logits (B, P, M, 4 s, 4 s) and predicted IoUs (B, P, M) for P prompts per image.

        Args:
            embeddings: (B, C, s, s) of `encode`.
            points: (B, P, K, 2), x and y in pixels of the square image.
            labels: (B, P, K), 1 for a point on the object, 0 for a point beside it.
            boxes: (B, P, 4), x0, y0, x1, y1 in the same pixels; alone or with as many rows of points.
        """
        with torch.autocast(embeddings.device.type, enabled=False):  # bfloat16 would move points by half a pixel
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
        """Positional encoding of the embedding's cells, (1, C, s, s)."""
        side = self.config.embedding_side
        line = (torch.arange(side, device=self.mean.device) + 0.5) / side
        centres = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)
        return self.prompt_encoder.shared_embedding(centres).permute(2, 0, 1).unsqueeze(0)
