"""Segmenters by name: folders of this repository, and the released checkpoints of TinySAM and SAM."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor
from transformers import SamModel

from ...errors import UserError, one_line
from ...files import model_in
from ...hub_files import check_model_folder
from ...network_size import bounded_network, stored_size
from ...tensor_files import read_tensors, warn_unused
from ...untrusted import inside, read_json_object
from ..base import NAME_KEY
from ..registry import load_frontend, read_frontend
from .model import Segmenter, TinySAMConfig

_FAULTS = (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError)
FILES = ["config.json", "model*.safetensors*", "*.pth"]

# Tensor names of TinySAM -> names here, applied one after the other. The names here are timm's within the trunk and
# transformers' elsewhere. In the authors' TinyViT a stage ends with the downsampling that begins timm's next stage.
_RULES: list[tuple[str, str]] = [
    (r"^image_encoder\.patch_embed\.seq\.0\.", "image_encoder.trunk.patch_embed.conv1."),
    (r"^image_encoder\.patch_embed\.seq\.2\.", "image_encoder.trunk.patch_embed.conv2."),
    *(
        (rf"^image_encoder\.layers\.{i}\.downsample\.", f"image_encoder.trunk.stages.{i + 1}.downsample.")
        for i in range(3)
    ),
    (r"^image_encoder\.layers\.", "image_encoder.trunk.stages."),
    (r"^(image_encoder\.trunk\..*)\.c\.weight$", r"\1.conv.weight"),
    (r"^image_encoder\.neck\.0\.", "image_encoder.neck.conv1."),
    (r"^image_encoder\.neck\.1\.", "image_encoder.neck.layer_norm1."),
    (r"^image_encoder\.neck\.2\.", "image_encoder.neck.conv2."),
    (r"^image_encoder\.neck\.3\.", "image_encoder.neck.layer_norm2."),
    (r"\.pe_layer\.positional_encoding_gaussian_matrix$", ".shared_embedding.positional_embedding"),
    (r"\.point_embeddings\.", ".point_embed."),
    (r"\.mask_downscaling\.0\.", ".mask_embed.conv1."),
    (r"\.mask_downscaling\.1\.", ".mask_embed.layer_norm1."),
    (r"\.mask_downscaling\.3\.", ".mask_embed.conv2."),
    (r"\.mask_downscaling\.4\.", ".mask_embed.layer_norm2."),
    (r"\.mask_downscaling\.6\.", ".mask_embed.conv3."),
    (r"^(mask_decoder\.transformer\.layers\.\d+)\.norm(\d)\.", r"\1.layer_norm\2."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"\.output_upscaling\.0\.", ".upscale_conv1."),
    (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
    (r"\.output_upscaling\.3\.", ".upscale_conv2."),
    (r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.layers\.0\.", r"\1.proj_in."),
    (r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.layers\.1\.", r"\1.layers.0."),
    (r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.layers\.2\.", r"\1.proj_out."),
]
# The classifier of the trunk's pretraining, and buffers that are computed anew.
_UNUSED = re.compile(r"^image_encoder\.(norm_head|head)\.|attention_bias_idxs$|^pixel_(mean|std)$")


def load_segmenter(name: str | Path) -> Segmenter:
    """Segmenter in evaluation mode.

    Args:
        name: a folder of this repository; TinySAM's file (`tinysam.pth`), or a folder or hub id that holds it
            (`merve/tinysam`); SAM in the format of transformers (`facebook/sam-vit-base`), a folder or a hub id.

    Raises UserError if there is none, or if its files are damaged or of another kind.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return _from_authors(path)
    folder = path if path.is_dir() else _fetch(str(name))
    kind = _kind(folder)
    if kind == "sam":
        return _from_transformers(folder)
    if kind == "tinysam":
        frontend: Any = load_frontend(folder)
        return frontend.model
    files = sorted(folder.glob("*.pth"))
    if not files:
        raise UserError(f"{name} holds neither a TinySAM nor a SAM; give its folder, its .pth file or its hub id")
    return _from_authors(files[0])


def check_segmenter(name: str | Path) -> None:
    """Raise UserError for a file or folder of this machine that `load_segmenter` refuses before it makes a network."""
    path = Path(name).expanduser()
    if path.is_file():
        read_tensors(path)
    elif path.is_dir():
        kind = _kind(path)
        if kind == "sam":
            check_model_folder(path, {"sam"})
        elif kind == "tinysam" and (checkpoint := model_in(path)):
            read_frontend(checkpoint)
            stored_size(checkpoint)
        elif files := sorted(path.glob("*.pth")):
            read_tensors(files[0])


def _kind(folder: Path) -> str | None:
    """Kind of model in a folder by its config.json: `sam`, `tinysam` or another; None without the file."""
    if (checkpoint := model_in(folder)) is None:
        return None
    config = read_json_object(inside(folder, str(checkpoint.relative_to(folder) / "config.json")))
    return config.get(NAME_KEY) or config.get("model_type")


