"""Settings of a run that do not go together."""

from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from tinyvla.errors import UserError

from ..data import open_metadata
from ..factory import check_policy


def check_settings(cfg: DictConfig) -> None:
    """Raise UserError for what is wrong with a run's settings, as far as that shows without data."""
    if cfg.frontend and cfg.policy.type != "tinyvla":
        raise UserError(f"only policy=tinyvla takes front-ends, not {cfg.policy.type}; leave out frontend")
    check_policy(cast(dict[str, Any], OmegaConf.to_container(cfg.policy, resolve=True)), cfg.trainer.steps)
    streaming, given = cfg.trainer.streaming, cfg.dataset.repo_id or cfg.dataset.root
    if streaming and not given:
        raise UserError("trainer.streaming=true needs a dataset; add dataset.repo_id=user/name or dataset.root=...")
    if given:
        open_metadata(cfg.dataset.repo_id, cfg.dataset.root)
    if OmegaConf.select(cfg, "policy.backbone.cache_features"):
        if OmegaConf.select(cfg, "policy.frontend"):
            raise UserError(
                "backbone.cache_features=true does not go with front-ends, whose pictures it has no features of; "
                "leave out one of them"
            )
        if augmented := [f"trainer.augment.{name}=0" for name, strength in cfg.trainer.augment.items() if strength]:
            raise UserError(
                "backbone.cache_features=true computes the pictures' features once, so they cannot be augmented; "
                f"add {' '.join(augmented)}, or leave out backbone.cache_features"
            )
        if streaming:
            raise UserError(
                "backbone.cache_features=true keeps features on disk and trainer.streaming=true is for what does not "
                "fit there; leave out one of them"
            )
