"""Compact Transformers (arXiv 2104.05704), registered with timm: `timm.create_model("cct_7_3x1", img_size=32)`.

CCT-L/KxT has T convolutions with K x K kernels, L encoder layers, and SeqPool where a ViT has its class token. The
paper derives it in two steps, which are here for comparison: ViT-Lite-L/P cuts plain patches of P pixels and has a
class token, CVT-L/P cuts patches and has SeqPool.
"""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from timm.layers import DropPath, Mlp, resample_abs_pos_embed, trunc_normal_
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

# Width, heads and MLP ratio by number of layers (table 1 of the paper).
SHAPES = {2: (128, 2, 1.0), 4: (128, 2, 1.0), 6: (256, 4, 2.0), 7: (256, 4, 2.0), 14: (384, 6, 3.0)}


class ConvTokenizer(nn.Sequential):
    """Convolution, ReLU and max-pooling, `layers` times (section 3.3): (B, 3, H, W) -> (B, D, h, w)."""

    def __init__(self, width: int, kernel: int, layers: int, in_chans: int = 3):
        self.conv = (kernel, max(1, kernel // 2 - 1), max(1, kernel // 2))  # kernel, stride, padding
        widths = [in_chans, *[64] * (layers - 1), width]
        super().__init__(
            *(
                nn.Sequential(nn.Conv2d(*ends, *self.conv, bias=False), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
                for ends in pairwise(widths)
            )
        )

    def grid(self, side: int) -> int:
        """Tokens along a side of `side` pixels."""
        kernel, stride, padding = self.conv
        for _ in self:
            side = (side + 2 * padding - kernel) // stride + 1
            side = (side - 1) // 2 + 1
        return side


class PatchTokenizer(nn.Sequential):
    """Plain patches, as in a ViT: (B, 3, H, W) -> (B, D, H / patch, W / patch)."""

    def __init__(self, width: int, patch: int, in_chans: int = 3):
        self.patch = patch
        super().__init__(nn.Sequential(nn.Conv2d(in_chans, width, patch, patch)))

    def grid(self, side: int) -> int:
        """Tokens along a side of `side` pixels."""
        return side // self.patch


class SeqPool(nn.Module):
    """Mean of tokens (B, N, D), weighted by a linear map of each token (equation 4): (B, D)."""

    def __init__(self, width: int):
        super().__init__()
        self.weigh = nn.Linear(width, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        return (self.weigh(tokens).softmax(dim=1).transpose(1, 2) @ tokens).squeeze(1)


class Block(nn.Module):
    """Encoder layer. As in the released models, the residual of the MLP is normalised too."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, drop: float, attn_drop: float, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads, attn_drop=attn_drop, proj_drop=drop)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio), drop=drop)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.norm2(tokens + self.drop_path(self.attn(self.norm1(tokens))))
        return tokens + self.drop_path(self.mlp(tokens))


class CompactTransformer(nn.Module):
    """Normalised images (B, 3, img_size, img_size) to logits (B, num_classes).

    Args:
        img_size: side in pixels.
        num_classes: 0: the pooled features (B, embed_dim) instead of logits.
        global_pool: `seq` for SeqPool, `token` for a class token.
        embed_dim, depth, num_heads, mlp_ratio: the encoder.
        kernel_size, conv_layers: the convolutional tokenizer; conv_layers=0: plain patches of kernel_size pixels.
        positions: learned positional embeddings, which the paper finds a CCT can do without.
        drop_rate, attn_drop_rate, drop_path_rate: dropout, that of attention, and stochastic depth in the last layer.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 32,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "seq",
        embed_dim: int = 256,
        depth: int = 7,
        num_heads: int = 4,
        mlp_ratio: float = 2.0,
        kernel_size: int = 3,
        conv_layers: int = 1,
        positions: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.1,
        drop_path_rate: float = 0.1,
    ):
        super().__init__()
        if global_pool not in ("seq", "token"):
            raise ValueError(f"global_pool must be seq or token, got {global_pool!r}")
        self.num_classes, self.num_features = num_classes, embed_dim
        self.tokenizer: ConvTokenizer | PatchTokenizer = (
            ConvTokenizer(embed_dim, kernel_size, conv_layers, in_chans)
            if conv_layers
            else PatchTokenizer(embed_dim, kernel_size, in_chans)
        )
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.grid_size = (self.tokenizer.grid(height), self.tokenizer.grid(width))
        self.num_prefix_tokens = int(global_pool == "token")
        self.class_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if self.num_prefix_tokens else None
        count = self.grid_size[0] * self.grid_size[1] + self.num_prefix_tokens
        self.positions = nn.Parameter(torch.zeros(1, count, embed_dim)) if positions else None
        self.drop = nn.Dropout(drop_rate)
        rates = [drop_path_rate * layer / max(1, depth - 1) for layer in range(depth)]
        self.blocks = nn.Sequential(
            *(Block(embed_dim, num_heads, mlp_ratio, drop_rate, attn_drop_rate, rate) for rate in rates)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.pool = None if self.num_prefix_tokens else SeqPool(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        self._initialise()

    def _initialise(self) -> None:
        if self.positions is not None:
            trunc_normal_(self.positions, std=0.2)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Tokens (B, N, embed_dim) of the encoder, row by row, after the class token if there is one."""
        tokens = self.tokenizer(pixels).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1)
        if self.positions is not None:
            tokens = tokens + self.positions
        return self.norm(self.blocks(self.drop(tokens)))

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = tokens[:, 0] if self.pool is None else self.pool(tokens)
        return pooled if pre_logits else self.head(pooled)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(pixels))


# Tensor names of the authors, and those here.
_RENAMED = (
    (r"^tokenizer\.conv_layers\.", "tokenizer."),
    (r"^classifier\.positional_emb$", "positions"),
    (r"^classifier\.class_emb$", "class_token"),
    (r"^classifier\.attention_pool\.", "pool.weigh."),
    (r"^classifier\.fc\.", "head."),
    (r"^classifier\.(blocks\.\d+)\.norm1\.", r"\1.norm2."),
    (r"^classifier\.(blocks\.\d+)\.pre_norm\.", r"\1.norm1."),
    (r"^classifier\.(blocks\.\d+)\.self_attn\.", r"\1.attn."),
    (r"^classifier\.(blocks\.\d+)\.linear([12])\.", r"\1.mlp.fc\2."),
    (r"^classifier\.", ""),
)


def _adapt_checkpoint(state: Mapping[str, Any], model: CompactTransformer) -> dict[str, Tensor]:
    """Checkpoint of this repository or of the authors under the names here, with positional embeddings resized."""
    adapted = {}
    for name, tensor in state.items():
        for pattern, ours in _RENAMED:
            renamed = re.sub(pattern, ours, name)
            if renamed != name:
                break
        adapted[renamed] = tensor
    if model.positions is not None and "positions" in adapted:
        prefix = model.num_prefix_tokens
        adapted["positions"] = resample_abs_pos_embed(
            adapted["positions"], list(model.grid_size), num_prefix_tokens=prefix
        )
    return adapted


_RELEASED = "https://shi-labs.com/projects/cct/checkpoints/pretrained/"
_CIFAR10 = {"num_classes": 10, "mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}
_CIFAR100 = {"num_classes": 100, "mean": (0.5071, 0.4867, 0.4408), "std": (0.2675, 0.2565, 0.2761)}
_SMALL = ("cct_2_3x2", "cct_4_3x2", "cct_6_3x1", "cct_6_3x2", "cct_7_3x1", "cct_7_3x2")
_PLAIN = ("vit_lite_6_4", "vit_lite_7_4", "cvt_6_4", "cvt_7_4")
_LARGE = ("cct_7_7x2", "cct_14_7x2")


def _cfg(side: int, **fields: Any) -> dict[str, Any]:
    common = {"fixed_input_size": True, "first_conv": "tokenizer.0.0", "classifier": "head", "license": "apache-2.0"}
    return {"input_size": (3, side, side), "mean": (0.5,) * 3, "std": (0.5,) * 3} | common | fields


default_cfgs = generate_default_cfgs(
    {name: _cfg(32) for name in (*_SMALL, *_PLAIN)}
    | {name: _cfg(224) for name in _LARGE}
    | {
        "cct_7_3x1.cifar10": _cfg(32, url=_RELEASED + "cct_7_3x1_32_cifar10_300epochs.pth", **_CIFAR10),
        "cct_7_3x1.cifar100": _cfg(32, url=_RELEASED + "cct_7_3x1_32_cifar100_300epochs.pth", **_CIFAR100),
        "cct_14_7x2.in1k": _cfg(
            224, url=_RELEASED + "cct_14_7x2_224_imagenet.pth", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
        ),
    }
)


def _register(variant: str) -> None:
    match = re.fullmatch(r"(?P<family>\D+)_(?P<depth>\d+)_(?P<kernel>\d+)(x(?P<layers>\d+))?", variant)
    assert match is not None
    depth = int(match["depth"])
    width, heads, ratio = SHAPES[depth]
    shape: dict[str, Any] = {"embed_dim": width, "depth": depth, "num_heads": heads, "mlp_ratio": ratio}
    shape |= {"kernel_size": int(match["kernel"]), "conv_layers": int(match["layers"] or 0)}
    shape |= {"global_pool": "token" if match["family"] == "vit_lite" else "seq"}

    def make(pretrained: bool = False, **kwargs: Any) -> CompactTransformer:
        return build_model_with_cfg(
            CompactTransformer, variant, pretrained, pretrained_filter_fn=_adapt_checkpoint, **(shape | kwargs)
        )

    make.__name__ = variant  # the name in timm's registry
    register_model(make)


for _variant in (*_SMALL, *_LARGE, *_PLAIN):
    _register(_variant)
