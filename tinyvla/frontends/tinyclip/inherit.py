"""Weight inheritance: a smaller CLIP that starts with selected weights of a larger one (arXiv 2309.12314, 3.2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPModel

from ...errors import UserError
from .model import TOWERS, ShapedClip, projection_of, resized_config, sizes_of, tower_of


@dataclass(frozen=True)
class Selection:
    """Selected parts of a tower, as ascending indices.

    layers: indices of layers.
    width: channels of the residual stream, the same in all layers.
    heads, units: attention heads and FFN units of each selected layer.
    """

    layers: list[int]
    width: Tensor
    heads: list[Tensor]
    units: list[Tensor]

    def sizes(self, head_dim: int) -> dict[str, Any]:
        """Sizes in the form of `sizes_of`."""
        heads, units = ([len(indices) for indices in layers] for layers in (self.heads, self.units))
        return {"width": len(self.width), "head_dim": head_dim, "heads": heads, "units": units}


def inherit(clip: CLIPModel, shape: Mapping[str, Mapping[str, int]]) -> ShapedClip:
    """Manual inheritance: evenly spaced layers, channels, heads and units.

    Args:
        clip: the larger model, not changed.
        shape: by tower, the numbers of `layers`, channels (`width`), `heads` and FFN `units` per layer; sizes that are
            left out do not change.

    Raises UserError for sizes larger than those of the model.
    """
    return cut(clip, {name: keep_evenly(clip, name, shape.get(name, {})) for name in TOWERS})


def keep_evenly(clip: CLIPModel, name: str, shape: Mapping[str, int]) -> Selection:
    """Evenly spaced layers, channels, heads and FFN units of a tower, see `inherit`."""
    old = sizes_of(clip.config, name)
    if unknown := {*shape} - {"layers", "width", "heads", "units"}:
        raise UserError(f"a tower has no {', '.join(sorted(unknown))}; give layers, width, heads or units")

    def evenly(kind: str, total: int) -> list[int]:
        count = total if shape.get(kind) is None else shape[kind]
        if not 1 <= count <= total:
            raise UserError(
                f"{count} {kind} cannot be inherited from the {total} that the teacher's {name} tower has; "
                f"choose between 1 and {total}"
            )
        return [i * total // count for i in range(count)]

    layers = evenly("layers", len(old["heads"]))
    return Selection(
        layers,
        torch.tensor(evenly("width", old["width"])),
        [torch.tensor(evenly("heads", old["heads"][layer])) for layer in layers],
        [torch.tensor(evenly("units", old["units"][layer])) for layer in layers],
    )


@torch.no_grad()
def cut(clip: CLIPModel, selections: Mapping[str, Selection]) -> ShapedClip:
    """Smaller model with the selected parts of each tower and their weights."""
    head_dims = {name: sizes_of(clip.config, name)["head_dim"] for name in TOWERS}
    small = ShapedClip(resized_config(clip.config, {name: selections[name].sizes(head_dims[name]) for name in TOWERS}))
    for name in TOWERS:
        choice, old, new = selections[name], tower_of(clip, name), tower_of(small, name)
        width = choice.width
        _copy_embeddings(old.embeddings, new.embeddings, width)
        _copy(projection_of(clip, name), projection_of(small, name), columns=width)
        for norm in ("pre_layrnorm", "post_layernorm", "final_layer_norm"):
            if hasattr(old, norm):
                _copy(getattr(old, norm), getattr(new, norm), rows=width)
        for number, target, heads, units in zip(
            choice.layers, new.encoder.layers, choice.heads, choice.units, strict=True
        ):
            source, dim = old.encoder.layers[number], head_dims[name]
            inside = (heads[:, None] * dim + torch.arange(dim, device=heads.device)).flatten()
            _copy(source.layer_norm1, target.layer_norm1, rows=width)
            _copy(source.layer_norm2, target.layer_norm2, rows=width)
            for projection in ("q_proj", "k_proj", "v_proj"):
                _copy(getattr(source.self_attn, projection), getattr(target.self_attn, projection), inside, width)
            _copy(source.self_attn.out_proj, target.self_attn.out_proj, width, inside)
            _copy(source.mlp.fc1, target.mlp.fc1, units, width)
            _copy(source.mlp.fc2, target.mlp.fc2, width, units)
    small.logit_scale.copy_(clip.logit_scale)
    return small.train(clip.training)


def _copy(source: Any, target: Any, rows: Tensor | None = None, columns: Tensor | None = None) -> None:
    weight = source.weight if rows is None else source.weight[rows]
    target.weight.copy_(weight if columns is None else weight[:, columns])
    if source.bias is not None:
        target.bias.copy_(source.bias if rows is None else source.bias[rows])


def _copy_embeddings(source: Any, target: Any, width: Tensor) -> None:
    for name, table in source.named_parameters():
        # Channels are last, except in the class token (W,) and in the kernels of the patches (W, 3, P, P).
        chosen = table[width] if name.startswith(("class", "patch")) else table[:, width]
        target.get_parameter(name).copy_(chosen)
