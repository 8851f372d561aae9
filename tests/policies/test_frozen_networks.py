"""A network that is random and frozen is named before training: exactly where a policy has one."""

import json

import pytest
import torch
from released import save_llava_pythia
from tiny import SETTINGS, run_config

from configs.composing import as_dict, load_config
from policies import decode_policy_config, make_policy, offline_models
from policies.training import decode_run, warn_of_frozen_networks
from policies.training.frozen_networks import frozen_random_network
from tinyvla.backbones.llava_pythia import LlavaPythiaBackbone

# Encoders and language models, by the beginnings of their names in a policy.
NETWORKS = (
    "model.backbone.vision_tower.",
    "model.backbone.language_model.",
    "model.vlm_with_expert.vlm.model.vision_model.",
    "model.vlm_with_expert.vlm.model.text_model.",
    "observation_encoder.vision_encoder.",
    "observation_encoder.text_encoder.text_encoder.",
)


@pytest.fixture(autouse=True)
def _offline_models(tmp_path, monkeypatch):
    monkeypatch.setattr(offline_models, "HOME", tmp_path / "home")


def random_and_frozen(make):
    """Networks of a policy of which nothing but LoRA is trained, and whose weights depend on the seed."""
    first, second = make(0), make(1)
    networks = set()
    for network in NETWORKS:
        names = [name for name, _ in first.named_parameters() if name.startswith(network) and "lora_" not in name]
        ours, theirs = (dict(policy.named_parameters()) for policy in (first, second))
        is_frozen = bool(names) and not any(ours[name].requires_grad for name in names)
        if is_frozen and any(not torch.equal(ours[name], theirs[name]) for name in names):
            networks.add(network)
    return networks


def check(config, dataset):
    def make(seed):
        torch.manual_seed(seed)
        return make_policy(config, dataset.meta)

    warning, networks = frozen_random_network(config), random_and_frozen(make)
    assert bool(warning) == bool(networks), (warning, networks)
    assert warning is None or "\n" not in warning
    return warning


@pytest.mark.parametrize("name", SETTINGS)
def test_every_policy_of_the_cpu_preset(name, dataset):
    warning = check(config_of(name), dataset)
    assert (warning is not None) == (name == "multi_task_dit")


def config_of(name, *settings):
    return decode_policy_config(as_dict(run_config(name, *settings).policy), "cpu")


@pytest.mark.parametrize(
    ("settings", "network"),
    [
        (["policy.train_expert_only=true", "policy.freeze_vision_encoder=true"], "the vision-language model"),
        (["policy.freeze_vision_encoder=true"], "the vision encoder"),
        (["policy.freeze_vision_encoder=true", "policy.load_vlm_weights=true"], "the vision encoder"),  # of no weights
    ],
)
def test_smolvla_around_a_random_model(settings, network, dataset):
    warning = check(config_of("smolvla", *settings), dataset)
    assert warning.startswith(f"{network} of policy=smolvla is random and frozen")
    assert "policy.train_expert_only=false policy.freeze_vision_encoder=false" in warning


@pytest.mark.parametrize(
    ("options", "network"),
    [
        ({"pretrained": True}, None),
        ({"pretrained": True, "freeze_vision": True}, None),
        ({}, "the vision tower and the language model"),
        ({"freeze_vision": True, "lora": {"r": 0}}, "the vision tower"),
        ({"lora": {"r": 0}}, None),
    ],
)
def test_backbones_with_and_without_weights(options, network, dataset, tmp_path, monkeypatch):
    save_llava_pythia(tmp_path / "hub")
    architecture = json.loads((tmp_path / "hub/config.json").read_text())
    monkeypatch.setattr(LlavaPythiaBackbone, "released_architecture", staticmethod(lambda size: architecture))
    pretrained = str(tmp_path / "hub") if options.get("pretrained") else None
    section = {"type": "llava_pythia", "image_size": 28} | options | {"pretrained": pretrained}
    config = decode_policy_config(as_dict(run_config("tinyvla").policy) | {"backbone": section}, "cpu")
    warning = check(config, dataset)
    assert (warning or "").startswith(f"{network} of the backbone" if network else "")
    assert (warning is None) == (network is None)


def test_the_published_settings_begin_with_published_weights():
    """No preset with a model of the hub freezes a random one."""
    for policy in ("smolvla", "multi_task_dit"):
        cfg = load_config("train", [f"policy={policy}", "preset=gpu"])
        assert frozen_random_network(decode_policy_config(as_dict(cfg.policy), "cpu")) is None
    for preset in ("paper_s", "paper_b", "paper_h"):
        cfg = load_config("train", [f"preset={preset}"])
        assert frozen_random_network(decode_policy_config(as_dict(cfg.policy), "cpu")) is None
    default = decode_policy_config(as_dict(load_config("train", ["policy=smolvla"]).policy), "cpu")
    default.load_vlm_weights = False
    default.vlm_model_name, default.train_expert_only = "HuggingFaceTB/SmolVLM2-500M-Video-Instruct", True
    assert "add policy.load_vlm_weights=true" in frozen_random_network(default)


def test_a_run_says_so_unless_its_weights_are_a_checkpoints(tmp_path):
    settings = decode_run(as_dict(run_config("multi_task_dit", f"run_dir={tmp_path / 'run'}")))
    assert "policy.text_encoder_name=openai/clip-vit-base-patch16" in warn_of_frozen_networks(settings)
    settings.init_from = tmp_path
    assert warn_of_frozen_networks(settings) is None
    settings.init_from = None
    (tmp_path / "run/checkpoints/000010").mkdir(parents=True)
    assert warn_of_frozen_networks(settings) is None
