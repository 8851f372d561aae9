"""Composition of the YAML files of this folder and of installed packages, and their typed form."""

import os
import shlex
from collections.abc import Iterable
from contextlib import nullcontext
from glob import glob
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from tinyvla.decoding import decode_section
from tinyvla.errors import UserError, one_line

CONFIG_DIR = Path(__file__).resolve().parent
PLUGIN_GROUP = "tinyvla.configs"  # of entry points: packages whose folders hold YAML groups


def default_preset() -> str:
    """`gpu` where a CUDA or ROCm device is visible, else `cpu`. Importing torch to ask it takes seconds."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1")
    return "gpu" if not hidden and (glob("/dev/nvidia[0-9]*") or glob("/dev/kfd")) else "cpu"


OmegaConf.register_new_resolver("default_preset", default_preset, replace=True)
OmegaConf.register_new_resolver("if_any", lambda yes, no, *values: yes if any(values) else no, replace=True)
OmegaConf.register_new_resolver("share", lambda share, whole: round(share * whole), replace=True)


def config_folders() -> list[Path]:
    """Folders with YAML groups: this one, then one per installed package that adds groups or choices.

    A package names its folder, which is a Python package with an `__init__.py`, by an entry point:

        [project.entry-points."tinyvla.configs"]
        my_package = "my_package.configs"

    Raises UserError for an entry point whose folder cannot be imported.
    """
    folders = [CONFIG_DIR]
    for entry in entry_points(group=PLUGIN_GROUP):
        try:
            spec = find_spec(entry.value)
        except ImportError as error:
            raise UserError(
                f"the settings of the package '{entry.name}' cannot be found ({one_line(error)}); "
                "reinstall the package that adds them"
            ) from error
        if spec is None or not spec.submodule_search_locations:
            raise UserError(
                f"the settings of the package '{entry.name}' are not in a folder '{entry.value}'; "
                f"let its entry point in the group {PLUGIN_GROUP} name a package of YAML files"
            )
        folders.append(Path(next(iter(spec.submodule_search_locations))))
    return folders


def named_settings(cfg: DictConfig) -> set[str]:
    """Names of the settings in the command line of a composed configuration, such as `safety.rate_hz`."""
    words = shlex.split(str(cfg.get("command") or ""))
    return {word.partition("=")[0].lstrip("+~") for word in words if "=" in word}


class InstalledConfigs(SearchPathPlugin):
    """Hydra plug-in that appends the folders of installed packages to the search path; files of this folder win."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in config_folders()[1:]:
            search_path.append(PLUGIN_GROUP, f"file://{folder}")


Plugins.instance().register(InstalledConfigs)


def groups() -> dict[str, list[str]]:
    """Choices of every group (`policy`, `decoder/network` ...), of this folder and of installed packages.

    A choice of the group `task` may hold a folder (`perception/wake`), which is not a group.
    """
    choices: dict[str, list[str]] = {}
    for folder in config_folders():
        for path in sorted(folder.rglob("*/*.yaml")):
            group, choice = path.parent.relative_to(folder).as_posix(), path.stem
            if group.startswith("task/"):
                group, choice = "task", f"{group.removeprefix('task/')}/{choice}"
            if not group.startswith("hydra") and choice not in choices.setdefault(group, []):
                choices[group].append(choice)
    return choices


def compose_config(config_name: str, overrides: Iterable[str] = ()) -> DictConfig:
    """Configuration of an entry point (`train`, `collect`, `evaluate`), with interpolations not yet resolved."""
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
    """Configuration that an entry point receives for these overrides, for tests and benchmarks."""
    cfg = compose_config(config_name, overrides)
    OmegaConf.resolve(cfg)
    return cfg
