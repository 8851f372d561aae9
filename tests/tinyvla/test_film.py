"""The FiLM backbone: its features depend on every camera and on the sentence, and on nothing else."""

import pytest
import torch

from tinyvla.backbones.film import FilmConfig
from tinyvla.decoders import DiffusionConfig
from tinyvla.model import TinyVLA

SIZE = 32


def make_backbone(cameras: int = 2):
    torch.manual_seed(0)
    backbone = FilmConfig(image_size=SIZE, vision_width=16, keypoints=8).for_cameras(cameras).build().eval()
    for name, parameter in backbone.named_parameters():
        if ".film." in name:  # zero at the start, so that the sentence would not reach the maps
            torch.nn.init.normal_(parameter, std=0.5)
    return backbone


@pytest.fixture
def images():
    return torch.rand(2, 2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def encode(backbone, images, *instructions):
    return backbone(images, list(instructions))


def test_features_are_one_token(images):
    backbone = make_backbone()
    tokens, mask = encode(backbone, images, "open", "open the drawer now")
    assert tokens.shape == (2, 1, backbone.hidden_size)
    assert mask.all()


@torch.no_grad()
def test_the_sentence_moves_the_keypoints_and_its_padding_does_not(images):
    backbone = make_backbone()
    tower, image = backbone.towers[0], images[:1, 0]
    texts = [backbone.text(backbone.words(backbone.tokenizer([text])[0]).mean(1)) for text in ("open", "press")]
    assert not torch.allclose(tower(image, texts[0]), tower(image, texts[1]), atol=1e-3)
    alone = encode(backbone, images[:1], "open").tokens[0]
    beside = encode(backbone, images, "open", "press the red button from above").tokens[0]
    torch.testing.assert_close(beside, alone, rtol=1e-4, atol=1e-5)


def test_every_camera_has_a_tower_of_its_own(images):
    backbone = make_backbone()
    reference = encode(backbone, images, "open", "open").tokens
    for camera in range(2):
        changed = images.clone()
        changed[:, camera] = changed[:, camera].flip(-1)
        assert not torch.allclose(encode(backbone, changed, "open", "open").tokens, reference, atol=1e-4)
    assert not torch.allclose(encode(backbone, images.flip(1), "open", "open").tokens, reference, atol=1e-4)
    with pytest.raises(ValueError, match="zip"):
        encode(backbone, images[:, :1], "open", "open")


def test_images_of_another_size_are_resized(images):
    backbone = make_backbone()
    larger = images.repeat_interleave(2, -1).repeat_interleave(2, -2)
    tokens = encode(backbone, larger, "open", "close").tokens
    torch.testing.assert_close(tokens, encode(backbone, images, "open", "close").tokens, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(("name", "value"), [("image_size", 30), ("vision_width", 24), ("cameras", 0)])
def test_options_that_cannot_be_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}|{value}"):
        FilmConfig(**{name: value})


def test_waypoints_teach_the_towers_and_leave_the_state_out(images):
    torch.manual_seed(0)
    config = FilmConfig(image_size=SIZE, vision_width=16, keypoints=8).for_cameras(2)
    model = TinyVLA(config, DiffusionConfig(), state_dim=4, action_dim=4, chunk_size=16, waypoints=2)
    batch = (images, ["open", "close"], torch.randn(2, 4), torch.zeros(2, 16, 4), torch.ones(2, 16, dtype=torch.bool))
    assert model.loss(*batch) == 0  # all actions are padding
    waypoints = torch.randn(2, 2, 4)
    loss = model.loss(*batch, waypoints=waypoints, waypoint_weight=0.5)
    predicted = model.waypoint_head(model.backbone(images, ["open", "close"]).mean())
    torch.testing.assert_close(loss, 0.5 * (predicted - waypoints.flatten(1)).square().mean())
    loss.backward()
    assert all(tower.stem.blocks[0].convolution.weight.grad.abs().sum() > 0 for tower in model.backbone.towers)
    assert model.decoder.condition.combine.weight.grad is None or not model.decoder.condition.combine.weight.grad.any()
