"""The authors' files of TinyCLIP (`.pt`), with towers of one shape or of layers that automatic inheritance has pruned.

They are in open_clip's layout: `_image_encoder.visual.`, `_text_encoder.` and `_logit_scale.` before OpenAI's names,
or these names alone, with or without `module.`. All sizes follow from the tensors; a head has 64 channels in all of
them, and the activation is GELU.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPTokenizer

from ...errors import UserError, one_line
from ...hub_files import check_model_options, check_tokens
from ...network_size import bounded_network
from ...ranges import MAX_LAYERS
from ...tensor_files import read_tensors
from .model import ShapedClip, resized_config

HEAD_DIM = 64
_FAULTS = (OSError, KeyError, IndexError, AttributeError, RuntimeError, ValueError, TypeError)
RELEASED = "wkcn/TinyCLIP-ViT-8M-16-Text-3M-YFCC15M"  # the smallest of the authors' checkpoints on the hub
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
_NUMBERS = {"input_resolution", "context_length", "vocab_size"}  # of OpenAI's own files, no weights
_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)")
_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_OUTSIDE = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
_PROJECTIONS = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}  # transposed
# Halves of a layer by their modules; automatic inheritance may remove either.
_HALVES = (("self_attn", "layer_norm1"), ("mlp", "layer_norm2"))
_IN_HALF = re.compile(r"(.+\.layers\.\d+\.)(self_attn|layer_norm1|mlp|layer_norm2)\..+")


def load_authors_clip(file: Path) -> tuple[ShapedClip, CLIPTokenizer, CLIPImageProcessor]:
    """Model of an authors' file, its tokenizer and its image processor.

    The tokenizer is the one beside the file (`tokenizer.json`, or `vocab.json` and `merges.txt`), else CLIP's from the
    model hub.

    Raises UserError for a damaged file, one of another layout, and weights that have no place in the model.
    """
    stored = _read(file)
    try:
        tokenizer = _tokenizer(file, stored["token_embedding.weight"].shape[0])
        with bounded_network(file.parent, [file]):
            clip = ShapedClip(_config(stored, tokenizer))
        _place(clip, stored, file)
    except _FAULTS as error:
        reason = f"{type(error).__name__}: {one_line(error, 150)}"
        raise UserError(f"{file} is not a TinyCLIP in the authors' layout ({reason}); get the original file") from error
    side = clip.config.vision_config.image_size
    processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return clip.eval(), tokenizer, processor


def _read(file: Path) -> dict[str, Tensor]:
    """Tensors of an authors' file by OpenAI's names. Raises UserError for models that have no place here."""
    stored: dict[str, Tensor] = {}
    for name, tensor in read_tensors(file).items():
        plain = plain_name(name)
        # A pruned model has its towers under two names.
        if plain in stored and not torch.equal(stored[plain], tensor):
            raise UserError(f"{file} has two different tensors {plain}; get the original file")
        stored[plain] = tensor
    if any(".l0_module." in f".{name}" for name in stored):
        raise UserError(
            f"{file} holds the masks of an unfinished automatic inheritance (l0_module); give the pruned model"
        )
    if any(name.startswith("visual.layer1.") for name in stored):
        raise UserError(f"{file} has a ResNet for images, which TinyCLIP has not here; give one of the ViT models")
    return {name: tensor for name, tensor in stored.items() if name not in _NUMBERS}


def plain_name(name: str) -> str:
    """OpenAI's name of a tensor: `visual.` begins those of the image tower, the others are of the text tower."""
    name = name.replace("module.", "") if "l0_module." not in name else name
    return re.sub(r"^_?(image_encoder|text_encoder|logit_scale)(_without_ddp)?\.", "", name)


def _tokenizer(file: Path, vocab_size: int) -> CLIPTokenizer:
    place = file.parent
    if not any((place / name).is_file() for name in _TOKENIZER_FILES):
        try:
            place = Path(snapshot_download(RELEASED, allow_patterns=["*.json", "*.txt"]))
        except (OSError, HfHubHTTPError) as error:
            raise UserError(
                f"{file} has no tokenizer beside it, and CLIP's could not be downloaded from the model hub "
                f"({type(error).__name__}); put tokenizer.json of any CLIP with {vocab_size} tokens beside the file"
            ) from error
    check_model_options(place)
    check_tokens(place / "tokenizer.json")
    tokenizer = CLIPTokenizer.from_pretrained(place)
    if len(tokenizer) != vocab_size:
        raise UserError(
            f"the tokenizer in {place} has {len(tokenizer)} tokens and {file.name} reads {vocab_size}; put the one "
            "that belongs to it beside the file"
        )
    return tokenizer


