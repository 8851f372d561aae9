"""A run's folder: made once, and found again by `resume=true`."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..errors import UserError
from ..files import write_whole

CONFIG = "config.yaml"
_OF_THE_COMMAND = {"command", "resume", "run_dir", "launcher"}  # may differ between a run and its resumption


def find_run(cfg: DictConfig, defaults: DictConfig) -> DictConfig:
    """The configuration to run with: `cfg` itself, or with `resume` the one in the run's folder. Writes nothing.

    Args:
        cfg: the configuration that the command line asks for.
        defaults: the one of an empty command line, which tells what was asked for.

    Raises UserError if a fresh run would overwrite one, if there is none to resume, or if one is to be resumed with
    other settings than its own.
    """
    run_dir = Path(cfg.run_dir)
    file = run_dir / CONFIG
    if not cfg.resume:
        if file.exists():
            raise UserError(
                f"{run_dir} already holds a run; add resume=true to go on with it, or choose another run_dir"
            )
        if (run_dir / "checkpoints").exists():  # which training would go on from
            raise UserError(f"{run_dir} holds checkpoints of a run that has lost its {CONFIG}; choose another run_dir")
        return cfg
    if not file.exists():
        raise UserError(f"there is no run in {run_dir} to resume; give the run_dir of one, or leave out resume=true")
    stored = OmegaConf.load(file)
    assert isinstance(stored, DictConfig)
    own, given, usual = (_leaves(OmegaConf.to_container(each)) for each in (stored, cfg, defaults))
    for name, value in given.items():
        if name.split(".")[0] not in _OF_THE_COMMAND and value != usual.get(name) and value != own.get(name):
            raise UserError(
                f"resume=true goes on with the run's own settings, and its {name} is {own.get(name)}, not {value}; "
                f"leave {name} out, or start a new run"
            )
    stored.run_dir, stored.launcher = str(run_dir), cfg.launcher  # the folder may have been moved, and the cluster
    return stored


def open_run(cfg: DictConfig) -> DictConfig:
    """Make the folder of a run that `find_run` has found to be new, with its configuration in it; returns `cfg`."""
    file = Path(cfg.run_dir) / CONFIG
    if not file.exists():
        write_whole(file, OmegaConf.to_yaml(cfg))
    return cfg


def _leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        name: leaf
        for key, child in tree.items()
        for name, leaf in _leaves(child, f"{prefix}.{key}" if prefix else str(key)).items()
    }
