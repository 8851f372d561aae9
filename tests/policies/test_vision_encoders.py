"""Policies that see through an image encoder: made, saved, loaded without what they began with, and exported."""

import shutil

import pytest
import torch
from tiny import SETTINGS

from configs.composing import as_dict, load_config
from policies import (
    check_policy,
    decode_policy_config,
    load_checkpoint,
    make_policy,
    make_processors,
    save_checkpoint_files,
)
from tinyvla.backbones.nano import NanoConfig
from tinyvla.encoders import Classifier
from tinyvla.errors import UserError
from tinyvla.inference.session_model import SessionModel

SMALL = (
    "preset=cpu",
    "backbone=nano",
    "backbone.layers=1",
    "backbone.image_size=32",
    "decoder.inference_steps=2",
    *SETTINGS["tinyvla"],
)


def settings(*more):
    return decode_policy_config(as_dict(load_config("train", ["policy=tinyvla", *SMALL, *more]).policy), "cpu")


def chunk(model):
    generator = torch.Generator().manual_seed(0)
    images, state = torch.rand(1, 2, 3, 32, 32, generator=generator), torch.randn(1, 4, generator=generator)
    with torch.inference_mode():
        return model.sample(images, ["open the drawer"], state, torch.randn(1, 8, 4, generator=generator))


def test_a_policy_needs_nothing_but_its_checkpoint(dataset, tmp_path):
    torch.manual_seed(0)
    Classifier("cct_2_3x2", ["cup", "ball"], 32).save(tmp_path / "classifier")
    chosen = settings("backbone.vision=cct_2_3x2", f"backbone.vision_pretrained={tmp_path / 'classifier'}")
    policy = make_policy(chosen, dataset.meta, "cpu").eval()
    save_checkpoint_files(policy, *make_processors(policy, dataset.meta.stats), tmp_path / "policy")
    shutil.rmtree(tmp_path / "classifier")
    loaded = load_checkpoint(tmp_path / "policy", "cpu")[0]
    torch.testing.assert_close(chunk(loaded.model), chunk(policy.model), rtol=0, atol=0)
    with pytest.raises(UserError, match="there is no classifier at"):
        check_policy(chosen)


def test_mistakes_come_up_before_anything_is_made():
    with pytest.raises(UserError, match="no image encoder 'tinyvit_5'; did you mean tinyvit_5m"):
        check_policy(settings("backbone.vision=tinyvit_5"))
    with pytest.raises(UserError, match="could not be loaded"):  # there is no network
        check_policy(settings("backbone.vision=tinyvit_5m", "backbone.vision_pretrained=released"))
    check_policy(settings("backbone.vision=tinyvit_5m"))


def test_a_tower_can_be_traced_before_it_is_run():
    """timm's TinyViT keeps what it computed in evaluation mode, which must not be what a tracer left there."""
    tower = NanoConfig(image_size=32, vision="tinyvit_5m", layers=1).build().vision_tower.eval()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        traced = torch.export.export(tower, (images,)).module()
        torch.testing.assert_close(traced(images), tower(images), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_onnx_computes_the_same_chunk(dataset):
    policy = make_policy(settings("backbone.vision=tinyvit_5m"), dataset.meta, "cpu").eval()
    exported = SessionModel(policy.model, "onnx", cameras=2, image_size=(32, 32), state_dim=4)
    torch.testing.assert_close(chunk(exported), chunk(policy.model), rtol=0, atol=1e-3)