def _config(stored: Mapping[str, Tensor], tokenizer: CLIPTokenizer) -> CLIPConfig:
    """Config of the towers, from the shapes of their tensors."""
    patches, positions = stored["visual.conv1.weight"].shape, stored["visual.positional_embedding"].shape
    vocab_size, max_tokens = stored["token_embedding.weight"].shape[0], stored["positional_embedding"].shape[0]
    image_size = patches[-1] * round((positions[0] - 1) ** 0.5)
    marks = {f"{mark}_token_id": getattr(tokenizer, f"{mark}_token_id") for mark in ("bos", "eos", "pad")}
    config = CLIPConfig(
        vision_config={"image_size": image_size, "patch_size": patches[-1], "hidden_act": "gelu"},
        text_config={"vocab_size": vocab_size, "max_position_embeddings": max_tokens, "hidden_act": "gelu"} | marks,
        projection_dim=stored["text_projection"].shape[1],
    )
    return resized_config(config, {"vision": _sizes(stored, "visual."), "text": _sizes(stored, "")})


def _sizes(stored: Mapping[str, Tensor], prefix: str) -> dict[str, object]:
    """Sizes of a tower in the form of `model.sizes_of`; a removed half of a layer has one head, or one unit."""
    blocks = [match for name in stored if (match := _BLOCK.fullmatch(name)) and (match[1] or "") == prefix]
    layers = 1 + max(int(match[2]) for match in blocks)
    if layers > MAX_LAYERS:
        raise ValueError(f"a tower has {layers} layers")
    heads, units = [], []
    for layer in range(layers):
        block = f"{prefix}transformer.resblocks.{layer}"
        attention, mlp = (stored.get(f"{block}.{name}") for name in ("attn.in_proj_weight", "mlp.c_fc.weight"))
        if attention is not None and (len(attention) == 0 or len(attention) % (3 * HEAD_DIM)):
            raise ValueError(f"{block} has heads of other sizes than {HEAD_DIM}")
        heads.append(1 if attention is None else len(attention) // (3 * HEAD_DIM))
        units.append(1 if mlp is None else len(mlp))
    width = stored[f"{prefix}positional_embedding"].shape[1]
    return {"width": width, "head_dim": HEAD_DIM, "heads": heads, "units": units}


def _place(clip: ShapedClip, stored: Mapping[str, Tensor], file: Path) -> None:
    """Copy tensors by OpenAI's names into the model. Raises UserError for those that are missing or left over."""
    state: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        state |= _placed(name, tensor)
    # Zeros add nothing to the residual stream.
    removed = {name: torch.zeros_like(empty) for name, empty in clip.state_dict().items() if _is_removed(name, state)}
    missing, unexpected = clip.load_state_dict(state | removed, strict=False)
    for names, fault in ((missing, "lacks"), (unexpected, "has unknown")):
        if names:
            raise UserError(
                f"{file} {fault} {len(names)} tensors, e.g. {', '.join(sorted(names)[:3])}; get the original file"
            )


def _placed(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A stored tensor under its names in transformers' CLIP; an unknown one under its own."""
    if name in _PROJECTIONS:
        return {_PROJECTIONS[name]: tensor.T}
    if (match := _BLOCK.fullmatch(name)) is None:
        return {_OUTSIDE.get(name, name): tensor}
    layer = f"{'vision' if match[1] else 'text'}_model.encoder.layers.{match[2]}"
    if match[3] in ("attn.in_proj_weight", "attn.in_proj_bias"):
        kind = match[3].rpartition("_")[2]
        return {
            f"{layer}.self_attn.{part}_proj.{kind}": rows for part, rows in zip("qkv", tensor.chunk(3), strict=True)
        }
    module, _, kind = match[3].rpartition(".")
    return {f"{layer}.{_LAYER[module]}.{kind}" if module in _LAYER else name: tensor}


def _is_removed(name: str, state: Mapping[str, Tensor]) -> bool:
    """True for a tensor of a half of a layer of which the file holds nothing."""
    if (match := _IN_HALF.fullmatch(name)) is None:
        return False
    half = next(modules for modules in _HALVES if match[2] in modules)
    return not any(other.startswith(tuple(f"{match[1]}{module}." for module in half)) for other in state)
