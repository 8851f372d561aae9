"""The folder of a run, with its configuration: made once, and resumed by `resume=true`."""

import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import yaml
from accelerate import Accelerator
from omegaconf import DictConfig, OmegaConf

from ..errors import UserError, one_line
from ..files import alone_in, write_whole
from ..untrusted import check_regular, inside

CONFIG = "config.yaml"
_OF_THE_START = (CONFIG, "dataset.json", "metrics.jsonl", "wandb_id.txt")  # files written before the first step
_ALWAYS_STORED = {"policy", "trainer", "env", "seed", "data_dir", "task"}
MAX_CONFIG_BYTES = 1 << 20
_OF_THE_COMMAND = {"command", "resume", "run_dir", "launcher"}  # may differ when a run is resumed
# Settings that belong to the machine and may change when a run is resumed. The curve stays the same; another number of
# threads, another device or another precision may change its last digits.
OF_THE_MACHINE = {
    *("device", "workers", "data_dir", "trainer.num_threads", "trainer.processes", "trainer.bf16", "trainer.compile"),
    *("eval.workers", "task.workers", "wandb.mode", "wandb.entity", "dataset.accept_changed"),
}


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
    check_run_files(run_dir)
    stored = read_config(file)
    if missing := [key for key in map(str, defaults) if key in _ALWAYS_STORED and key not in stored]:
        raise UserError(f"{file} has lost its {missing[0]}; restore the file, or start a new run in another run_dir")
    sections = [str(key) for key in defaults if OmegaConf.is_dict(defaults[key]) and key in stored]
    if unsuitable := [section for section in sections if not OmegaConf.is_dict(stored[section])]:
        raise UserError(
            f"{file} has no settings in {unsuitable[0]}; restore the file, or start a new run in another run_dir"
        )
    stored = cast(
        DictConfig, OmegaConf.merge({key: defaults[key] for key in map(str, defaults) if key not in stored}, stored)
    )
    stored_leaves, leaves, default_leaves = (_leaves(OmegaConf.to_container(c)) for c in (stored, cfg, defaults))
    named = {word.partition("=")[0].lstrip("+") for word in shlex.split(str(cfg.get("command") or ""))}
    for name, value in leaves.items():
        is_set = name in named or value != default_leaves.get(name)
        changed = is_set and value != stored_leaves.get(name)
        if changed and name in OF_THE_MACHINE:
            OmegaConf.update(stored, name, value)
        elif changed and name.split(".")[0] not in _OF_THE_COMMAND:
            raise UserError(
                f"resume=true goes on with the run's own settings, and its {name} is {stored_leaves.get(name)}, "
                f"not {value}; leave {name} out, or start a new run"
            )
    stored.run_dir, stored.launcher = str(run_dir), cfg.launcher  # the folder may have been moved, and the cluster
    return stored


def check_run_files(run_dir: Path) -> None:
    """Raise UserError if a link leads out of a run: its files would be read, written or deleted there."""
    inner = (path for name in ("checkpoints", "videos") for path in (run_dir / name).rglob("*"))
    for path in (*run_dir.iterdir(), *inner):  # not wandb's
        if path.is_symlink():
            inside(run_dir, str(path.relative_to(run_dir)))


def open_run(cfg: DictConfig) -> DictConfig:
    """Make the folder of a new run, with its configuration in it; returns `cfg`."""
    file = Path(cfg.run_dir) / CONFIG
    if not file.exists():
        write_whole(file, OmegaConf.to_yaml(cfg))
    return cfg


def read_config(file: Path) -> DictConfig:
    """Stored configuration of a run, as data: plain YAML, of which nothing is resolved, imported or called.

    Raises UserError if it is damaged, or holds more than plain values.
    """
    check_regular(inside(file.parent, file.name), MAX_CONFIG_BYTES)
    fix = "restore the file, or start a new run in another run_dir"
    try:
        content = yaml.load(file.read_text(), Loader=_PlainLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{file} is damaged ({type(error).__name__}: {one_line(error, 120)}); {fix}") from error
    if not isinstance(content, dict) or not content:
        raise UserError(f"{file} holds no settings; {fix}")
    if isinstance(command := content.get("command"), str):
        content["command"] = command.replace("${", r"\${")  # as the user wrote it, never resolved
    for name, value in _leaves({key: value for key, value in content.items() if key != "command"}).items():
        if "${" in str(value):
            raise UserError(f"{file} refers to another setting in {name}, which a stored run never does; {fix}")
        if "_target_" in name:
            raise UserError(f"{file} names something to call in {name}, which a stored run never does; {fix}")
    return OmegaConf.create(content)


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases, which could make a small file fill the memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)


@contextmanager
def alone_in_run(accelerator: Accelerator, run_dir: Path) -> Iterator[None]:
    """Lock a run's folder for one training, whose first process holds the lock. A killed one leaves it free.

    A new run that fails with a UserError before it has computed anything leaves nothing in the folder.

    Raises UserError if another process is at work there.
    """
    is_new = not (run_dir / CONFIG).exists()
    with alone_in(run_dir, wait=False) if accelerator.is_main_process else nullcontext():
        try:
            yield
        except UserError:
            if is_new and accelerator.is_main_process and not _has_results(run_dir):
                for name in _OF_THE_START:
                    (run_dir / name).unlink(missing_ok=True)
                shutil.rmtree(run_dir / "wandb", ignore_errors=True)
            raise


def _has_results(run_dir: Path) -> bool:
    """True if a run has recorded metrics, written checkpoints or saved the batch that it failed at."""
    files = (run_dir / name for name in ("metrics.jsonl", "bad_batch.pt"))
    return (run_dir / "checkpoints").exists() or any(file.exists() and file.stat().st_size for file in files)


def _leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        name: leaf
        for key, child in tree.items()
        for name, leaf in _leaves(child, f"{prefix}.{key}" if prefix else str(key)).items()
    }
