"""Defaults stand in the dataclasses; YAML files, LeRobot's tools and older runs agree with them."""

import dataclasses
import json

import draccus
import pytest
import torch
from lerobot.configs import PreTrainedConfig
from omegaconf import OmegaConf
from tiny import run_config, tiny_policy

from configs.composing import CONFIG_DIR, as_dict, load_config
from policies import decode_policy_config, load_checkpoint, save_checkpoint_files
from policies.runner import RunnerConfig
from policies.tinyvla import TinyVLAConfig
from policies.training import decode_run
from tinyvla.backbones import BackboneConfig
from tinyvla.decoders import DecoderConfig, DenoiserConfig
from tinyvla.errors import UserError


def test_train_and_lerobot_train_have_the_same_policy():
    ours = decode_policy_config(as_dict(load_config("train", ["preset=cpu"]).policy), "cpu")
    assert ours == TinyVLAConfig(device="cpu")
    assert ours == draccus.decode(PreTrainedConfig, {"type": "tinyvla", "device": "cpu"})
    assert (ours.optimizer_lr, ours.decoder.prediction_type, ours.decoder.network.widths) == (1e-3, "sample", [64, 128])


def test_yaml_has_the_defaults_of_a_run():
    settings = decode_run(as_dict(load_config("train", ["preset=cpu"])))
    defaults = {name: as_dict(OmegaConf.load(CONFIG_DIR / "train.yaml")[name]) for name in ("dataset",)}
    defaults["trainer"] = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "trainer/default.yaml"))
    for name, values in defaults.items():
        expected = dataclasses.asdict(type(getattr(settings, name))())
        if name == "trainer":  # these two are the policy's
            expected |= {"lr": "${policy.optimizer_lr}", "weight_decay": "${policy.optimizer_weight_decay}"}
        if name == "dataset":  # runs from before these settings go on as they began
            expected |= {"held_out": None, "image_size": "auto"}
        assert values == expected
    assert settings.trainer.lr == type(settings.trainer)().lr
    runner = as_dict(OmegaConf.load(CONFIG_DIR / "evaluate.yaml").runner)
    assert runner == dataclasses.asdict(RunnerConfig()) | {"latency_steps": 3}  # of a simulator; None on a robot


@pytest.mark.parametrize(
    ("family", "choices", "group"),
    [
        (BackboneConfig, {"nano", "film", "llava_pythia", "smolvlm"}, "backbone"),
        (DecoderConfig, {"diffusion", "flow"}, "decoder"),
        (DenoiserConfig, {"unet": "unet_small", "dit": "dit"}, "decoder/network"),
    ],
)
def test_yaml_has_the_defaults_of_backbones_and_decoders(family, choices, group):
    assert set(family.registry.names()) == set(choices)
    for choice in choices:
        values = OmegaConf.load(CONFIG_DIR / group / f"{choices[choice] if isinstance(choices, dict) else choice}.yaml")
        fields = {name: value for name, value in as_dict(values).items() if name not in ("type", "defaults")}
        defaults = draccus.encode(family.get_choice_class(choice)())
        assert fields == {name: defaults[name] for name in fields}
        assert set(defaults) - set(fields) <= {"type", "network", "assets", "cameras", "max_words"}


def test_a_checkpoint_stores_every_option_so_that_a_new_default_changes_none(dataset, tmp_path):
    policy, *pipelines = tiny_policy(dataset)
    save_checkpoint_files(policy, *pipelines, tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    for config, section in (
        (policy.config, stored),
        (policy.config.backbone, stored["backbone"]),
        (policy.config.decoder, stored["decoder"]),
        (policy.config.decoder.network, stored["decoder"]["network"]),
    ):
        assert {field.name for field in dataclasses.fields(config)} == set(section) - {"type"}
    stored["optimizer_lr"], stored["decoder"]["prediction_type"] = 3e-4, "epsilon"  # the defaults until version 0.1
    (tmp_path / "config.json").write_text(json.dumps(stored))
    config = load_checkpoint(tmp_path, "cpu")[0].config
    assert (config.optimizer_lr, config.decoder.prediction_type) == (3e-4, "epsilon")


def test_the_configuration_of_an_older_run_is_decoded(tmp_path):
    cfg = as_dict(run_config("tinyvla", f"run_dir={tmp_path}"))
    del cfg["trainer"]["streaming"], cfg["dataset"]
    cfg["trainer"]["retired"] = 1
    with pytest.raises(UserError, match=r"unknown setting 'trainer.retired'"):
        decode_run(cfg)
    (tmp_path / "config.yaml").touch()
    settings = decode_run(cfg)
    assert (settings.trainer.streaming, settings.dataset.shuffle_buffer) == (False, 1000)


def test_an_installed_package_adds_a_backbone(monkeypatch):
    """By an entry point alone: nothing of this repository names it."""
    from importlib.metadata import EntryPoint

    from tinyvla import registry

    entry = EntryPoint("toy", "tiny:TinyConfig", "tinyvla.backbones")
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry] if group == entry.group else [])
    monkeypatch.setattr(BackboneConfig, "_choice_registry", {})
    config = decode_policy_config({"type": "tinyvla", "backbone": {"type": "toy", "width": 16}}, "cpu")
    assert config.backbone.get_choice_name(type(config.backbone)) == "toy"
    assert config.backbone.build()(torch.rand(1, 2, 3, 32, 32), ["open"]).tokens.shape == (1, 4, 16)
    with pytest.raises(UserError, match="unknown backbone 'toyy'; did you mean toy"):
        decode_policy_config({"type": "tinyvla", "backbone": {"type": "toyy"}}, "cpu")
