"""The folder of a run, with its configuration: made once, and resumed by `resume=true`."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..errors import UserError
from ..files import write_whole

CONFIG = "config.yaml"
_OF_THE_COMMAND = {"command", "resume", "run_dir", "launcher"}  # may differ when a run is resumed


def find_run(cfg: DictConfig, defaults: DictConfig) -> DictConfig:
    """The run's configuration: `cfg` itself, or with `resume` that in the run's folder. Writes nothing.

    Args:
        cfg: the configuration of the command line.
        defaults: that of an empty command line, which shows the settings that the command line changes.

    Raises UserError if a new run would overwrite an earlier one, if there is no run to resume, or if the command line
    changes a setting of the resumed run.
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
    stored_leaves, leaves, default_leaves = (_leaves(OmegaConf.to_container(c)) for c in (stored, cfg, defaults))
    for name, value in leaves.items():
        changed = value != default_leaves.get(name) and value != stored_leaves.get(name)
        if changed and name.split(".")[0] not in _OF_THE_COMMAND:
            raise UserError(
                f"resume=true goes on with the run's own settings, and its {name} is {stored_leaves.get(name)}, "
                f"not {value}; leave {name} out, or start a new run"
            )
    stored.run_dir, stored.launcher = str(run_dir), cfg.launcher  # the folder may have been moved, and the cluster
    return stored


def open_run(cfg: DictConfig) -> DictConfig:
    """Make the folder of a new run, with its configuration in it; returns `cfg`."""
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
