"""Settings of a policy's training run: decoded once from the configuration, and checked."""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from lerobot.configs import PreTrainedConfig

from tinyvla.decoding import decode_section
from tinyvla.errors import UserError
from tinyvla.files import finished_checkpoints
from tinyvla.training import TrainerConfig
from tinyvla.training.run_folder import CONFIG

from ..data import DatasetConfig, open_all, select
from ..data.dataset_check import check_dataset
from ..factory import check_policy, decode_policy_config
from ..tinyvla import TinyVLAConfig
from ..tinyvla.configuration_tinyvla import add_earlier_defaults
from .initial_weights import check_initial_weights


@dataclass
class RunSettings:
    """Settings of a policy's training run.

    Args:
        policy: the policy's options.
        trainer: of the training loop.
        dataset: the dataset to train from; none is given where demonstrations are collected.
        run_dir: folder of the run.
        data_dir: folder of the datasets.
        seed: of every random draw.
        command: the command line of the run, for its model card.
        init_from: run folder or checkpoint whose weights, where they fit, a new run begins with.
        held_out: numbers of the dataset's episodes that the policy is not trained on; its error on them selects the
            best checkpoint.
    """

    policy: PreTrainedConfig
    trainer: TrainerConfig
    dataset: DatasetConfig
    run_dir: Path
    data_dir: Path
    seed: int
    command: str | None = None
    init_from: Path | None = None
    held_out: list[int] = field(default_factory=list)


def decode_run(values: Mapping[str, Any]) -> RunSettings:
    """Typed settings of a run from its composed configuration, as plain dicts and lists.

    Fields that are absent, as in the configuration of an older run, have their defaults. If the run's folder exists
    already, fields that are no longer known are left out.

    Raises UserError for an unknown policy or field, or a value of another type.
    """
    policy, run_dir = copy.deepcopy(values["policy"]), Path(values["run_dir"])
    resumed = (run_dir / CONFIG).exists()
    if resumed and policy.get("type") == "tinyvla":
        add_earlier_defaults(policy)
    if values.get("frontend") and policy.get("type") != "tinyvla":
        raise UserError(f"only policy=tinyvla takes front-ends, not {policy.get('type')}; leave out frontend")

    def section[T](cls: type[T], name: str) -> T:
        content = values.get(name) or {}
        known = {option.name for option in fields(cls)}  # type: ignore[arg-type]
        return decode_section(cls, {k: v for k, v in content.items() if k in known} if resumed else content, name)

    return RunSettings(
        policy=decode_policy_config(policy, device="cpu"),
        trainer=section(TrainerConfig, "trainer"),
        dataset=section(DatasetConfig, "dataset"),
        run_dir=run_dir,
        data_dir=Path(values["data_dir"]),
        seed=values["seed"],
        command=values.get("command"),
        init_from=None if values.get("init_from") is None else Path(values["init_from"]),
    )


def check_settings(settings: RunSettings) -> None:
    """Raise UserError for faults of a run's settings, as far as they show without data."""
    policy, trainer, dataset = settings.policy, settings.trainer, settings.dataset
    check_policy(policy, trainer.steps)
    if trainer.streaming and not dataset.is_given:
        raise UserError("trainer.streaming=true needs a dataset; add dataset.repo_id=user/name or dataset.root=...")
    if trainer.streaming and dataset.calibration:
        raise UserError(
            "dataset.calibration converts a dataset that is read whole, and trainer.streaming=true reads parts of it; "
            "leave out one of them"
        )
    if dataset.is_given:
        _check_dataset(dataset, trainer.streaming)
    if settings.init_from and not finished_checkpoints(settings.run_dir):  # a resumed run has its own weights
        check_initial_weights(settings.init_from, policy)
    if isinstance(policy, TinyVLAConfig) and policy.backbone.cache_features:
        _check_cached_features(policy, trainer)


def _check_dataset(dataset: DatasetConfig, streaming: bool) -> None:
    """Raise UserError if there is no such dataset, or not what is chosen of it."""
    if dataset.is_selection and streaming:
        raise UserError(
            "trainer.streaming=true reads one dataset as it is; leave it out, or leave out dataset.cameras, rename, "
            "episodes, exclude_episodes and tasks, and name one dataset"
        )
    metas = open_all(dataset)
    if dataset.is_selection:
        select(dataset, metas)
    check_dataset(dataset, dataset.roots)


def _check_cached_features(policy: TinyVLAConfig, trainer: TrainerConfig) -> None:
    if policy.frontend:
        raise UserError(
            "backbone.cache_features=true does not go with front-ends, whose images have no cached features; "
            "leave out one of them"
        )
    augmented = [f"trainer.augment.{name}=0" for name, strength in asdict(trainer.augment).items() if strength]
    augmented += ["policy.crop_ratio=1"] if policy.crop_ratio != 1 else []
    augmented += ["policy.random_rotation=0"] if policy.random_rotation else []
    if augmented:
        raise UserError(
            "backbone.cache_features=true computes the features of the images once, so they cannot be augmented; "
            f"add {' '.join(augmented)}, or leave out backbone.cache_features"
        )
    if trainer.streaming:
        raise UserError(
            "backbone.cache_features=true keeps features on the disk and trainer.streaming=true is for data larger "
            "than the disk; leave out one of them"
        )
