"""Finding and composing the YAML files of this folder."""

import os
from collections.abc import Iterable
from contextlib import nullcontext
from glob import glob
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from tinyvla.decoding import decode_section

CONFIG_DIR = Path(__file__).resolve().parent


def default_preset() -> str:
    """`gpu` where a CUDA or ROCm device is visible, else `cpu`. Asking torch would cost seconds."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1")
    return "gpu" if not hidden and (glob("/dev/nvidia[0-9]*") or glob("/dev/kfd")) else "cpu"


OmegaConf.register_new_resolver("default_preset", default_preset, replace=True)
OmegaConf.register_new_resolver("share", lambda share, whole: round(share * whole), replace=True)


def groups() -> dict[str, list[str]]:
    """Every group of this folder (`policy`, `decoder/network` ...) with its choices.

    What `task` may be has a folder in its name (`perception/wake`), which is no group of its own.
    """
    found: dict[str, list[str]] = {}
    for path in sorted(CONFIG_DIR.rglob("*/*.yaml")):
        group, choice = path.parent.relative_to(CONFIG_DIR).as_posix(), path.stem
        if group.startswith("task/"):
            group, choice = "task", f"{group.removeprefix('task/')}/{choice}"
        if not group.startswith("hydra"):
            found.setdefault(group, []).append(choice)
    return found


def compose_config(config_name: str, overrides: Iterable[str] = ()) -> DictConfig:
    """The configuration of an entry point (`train`, `collect`, `evaluate`), its interpolations not yet resolved."""
    inside_a_job = GlobalHydra.instance().is_initialized()
    with nullcontext() if inside_a_job else initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose(config_name, overrides=list(overrides))


def as_dict(cfg: Any) -> dict[str, Any]:
    """A section of a configuration as plain dicts and lists."""
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))


def decode[T](cls: type[T], section: Any, name: str | None = None) -> T:
    """Typed settings: a section of a configuration as an instance of the dataclass `cls`.

    Args:
        cls: the dataclass that holds the defaults of what the section leaves out.
        section: a section of a composed configuration, or a mapping; None stands for an empty one.
        name: dotted name of the section for messages; default: the section's place in its configuration.

    Raises UserError for an unknown field (naming the nearest), a missing one, or a value of another type.
    """
    if name is None:
        name = str(section._get_full_key(None) or "") if isinstance(section, DictConfig) else ""
    values = as_dict(section) if isinstance(section, DictConfig) else section
    return decode_section(cls, values, name)


def load_config(config_name: str, overrides: Iterable[str] = ()) -> DictConfig:
    """The configuration that an entry point gets for these overrides, for tests and benchmarks."""
    cfg = compose_config(config_name, overrides)
    OmegaConf.resolve(cfg)
    return cfg
