"""Typed settings: sections of a configuration decoded into dataclasses."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from omegaconf import OmegaConf

from configs.composing import decode
from tinyvla.errors import UserError


@dataclass(frozen=True)
class Noise:
    share: float = 0.75
    std: float = 0.8


@dataclass(frozen=True)
class Settings:
    tasks: list[str]
    steps: int = 100
    workers: int | str = "auto"
    folder: Path | None = None
    render: Literal["fast", "faithful"] = "fast"
    noise: Noise = field(default_factory=Noise)
    optional: Noise | None = None
    betas: tuple[float, float] = (0.9, 0.98)
    sizes: dict[str, int] = field(default_factory=dict)
    rest: Any = None

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps is {self.steps}; use 0 or more")


def decoded(**values):
    cfg = OmegaConf.create({"env": {"tasks": ["reach"]} | values})
    return decode(Settings, cfg.env)


def test_defaults_stand_in_the_dataclass():
    assert decoded() == Settings(["reach"])
    assert decode(Noise, None) == Noise()
    assert decode(Noise, {"std": 1}, "env.noise") == Noise(std=1.0)


def test_values_have_the_declared_types():
    settings = decoded(
        steps=1e4,
        workers=2,
        folder="data",
        noise={"share": 0},
        optional={"std": 2},
        betas=[0, 1],
        sizes={"a": 1},
        rest=[1, "x"],
    )
    assert settings.steps == 10000
    assert isinstance(settings.steps, int)
    assert settings.folder == Path("data")
    assert settings.noise == Noise(share=0.0)
    assert settings.optional == Noise(std=2.0)
    assert settings.betas == (0.0, 1.0)
    assert settings.rest == [1, "x"]
    assert settings.workers == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stepz": 3}, r"unknown setting 'env.stepz'; did you mean env.steps\?"),
        ({"noise": {"shar": 3}}, r"unknown setting 'env.noise.shar'; did you mean env.noise.share\?"),
        ({"steps": "many"}, "env.steps=many is not a whole number"),
        ({"steps": 1.5}, "env.steps=1.5 is not a whole number"),
        ({"steps": True}, "env.steps=true is not a whole number"),
        ({"steps": None}, "env.steps=null is not a whole number"),
        ({"workers": [1]}, "is not a whole number or text"),
        ({"render": "slow"}, "env.render=slow is not one of fast, faithful"),
        ({"tasks": "reach"}, r"env.tasks=reach is not a list; write 'env.tasks=\[reach\]'"),
        ({"betas": [1]}, "env.betas has 1 values; give 2"),
        ({"noise": 3}, "env.noise is a section, not a value; set env.noise.share"),
        ({"steps": -1}, "steps is -1; use 0 or more"),
    ],
)
def test_a_mistake_names_the_setting(values, message):
    with pytest.raises(UserError, match=message):
        decoded(**values)


def test_a_missing_value_is_named():
    with pytest.raises(UserError, match=r"env.tasks is not given; add env.tasks="):
        decode(Settings, {}, "env")


def test_a_backbone_is_chosen_by_its_type():
    from tinyvla.backbones import BackboneConfig
    from tinyvla.backbones.nano import NanoConfig

    assert decode(BackboneConfig, {"type": "nano", "layers": 1}, "backbone") == NanoConfig(layers=1)
    with pytest.raises(UserError, match=r"backbone.type has no choice 'nanno'; did you mean nano\?"):
        decode(BackboneConfig, {"type": "nanno"}, "backbone")
