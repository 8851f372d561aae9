"""CLIP's two towers (arXiv 2103.00020) as in transformers, with layers that may differ in size."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

TOWERS = ("vision", "text")


class ShapedClip(CLIPModel):
    """A CLIPModel whose layers may each have their own numbers of heads and FFN units.

    The config of a tower then has two further entries: `head_dim`, and `layer_sizes` with a pair (heads, FFN units) per
    layer. Without them it is a plain CLIPModel, and their checkpoints are interchangeable.
    """

    def __init__(self, config: CLIPConfig):
        super().__init__(config)
        for name in TOWERS:
            shape = getattr(config, f"{name}_config")
            sizes = getattr(shape, "layer_sizes", None) or []
            for layer, (heads, units) in zip(tower_of(self, name).encoder.layers, sizes, strict=False):
                _resize(layer, shape.hidden_size, shape.head_dim, heads, units)
                layer.apply(self._init_weights)


def _resize(layer: Any, width: int, head_dim: int, heads: int, units: int) -> None:
    attention, mlp, inside = layer.self_attn, layer.mlp, heads * head_dim
    # The attention derives its number of heads from its weights and these sizes.
    attention.num_heads, attention.head_dim, attention.scale = heads, head_dim, head_dim**-0.5
    for name in ("q_proj", "k_proj", "v_proj"):
        setattr(attention, name, nn.Linear(width, inside))
    attention.out_proj = nn.Linear(inside, width)
    mlp.fc1, mlp.fc2 = nn.Linear(width, units), nn.Linear(units, width)


def tower_of(clip: CLIPModel, name: str) -> Any:
    """Transformer of a tower, `vision` or `text`: embeddings, encoder.layers and norms."""
    return clip.vision_model if name == "vision" else clip.text_model


def projection_of(clip: CLIPModel, name: str) -> nn.Linear:
    """Linear map, without bias, from a tower's width to the common space."""
    return clip.visual_projection if name == "vision" else clip.text_projection


def sizes_of(config: CLIPConfig, name: str) -> dict[str, Any]:
    """Sizes of a tower: `width`, `head_dim`, and lists `heads` and `units` (of the FFN) with one entry per layer."""
    shape = getattr(config, f"{name}_config")
    pairs = getattr(shape, "layer_sizes", None)
    if not pairs:
        pairs = [(shape.num_attention_heads, shape.intermediate_size)] * shape.num_hidden_layers
    head_dim = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    heads, units = (list(sizes) for sizes in zip(*pairs, strict=True))
    return {"width": shape.hidden_size, "head_dim": head_dim, "heads": heads, "units": units}


def resized_config(config: CLIPConfig, sizes: Mapping[str, Mapping[str, Any]]) -> CLIPConfig:
    """Copy of a config with other sizes of the towers, by tower, in the form of `sizes_of`."""
    values = config.to_dict()
    for name, size in sizes.items():
        shape, heads, units = values[f"{name}_config"], list(size["heads"]), list(size["units"])
        shape |= {"hidden_size": size["width"], "num_hidden_layers": len(heads)}
        shape.pop("layer_sizes", None), shape.pop("head_dim", None)
        if {*heads} == {size["width"] / size["head_dim"]} and len({*units}) == 1:
            shape |= {"num_attention_heads": heads[0], "intermediate_size": units[0]}
        else:
            # One head passes transformers' check for any width; the layers are resized afterwards.
            shape |= {"num_attention_heads": 1, "intermediate_size": max(units), "head_dim": size["head_dim"]}
            shape["layer_sizes"] = [list(pair) for pair in zip(heads, units, strict=True)]
    return CLIPConfig(**values)


def count_parameters(config: CLIPConfig, sizes: Mapping[str, Mapping[str, Any]]) -> Any:
    """Number of parameters of a model with towers of these sizes; sizes may be tensors with gradients."""
    total = 1  # the logit scale
    for name in TOWERS:
        shape, size = getattr(config, f"{name}_config"), sizes[name]
        width = size["width"]
        if name == "vision":
            patches = (shape.image_size // shape.patch_size) ** 2
            rows = shape.num_channels * shape.patch_size**2 + 1 + patches + 1  # patches, class token, positions
        else:
            rows = shape.vocab_size + shape.max_position_embeddings
        norms = 4 if name == "vision" else 2  # weights and biases outside the layers
        total = total + width * (rows + norms + config.projection_dim)
        for heads, units in zip(size["heads"], size["units"], strict=True):
            total = total + heads * size["head_dim"] * (4 * width + 3) + units * (2 * width + 1) + 6 * width
    return total


def embed_pixels(clip: CLIPModel, pixels: Tensor) -> Tensor:
    """Unit vectors (B, D) of normalised images (B, 3, S, S)."""
    return F.normalize(clip.get_image_features(pixel_values=pixels).pooler_output, dim=-1)


def embed_ids(clip: CLIPModel, ids: Tensor) -> Tensor:
    """Unit vectors (B, D) of token ids (B, L), padded on the right."""
    # Attention is causal and the first end token is read out, so padding has no effect and needs no mask.
    return F.normalize(clip.get_text_features(input_ids=ids).pooler_output, dim=-1)
