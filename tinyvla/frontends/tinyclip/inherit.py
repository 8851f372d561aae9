"""Weight inheritance: a smaller CLIP that begins with a choice of a larger one's weights (arXiv 2309.12314, 3.2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPModel

from ...errors import UserError
from .model import TOWERS, ShapedClip, projection_of, resized_config, sizes_of, tower_of


@dataclass(frozen=True)
class Kept:
    """What of a tower stays, as ascending numbers of the larger one's units.

    layers: which layers.
    width: channels of the residual stream, the same in all layers.
    heads, units: attention heads and FFN units, of each layer that stays.
    """

    layers: list[int]
    width: Tensor
    heads: list[Tensor]
    units: list[Tensor]

    def sizes(self, head_dim: int) -> dict[str, Any]:
        """As `sizes_of` returns them."""
        heads, units = ([len(each) for each in every] for every in (self.heads, self.units))
        return {"width": len(self.width), "head_dim": head_dim, "heads": heads, "units": units}


def inherit(clip: CLIPModel, shape: Mapping[str, Mapping[str, int]]) -> ShapedClip:
    """Manual inheritance: layers and widths are thinned out evenly.

    Args:
        clip: the larger model; it stays as it is.
        shape: by tower, how many `layers`, channels (`width`), `heads` and FFN `units` a layer to keep; what is not
            named stays whole.

    Raises UserError for more than there is.
    """
    return cut(clip, {name: keep_evenly(clip, name, shape.get(name, {})) for name in TOWERS})


def keep_evenly(clip: CLIPModel, name: str, shape: Mapping[str, int]) -> Kept:
    """Every n-th layer, channel, head and FFN unit of a tower, see `inherit`."""
    old = sizes_of(clip.config, name)
    if unknown := {*shape} - {"layers", "width", "heads", "units"}:
        raise UserError(f"a tower has no {', '.join(sorted(unknown))}; give layers, width, heads or units")

    def evenly(what: str, there: int) -> list[int]:
        wanted = there if shape.get(what) is None else shape[what]
        if not 1 <= wanted <= there:
            raise UserError(
                f"{wanted} {what} cannot be inherited from the {there} that the teacher's {name} tower has; "
                f"choose between 1 and {there}"
            )
        return [i * there // wanted for i in range(wanted)]

    layers = evenly("layers", len(old["heads"]))
    return Kept(
        layers,
        torch.tensor(evenly("width", old["width"])),
        [torch.tensor(evenly("heads", old["heads"][layer])) for layer in layers],
        [torch.tensor(evenly("units", old["units"][layer])) for layer in layers],
    )


@torch.no_grad()
def cut(clip: CLIPModel, kept: Mapping[str, Kept]) -> ShapedClip:
    """The smaller model that has, by tower, just what is kept, with the larger one's weights."""
    head_dims = {name: sizes_of(clip.config, name)["head_dim"] for name in TOWERS}
    small = ShapedClip(resized_config(clip.config, {name: kept[name].sizes(head_dims[name]) for name in TOWERS}))
    for name in TOWERS:
        choice, old, new = kept[name], tower_of(clip, name), tower_of(small, name)
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
            for part in ("q_proj", "k_proj", "v_proj"):
                _copy(getattr(source.self_attn, part), getattr(target.self_attn, part), inside, width)
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
        # Channels come last, but for the class token, which has nothing else, and the patches' kernels (W, 3, P, P).
        chosen = table[width] if name.startswith(("class", "patch")) else table[:, width]
        target.get_parameter(name).copy_(chosen)


def shape_of(clip: CLIPModel) -> dict[str, dict[str, int]]:
    """A model's sizes as `inherit` takes them; the largest layer's, where layers differ."""
    shapes = {}
    for name in TOWERS:
        size = sizes_of(clip.config, name)
        shapes[name] = {"layers": len(size["heads"]), "width": size["width"]}
        shapes[name] |= {"heads": max(size["heads"]), "units": max(size["units"])}
    return shapes


def stage_shapes(clip: CLIPModel, shape: Mapping[str, Mapping[str, int]], stages: int) -> list[dict[str, Any]]:
    """Multi-stage progressive distillation (3.3): the shapes on the way to `shape`, that one last.

    Every size shrinks by equal steps, rounded up; each stage inherits from the one before it.
    """
    first = shape_of(clip)

    def between(stage: int, name: str, what: str) -> int:
        there = first[name][what]
        last = shape.get(name, {}).get(what) or there
        return there - (there - last) * stage // stages

    return [
        {name: {what: between(stage, name, what) for what in first[name]} for name in TOWERS}
        for stage in range(1, stages + 1)
    ]