def _fetch(name: str) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=FILES))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise UserError(
            f"the segmenter '{name}' is not a file or folder here and could not be fetched from the model hub "
            f"({type(error).__name__}); check its name and the network, or train one: "
            "python train.py task=perception/tinysam"
        ) from error


def _from_transformers(folder: Path) -> Segmenter:
    check_model_folder(folder, {"sam"})
    try:
        with bounded_network(folder, sorted(folder.glob("model*.safetensors"))):
            sam, report = SamModel.from_pretrained(
                folder, use_safetensors=True, local_files_only=True, output_loading_info=True
            )
    except (*_FAULTS, SafetensorError, StrictDataclassError) as error:
        raise UserError(f"the SAM in {folder} cannot be loaded ({one_line(error)}); fetch it again") from error
    # A table that two modules share is stored under one of its names.
    if lacking := sorted(name for name in report["missing_keys"] if "shared_" not in name):
        raise UserError(f"the SAM in {folder} lacks {len(lacking)} tensors, such as {lacking[0]}; fetch it again")
    warn_unused(folder, report["unexpected_keys"])
    vision, prompts, decoder = (
        section.to_dict()
        for section in (sam.config.vision_config, sam.config.prompt_encoder_config, sam.config.mask_decoder_config)
    )
    config = TinySAMConfig(
        image_size=vision["image_size"],
        hidden_size=decoder["hidden_size"],
        prompts={key: prompts[key] for key in ("mask_input_channels", "hidden_act", "layer_norm_eps")},
        decoder={key: decoder[key] for key in _DECODER_OPTIONS},
        vit={key: vision[key] for key in _VIT_OPTIONS},
    )
    segmenter: Any = Segmenter(config)
    for mine, theirs in (
        (segmenter.image_encoder.vit, sam.vision_encoder),
        (segmenter.prompt_encoder, sam.prompt_encoder),
        (segmenter.mask_decoder, sam.mask_decoder),
    ):
        mine.load_state_dict(theirs.state_dict())
    return segmenter.eval()


_DECODER_OPTIONS = [
    "hidden_act",
    "mlp_dim",
    "num_hidden_layers",
    "num_attention_heads",
    "attention_downsample_rate",
    "num_multimask_outputs",
    "iou_head_depth",
    "iou_head_hidden_dim",
    "layer_norm_eps",
]
_VIT_OPTIONS = [
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_channels",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
    "qkv_bias",
    "use_abs_pos",
    "use_rel_pos",
    "window_size",
    "global_attn_indexes",
    "num_pos_feats",
    "mlp_dim",
]


def _from_authors(file: Path) -> Segmenter:
    """Model in TinySAM's layout (MobileSAM has the same), with the widths of its tensors."""
    stored = read_tensors(file)
    state = {rename(name): tensor for name, tensor in stored.items() if not _UNUSED.search(name)}
    try:
        with bounded_network(file.parent, [file]):
            segmenter = Segmenter(_sizes(state))
        segmenter.load_state_dict(state)
    except (*_FAULTS, StopIteration, ArithmeticError, StrictDataclassError) as error:
        raise UserError(
            f"{file} is not a checkpoint in TinySAM's layout ({one_line(error)}); give tinysam.pth"
        ) from error
    warn_unused(file, filter(_UNUSED.search, stored), "the classifier of the encoder's pretraining")
    return segmenter.eval()


def rename(name: str) -> str:
    """Name of a tensor in a `Segmenter`, from its name in TinySAM's layout."""
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return name


def _sizes(state: dict[str, Tensor]) -> TinySAMConfig:
    """Sizes from the shapes of a state dict; heads of the decoder and image size are those of the released model."""
    stages = "image_encoder.trunk.stages"
    biases = [state[f"{stages}.{stage}.blocks.0.attn.attention_biases"] for stage in (1, 2, 3)]

    def blocks(stage: int) -> int:
        return len({name.split(".")[5] for name in state if name.startswith(f"{stages}.{stage}.blocks.")})

    released = TinySAMConfig()
    lin1 = state["mask_decoder.transformer.layers.0.mlp.lin1.weight"]
    return replace(
        released,
        hidden_size=lin1.shape[1],
        embed_dims=(
            state["image_encoder.trunk.patch_embed.conv2.conv.weight"].shape[0],
            *(state[f"{stages}.{stage}.downsample.conv3.conv.weight"].shape[0] for stage in (1, 2, 3)),
        ),
        depths=tuple(blocks(stage) for stage in range(4)),
        num_heads=(released.num_heads[0], *(bias.shape[0] for bias in biases)),
        window_sizes=(released.window_sizes[0], *(math.isqrt(bias.shape[1]) for bias in biases)),
        decoder=released.decoder
        | {
            "mlp_dim": lin1.shape[0],
            "iou_head_hidden_dim": state["mask_decoder.iou_prediction_head.proj_in.weight"].shape[0],
        },
    )
