"""Checkpoints of policies: find, read and write them. Heavy libraries are imported by the functions that need them."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyvla.errors import UserError, one_line
from tinyvla.files import model_in, write_whole
from tinyvla.hub_files import AUTHORS_HINT
from tinyvla.untrusted import MAX_JSON_BYTES, check_links, check_regular, inside, read_json_object

if TYPE_CHECKING:
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies import PreTrainedPolicy
    from torch import Tensor

    from .factory import Pipeline

# Beside LeRobot's files of a checkpoint, which hold sizes only.
FEATURE_NAMES, RECORDING = "feature_names.json", "recording.json"
_MAX_FPS = 1000


def find_checkpoint(path: Path | str) -> Path:
    """The folder with a policy's config.json at or below `path`: a checkpoint, or a run folder (its best, else last).

    Raises UserError if there is none, or it is outside of the folder `path`.
    """
    if (Path(path) / "adapter_config.json").is_file():
        raise UserError(f"{path} holds LoRA matrices and is not a checkpoint of this stack; {AUTHORS_HINT}")
    if folder := model_in(path):
        inside(path, str(folder.relative_to(path)))  # not through a link that leaves the run
        inside(folder, "config.json")
        return folder
    raise UserError(f"no policy checkpoint at {path}; give a run folder of train.py or a folder that holds config.json")


def check_checkpoint_files(folder: Path) -> None:
    """Raise UserError unless all files of a checkpoint are its own, regular ones, and of the size of their kind.

    A sparse file of terabytes takes no room on a disk, and days to read.
    """
    from tinyvla.network_size import stored_size

    check_links(folder)
    for path in folder.rglob("*"):
        if not path.is_dir():
            check_regular(path, None if path.suffix == ".safetensors" else MAX_JSON_BYTES)
    stored_size(folder)  # headers that account for every byte of the weights


def feature_names(path: Path | str) -> dict[str, list[str]]:
    """Names of the values of a checkpoint's observation.state and action, in order, such as `shoulder_pan.pos`.

    They are those of the dataset that the policy was trained on; empty for a checkpoint without them. Raises UserError
    if there is no checkpoint.
    """
    folder = find_checkpoint(path)
    if not (folder / FEATURE_NAMES).exists():
        return {}
    content = read_json_object(inside(folder, FEATURE_NAMES), 1 << 20)
    for key, names in content.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{folder / FEATURE_NAMES} has no list of names for {key[:50]!r}; get the original file")
    return content


def recorded_fps(path: Path | str) -> float | None:
    """Frames per second of the recordings that a checkpoint was trained on, which is its rate of control.

    None for an older checkpoint. Raises UserError if there is no checkpoint, or the rate cannot be.
    """
    folder = find_checkpoint(path)
    if not (folder / RECORDING).exists():
        return None
    fps = read_json_object(inside(folder, RECORDING), 1 << 20).get("fps")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps <= _MAX_FPS:
        raise UserError(f"{folder / RECORDING} has fps={str(fps)[:50]}, which cannot be; get the original file")
    return float(fps)


def save_checkpoint_files(
    policy: "PreTrainedPolicy",
    preprocessor: "Pipeline",
    postprocessor: "Pipeline",
    directory: Path,
    weights: "dict[str, Tensor] | None" = None,
    features: Mapping[str, Mapping[str, Any]] | None = None,
    fps: float | None = None,
) -> None:
    """Write a policy as LeRobot does: config.json, model.safetensors and the two pipelines, all in `directory`.

    Args:
        weights: tensors by name to write instead of the policy's own.
        features: of the dataset that it was trained on; see `feature_names`.
        fps: of that dataset; see `recorded_fps`.
    """
    from lerobot.utils.constants import ACTION, OBS_STATE

    from .hub_models import save_models

    directory.mkdir(parents=True, exist_ok=True)
    policy.save_pretrained(directory, state_dict=weights)
    save_models(policy, preprocessor, directory)
    preprocessor.save_pretrained(directory)
    postprocessor.save_pretrained(directory)
    names = {key: (features or {}).get(key, {}).get("names") for key in (OBS_STATE, ACTION)}
    if lists := {key: list(value) for key, value in names.items() if isinstance(value, list | tuple)}:
        write_whole(directory / FEATURE_NAMES, json.dumps(lists, indent=1))
    if fps is not None:
        write_whole(directory / RECORDING, json.dumps({"fps": fps}))


def load_checkpoint(path: Path | str, device: str | None = None) -> "tuple[PreTrainedPolicy, Pipeline, Pipeline]":
    """Load a policy and its pipelines from a checkpoint or run folder onto `device` (None: the fastest one).

    Nothing of the checkpoint is run: see docs/security.md. Raises UserError if files are missing, cut short, of an
    unknown policy type, or refused.
    """
    from lerobot.policies import get_policy_class

    from tinyvla.network_size import bounded_network

    from .factory import quiet_libraries

    folder = find_checkpoint(path)
    with _one_line_faults(folder):
        config, preprocessor, postprocessor = _read_pipelines(folder, device)
        with quiet_libraries(), bounded_network(folder):
            policy = get_policy_class(config.type).from_pretrained(folder, config=config, strict=True)
    return policy, preprocessor, postprocessor


def load_pipelines(path: Path | str, device: str | None = None) -> "tuple[PreTrainedConfig, Pipeline, Pipeline]":
    """The configuration of a checkpoint's policy and its pipelines, without weights; otherwise as `load_checkpoint`."""
    folder = find_checkpoint(path)
    with _one_line_faults(folder):
        return _read_pipelines(folder, device)


def _read_pipelines(folder: Path, device: str | None) -> "tuple[PreTrainedConfig, Pipeline, Pipeline]":
    from .checkpoint_config import read_policy_config
    from .hub_models import use_checkpoint_models
    from .pipelines import read_pipelines

    check_checkpoint_files(folder)
    config = read_policy_config(folder, device)
    if frontends := getattr(config, "frontend", None):
        from tinyvla.frontends.registry import read_frontend

        from .tinyvla.frontends import checkpoint_options

        for options in checkpoint_options(frontends, folder).values():
            read_frontend(Path(options["checkpoint"]))
    overrides = use_checkpoint_models(config, folder) | {"device_processor": {"device": config.device}}
    return config, *read_pipelines(folder, config, overrides)


@contextlib.contextmanager
def _one_line_faults(folder: Path) -> Iterator[None]:
    """Turn what goes wrong with a checkpoint's content into a UserError that names the checkpoint."""
    try:
        yield
    except UserError as error:
        raise UserError(f"the checkpoint {folder} cannot be loaded: {error}") from error
    # With unsuitable values the libraries' own classes fail with any error there is.
    except Exception as error:
        raise UserError(
            f"the checkpoint {folder} cannot be loaded ({type(error).__name__}: {one_line(error, 300)}); "
            "it may be cut short: use another checkpoint of the run, or train again"
        ) from error
