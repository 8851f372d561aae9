"""Environment that a policy was trained in, from the settings of its run or the description of its demonstrations."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from policies import find_checkpoint
from tinyvla.errors import UserError
from tinyvla.training.run_folder import CONFIG, read_config
from tinyvla.untrusted import read_json_object

from .contract import EnvConfig, as_arguments
from .demos.dataset import PROVENANCE
from .registry import decode_env, spec_of

_UP_TO_THE_RUN = 3  # from checkpoints/<step>/pretrained_model


def run_settings(checkpoint: Path | str) -> dict[str, Any]:
    """Settings of the run that trained a policy. Raises UserError or IndexError where there are none."""
    folder = find_checkpoint(checkpoint).resolve()
    settings: Any = OmegaConf.to_container(read_config(folder.parents[_UP_TO_THE_RUN - 1] / CONFIG))
    return settings


def trained_env(checkpoint: Path | str, name: str) -> EnvConfig | None:
    """Configuration of the simulator `name` in which a policy's demonstrations were collected; None if not known."""
    try:
        settings = run_settings(checkpoint)
        section, dataset = settings["env"], settings.get("dataset") or {}
        if dataset.get("repo_id"):
            return None
        if root := dataset.get("root"):
            collection = read_json_object(Path(root) / PROVENANCE)
            section = collection["spec"] | {"tasks": list(collection["tasks"])}
        if section["name"] != name:
            return None
        known = {field.name for field in fields(spec_of(name).config)}
        return decode_env({key: value for key, value in section.items() if key in known})
    except (UserError, OSError, ValueError, LookupError, AttributeError, TypeError):
        return None


def describe_differences(trained: EnvConfig | None, env_cfg: EnvConfig) -> str | None:
    """Line with the settings in which the scenes of training differ from those of `env_cfg`; None without a difference.

    Cameras, sizes and tasks are left out: a policy is checked against the first two, and may be tried in other tasks.
    """
    if trained is None:
        return None
    names = ["render", *(field.name for field in trained.own_fields())]
    different = {name: getattr(trained, name) for name in names if getattr(trained, name) != getattr(env_cfg, name)}
    changes = " ".join(f"env.{argument}" for argument in as_arguments(different))
    return (
        f"the policy was trained in other scenes; add {changes} for those that it was trained in" if changes else None
    )
