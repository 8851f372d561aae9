"""Policies of the TinyVLA authors (arXiv 2409.12514) as checkpoints of this stack.

    python -m policies.tinyvla.released policy=<folder> cameras=[left,right] output=outputs/released

The authors' training writes LoRA matrices (`adapter_model`), all other weights (`non_lora_trainables.bin`) and the
statistics of its dataset (`dataset_stats.pkl`), the last one and config.json also a folder above; their merged policies
are one model. Either becomes a checkpoint that acts, is evaluated, and begins other runs (`init_from`).
"""

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from lerobot.configs import FeatureType, PolicyFeature
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from yaml import YAMLError

from tinyvla.backbones.checkpoint import FileTokenizer, fetch_checkpoint, place_weights, read_weights
from tinyvla.backbones.llava_pythia import PYTHIA_SHAPES, LlavaPythiaConfig
from tinyvla.backbones.lora import LoRAConfig, merge_lora
from tinyvla.decoders.released import decoder_config, decoder_weights
from tinyvla.decoding import decode_section
from tinyvla.errors import UserError, one_line
from tinyvla.files import check_writable
from tinyvla.hub_files import check_tokens
from tinyvla.network_size import bounded_size
from tinyvla.pickled_arrays import read_pickled_arrays
from tinyvla.tensor_files import read_tensors
from tinyvla.untrusted import MAX_JSON_BYTES, check_links, check_regular, inside, read_json_object

from ..checkpoints import save_checkpoint_files
from ..factory import Pipeline, make_processors
from ..image_size import ImageSizeStep
from .configuration_tinyvla import MAX_CHUNK, TinyVLAConfig
from .modeling_tinyvla import TinyVLAPolicy

