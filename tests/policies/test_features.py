"""Features of a frozen vision tower, cached: the same training, read from disk."""

import shutil

import pytest
import torch
from released import save_llava_pythia
from safetensors.torch import load_file
from test_training_loop import assert_same, curve
from test_training_loop import run as train_run
from tiny import run_config

from configs.composing import as_dict
from policies.data import features
from policies.training import check_settings, decode_run
from tinyvla.backbones.llava_pythia import LlavaPythiaConfig
from tinyvla.errors import UserError

PLAIN = [f"trainer.augment.{name}=0" for name in ("shift", "brightness", "contrast", "saturation")]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    save_llava_pythia(folder)
    return folder


@pytest.fixture
def root(dataset_root, tmp_path):
    """A dataset of its own, with nothing cached beside it."""
    return shutil.copytree(dataset_root, tmp_path / "data" / "tiny")


@pytest.fixture
def train(monkeypatch, pretrained, root, tmp_path):
    """Train a policy with a small released backbone for six steps; the run's curve and weights."""

    def run(name, *settings, **backbone):
        options = {"type": "llava_pythia", "pretrained": str(pretrained), "lora": {"r": 4}, "freeze_vision": True}

        def with_backbone(*arguments):
            cfg = run_config(*arguments)
            cfg.policy.backbone = options | backbone
            return cfg

        monkeypatch.setattr("test_training_loop.run_config", with_backbone)
        every = ["trainer.steps=6", "trainer.save_every=0", *PLAIN, *settings]
        folder = train_run(tmp_path / name, root, *every, validate=None)
        return curve(tmp_path / name), load_file(folder / "model.safetensors")

    return run


def test_training_on_cached_features_is_the_same(train, root, monkeypatch):
    plain, weights = train("plain")
    cached, cached_weights = train("cached", cache_features=True)
    assert_same(cached, plain)
    assert_same(cached_weights, weights)
    (folder,) = (root.parent / "features" / root.name).glob("[!.]*")
    assert sorted(path.name for path in folder.iterdir()) == [
        "observation.images.left",
        "observation.images.right",
        "shape.json",
    ]
    assert not any("vision_tower" in name and "lora" in name for name in weights)

    monkeypatch.setattr(features, "_compute", lambda *_: pytest.fail("computed again"))
    assert_same(train("again", cache_features=True)[0], plain)
    monkeypatch.undo()
    # Other precision, other features.
    train("bf16", "trainer.bf16=true", cache_features=True)
    assert len(list((root.parent / "features" / root.name).glob("[!.]*"))) == 2


def test_a_disk_without_room_for_features_is_one_line_and_leaves_nothing(train, root, monkeypatch):
    train("frames", cache_features=False)
    usage = shutil.disk_usage(root)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"features need .* GB but .* GB free; free some space, lower"):
        train("full", cache_features=True)
    assert list((root.parent / "features" / root.name).glob("[!.]*")) == []


def test_features_do_not_go_with_a_tower_that_learns_or_images_that_vary(pretrained):
    with pytest.raises(ValueError, match=r"set backbone.freeze_vision=true as well"):
        LlavaPythiaConfig(cache_features=True)
    chosen = ["backbone=llava_pythia", f"backbone.pretrained={pretrained}", "backbone.cache_features=true"]
    chosen += ["decoder.network.widths=[16,32]"]

    def check(*settings):
        cfg = run_config("tinyvla", *chosen, *settings)
        cfg.policy.backbone = cfg.backbone
        check_settings(decode_run(as_dict(cfg)))

    with pytest.raises(UserError, match=r"set backbone.freeze_vision=true as well"):
        check(*PLAIN)
    frozen = "backbone.freeze_vision=true"
    with pytest.raises(UserError, match=r"cannot be augmented; add trainer.augment.shift=0 trainer.augment.b"):
        check(frozen)
    check(frozen, *PLAIN)


def test_a_frozen_tower_does_not_learn(pretrained):
    backbone = LlavaPythiaConfig(pretrained=str(pretrained), freeze_vision=True).build().train()
    images = torch.rand(2, 2, 3, 56, 56)
    backbone(images, ["open", "close it"]).tokens.sum().backward()
    assert all(parameter.grad is None for parameter in backbone.vision_tower.parameters())
    assert any(parameter.grad is not None for parameter in backbone.language_model.parameters())
    assert all(parameter.grad is not None for parameter in backbone.projector.parameters())


@pytest.mark.parametrize(
    "shapes",
    [
        '{"key": [[3, 2], "float32"]}',
        '{"key": [[4, -3], "float32"]}',
        '{"key": [[-Infinity, 2], "float32"]}',
        '{"key": [[4, 2], "object"]}',
        '{"key": [[4, 2, 1], "float32"]}',
        '{"../key": [[4, 2], "float32"]}',
        "[]",
    ],
)
def test_a_description_that_does_not_fit_is_no_cache(shapes, tmp_path):
    (tmp_path / "key").write_bytes(bytes(4 * 2 * 4))
    file = tmp_path / features.SHAPES
    file.write_text('{"key": [[4, 2], "float32"]}')
    assert features._read_shapes(tmp_path, 4, {"key": 2}) == {"key": ([4, 2], "float32")}
    file.write_text(shapes)
    assert features._read_shapes(tmp_path, 4, {"key": 2}) is None