ADAPTER_CONFIG, NON_LORA, STATISTICS = "adapter_config.json", "non_lora_trainables.bin", "dataset_stats.pkl"
_PLAIN_STATISTICS = "dataset_stats.json"
_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
_ASSETS = ("config.json", FileTokenizer.FILE, "preprocessor_config.json")
_PREFIXES = ("module.", "base_model.model.", "base_model.")  # of a network in a data-parallel or peft model
_HEAD = "embed_out."
# Options of peft under which a layer is not W + alpha / r * B @ A.
_OTHER_LORA = ("use_dora", "use_rslora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "modules_to_save")
# Of their evaluation: the middle of every image, a chunk per step, overlapping chunks averaged.
_EXECUTION: dict[str, Any] = {"crop_ratio": 0.95, "n_action_steps": 1, "temporal_ensemble_coeff": 0.01}
_USAGE = """A policy of the TinyVLA authors as a checkpoint of this stack.

  python -m policies.tinyvla.released policy=FOLDER cameras=[left,right] output=FOLDER

  policy=FOLDER          LoRA matrices and non_lora_trainables.bin (such as checkpoint-10000), or a merged model
  cameras=[left,right]   names for its cameras, in the order of its training
  output=FOLDER          the checkpoint, for evaluate.py checkpoint=... and train.py init_from=...
  base=FOLDER            or hub id: the LLaVA-Pythia that it was trained from, for a policy without its tokenizer
  image_size=[180,320]   height and width of the images that it sees"""


@dataclass(frozen=True)
class ReleasedSettings:
    """Settings of the conversion.

    Args:
        policy: folder of the authors' policy.
        output: folder of the checkpoint, to create.
        cameras: names for the cameras, in the order of its training.
        base: folder or hub id of the LLaVA-Pythia that it was trained from; None: the policy is complete.
        image_size: height and width in pixels of the images that it sees, by default those of the authors.
    """

    policy: Path
    output: Path
    cameras: list[str]
    base: str | None = None
    image_size: tuple[int, int] = (180, 320)


def convert_released(settings: ReleasedSettings) -> Path:
    """Write the checkpoint of a released policy; returns its folder, which is complete or absent.

    LoRA matrices are added to their layers, so that the checkpoint's backbone has none.

    Raises UserError for settings that do not fit, and for a policy that is incomplete, damaged or of another kind.
    """
    source, output = settings.policy, settings.output
    if output.exists():
        raise UserError(f"{output} exists already; choose another folder")
    if not source.is_dir():
        raise UserError(f"policy={source} is not a folder; give the folder of a policy's weights")
    check_links(source)
    check_writable(output.parent)
    base = _fetch_base(settings.base) if settings.base else None
    above = [source.parent] if source.name.startswith("checkpoint") else []
    folders = [source, *above, *([base] if base else [])]
    weights, statistics = _read_network(source, base), _read_statistics(folders)
    with TemporaryDirectory() as assets:
        _copy_assets(folders, Path(assets))
        try:
            policy = _make_policy(settings, Path(assets), weights)
        except (TypeError, ValueError, RuntimeError, UserError) as error:
            fault = one_line(error, 400).replace(assets, str(source))
            raise UserError(
                fault if isinstance(error, UserError) else f"{source} holds no such policy: {fault}"
            ) from error
    pipelines = make_processors(policy, _normalisation(statistics, policy), ImageSizeStep(*settings.image_size))
    policy.config.device = None  # the fastest one of the machine that loads it
    _write(policy, pipelines, output)
    return output


def _write(policy: TinyVLAPolicy, pipelines: tuple[Pipeline, Pipeline], output: Path) -> None:
    temporary = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        save_checkpoint_files(policy, *pipelines, temporary)
        temporary.replace(output)
    except OSError as error:
        raise UserError(f"{output} could not be written ({error}); free some space or choose another folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fetch_base(name: str) -> Path:
    try:
        return fetch_checkpoint(name)
    except UserError as error:
        raise UserError(
            f"base={name} is not a folder here and could not be downloaded; give the folder or hub id of a LLaVA-Pythia"
        ) from error


def _read_network(source: Path, base: Path | None) -> dict[str, Tensor]:
    """Weights of a policy under their plain names, its LoRA matrices added to their layers."""
    adapter = next((source / name for name in _ADAPTERS if (source / name).exists()), None)
    if adapter is None and not (source / ADAPTER_CONFIG).exists():
        return _with_plain_names(read_weights(source))
    if adapter is None or not (source / NON_LORA).exists():
        raise UserError(
            f"{source} lacks {NON_LORA if adapter else ' or '.join(_ADAPTERS)}; the weights of a policy that was "
            f"trained with LoRA are {NON_LORA} and its adapter"
        )
    weights = _with_plain_names(read_weights(base)) if base else {}
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith(_HEAD)}  # of language
    # The adapter comes last: files that were collected from several processes hold its matrices a second time.
    weights |= _with_plain_names(read_tensors(source / NON_LORA)) | _with_plain_names(read_tensors(adapter))
    return merge_lora(weights, _lora_alpha(source / ADAPTER_CONFIG))


def _with_plain_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights without the prefixes of the models around the network, and without peft's names inside it."""
    plain = {}
    for name, tensor in weights.items():
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        plain[name.replace(".base_layer.", ".").replace(".default.", ".")] = tensor
    return plain


def _lora_alpha(file: Path) -> float:
    """alpha of a LoRA. Raises UserError for an adapter that is more than that."""
    options = read_json_object(file, 1 << 20)
    alpha = options.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < 1e6:
        raise UserError(f"{file} has no lora_alpha above 0; get the original file")
    other = [name for name in _OTHER_LORA if options.get(name)]
    if options.get("peft_type") != "LORA" or other or options.get("bias", "none") != "none":
        raise UserError(
            f"{file} is not of a plain LoRA ({', '.join(other) or 'type or bias'}); merge it with peft first"
        )
    return alpha


def _read_statistics(folders: Sequence[Path]) -> dict[str, Any]:
    """Statistics of the policy's dataset by the authors' names, such as `action_min`."""
    for folder in folders:
        if (folder / STATISTICS).exists():
            return read_pickled_arrays(inside(folder, STATISTICS))
        if (folder / _PLAIN_STATISTICS).exists():
            return read_json_object(inside(folder, _PLAIN_STATISTICS), 1 << 20)
    raise UserError(
        f"{folders[0]} has no {STATISTICS}, which normalises the policy's states and actions; put the one of its "
        f"training there, or {_PLAIN_STATISTICS} with lists qpos_mean, qpos_std, action_min, action_max"
    )


def _normalisation(statistics: Mapping[str, Any], policy: TinyVLAPolicy) -> dict[str, dict[str, np.ndarray]]:
    """Statistics in LeRobot's form. Raises UserError if they lack values, or are not of the policy's sizes."""
    stats: dict[str, dict[str, np.ndarray]] = {"observation.state": {}, "action": {}}
    for key, theirs in (("observation.state", "qpos"), ("action", "action")):
        feature = {**policy.config.input_features, **policy.config.output_features}[key]
        for name in ("mean", "std") if theirs == "qpos" else ("min", "max"):
            try:
                values = np.asarray(statistics[f"{theirs}_{name}"], dtype=np.float32)
            except (KeyError, ValueError, TypeError) as error:
                raise UserError(
                    f"the statistics lack {theirs}_{name}; get the file of the policy's training"
                ) from error
            if values.shape != feature.shape or not np.isfinite(values).all():
                raise UserError(
                    f"{theirs}_{name} of the statistics is not {feature.shape[0]} finite numbers; get the file of the "
                    "policy's training"
                )
            stats[key][name] = values
    return stats


def _copy_assets(folders: Sequence[Path], target: Path) -> None:
    """Copy what describes the network, of the first folder that has it: config.json, tokenizer, colours of images."""
    for name in _ASSETS:
        if folder := next((folder for folder in folders if (folder / name).exists()), None):
            check_regular(inside(folder, name), MAX_JSON_BYTES)
            shutil.copyfile(folder / name, target / name)
    for name in _ASSETS[:2]:
        if not (target / name).exists():
            raise UserError(
                f"{folders[0]} has no {name}; add base=<folder or hub id of the LLaVA-Pythia that it began as>, "
                "such as base=lesjie/Llava-Pythia-400M"
            )
    check_tokens(target / FileTokenizer.FILE)


def _make_policy(settings: ReleasedSettings, assets: Path, weights: Mapping[str, Tensor]) -> TinyVLAPolicy:
    """Policy with these weights, by their plain names."""
    architecture = read_json_object(assets / "config.json")
    sizes = _sizes(architecture, settings)
    head = {name.removeprefix(_HEAD): tensor for name, tensor in weights.items() if name.startswith(_HEAD)}
    width = architecture.get("hidden_size")
    image = PolicyFeature(FeatureType.VISUAL, (3, *settings.image_size))
    config = TinyVLAConfig(
        input_features={f"observation.images.{camera}": image for camera in settings.cameras}
        | {"observation.state": PolicyFeature(FeatureType.STATE, (sizes["state_dim"],))},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (sizes["action_dim"],))},
        chunk_size=sizes["chunk_size"],
        **_EXECUTION,
        backbone=LlavaPythiaConfig(
            size=next((size for size, shape in PYTHIA_SHAPES.items() if shape[1] == width), "s"),
            pretrained=None,
            assets=str(assets),
            lora=LoRAConfig(r=0),
        ),
        decoder=decoder_config(head),
        device="cpu",
    )
    with bounded_size(sum(tensor.numel() for tensor in weights.values()), len(weights)):
        policy = TinyVLAPolicy(config).eval()
    decoder = policy.model.decoder
    backbone = {name: tensor for name, tensor in weights.items() if not name.startswith(_HEAD)}
    policy.model.backbone.place_weights(backbone, settings.policy)
    place_weights(decoder, decoder_weights(head), lambda name: name, f"the action head of {settings.policy}")
    return policy


def _sizes(architecture: Mapping[str, Any], settings: ReleasedSettings) -> dict[str, int]:
    """Sizes of state, action and chunk. Raises UserError for another action head, or cameras that it cannot have."""
    place = f"config.json of {settings.policy}"
    if (kind := architecture.get("action_head_type")) != "droid_diffusion":
        raise UserError(
            f"{place} has the action head {str(kind)[:40]!r}, and this stack has the authors' droid_diffusion alone; "
            "give a policy with that one"
        )
    if len(settings.cameras) > 1 and architecture.get("concat") != "token_cat":
        raise UserError(f"{place} has no token_cat, so the policy sees one camera; give one name in cameras=[...]")
    sizes: dict[str, int] = {}
    for name in ("state_dim", "action_dim", "chunk_size"):
        size = sizes[name] = architecture.get(name, 0)
        if type(size) is not int or not 1 <= size <= MAX_CHUNK:
            raise UserError(
                f"{place} has {name}={str(size)[:40]}, not a number from 1 to {MAX_CHUNK}; get the original"
            )
    return sizes


def read_settings(arguments: Sequence[str]) -> ReleasedSettings | None:
    """Settings of a command line of `key=value`; None if it asks for help. Raises UserError for any mistake in it."""
    if {"--help", "-h", "help"} & set(arguments):
        print(_USAGE)
        return None
    if wrong := [argument for argument in arguments if "=" not in argument or argument.startswith("-")]:
        raise UserError(f"'{wrong[0]}' is not a setting; write key=value, see --help")
    try:
        values: Any = OmegaConf.to_container(OmegaConf.from_dotlist(list(arguments)))
    except (OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"a value is not valid YAML ({one_line(error)}); put it in quotes") from error
    settings = decode_section(ReleasedSettings, values)
    if not settings.cameras or len({*settings.cameras}) < len(settings.cameras):
        raise UserError("cameras needs one name per camera, all different, as in cameras=[left,right]")
    if not all(1 <= side <= 4096 for side in settings.image_size):
        raise UserError(f"image_size={list(settings.image_size)} does not fit; use [height,width] from 1 to 4096")
    return settings


def main() -> None:
    """Convert the policy of the command line; a mistake is one line on stderr and exit code 2."""
    try:
        if settings := read_settings(sys.argv[1:]):
            print(convert_released(settings))
    except UserError as error:
        print(f"error: {one_line(error, None)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
