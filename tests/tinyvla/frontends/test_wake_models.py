"""Networks of the person detector: sizes, patch-based inference, saving and loading."""

import numpy as np
import pytest
import torch
from torch import nn

from tinyvla.errors import UserError
from tinyvla.frontends import load_frontend
from tinyvla.frontends.wake import Wake
from tinyvla.frontends.wake.frontend import predict
from tinyvla.frontends.wake.model import McuNet, make_network, prepare
from tinyvla.frontends.wake.patches import classify_in_patches, cost, parameters, run_in_patches


def lively(network):
    """In evaluation mode, with statistics in its batch norms that make a difference."""
    torch.manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.3)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
            nn.init.normal_(layer.bias, std=0.3)
    return network.eval()


def test_parameters():
    assert parameters(McuNet()) < 500_000
    assert parameters(make_network("mobilenet_v2")) == 3_504_872 - 1000 * 1281 + 1281  # torchvision's, with one class
    assert parameters(make_network("mobilenet_v2", 0.1)) < parameters(make_network("mobilenet_v2", 0.35)) < 500_000


@pytest.mark.parametrize("network", ["mcunet", "mobilenet_v2"])
@pytest.mark.parametrize(("size", "patches"), [((96, 96), 3), ((50, 70), 4)])
def test_patches_give_what_the_whole_image_gives(network, size, patches):
    blocks = list(lively(make_network(network, 0.35)).double().features)[:5]
    images = torch.rand(2, 3, *size, dtype=torch.float64) * 2 - 1
    with torch.inference_mode():
        whole, patched = nn.Sequential(*blocks)(images), run_in_patches(blocks, images, patches)
    assert whole.abs().max() > 0.1
    assert torch.equal(whole, patched) or (whole - patched).abs().max() < 1e-13


def test_patches_give_the_same_logits():
    network = lively(make_network("mcunet"))
    images = prepare(torch.randint(256, (1, 3, 120, 160), dtype=torch.uint8), 96)
    with torch.inference_mode():
        patched = classify_in_patches(network, images, 3, McuNet.patched)
        torch.testing.assert_close(patched, network(images), atol=1e-5, rtol=0)


def test_memory_is_what_the_paper_has_for_mobilenet_v2():
    blocks = list(make_network("mobilenet_v2").features)
    whole, patched = cost(blocks, (224, 224)), cost(blocks, (224, 224), patches=4, patched=5)
    assert [round(usage.bytes / 1024) for usage in (whole, patched)] == [1372, 172]  # MCUNetV2, figure 1
    assert 299e6 < whole.macs < 301e6
    assert 1.05 < patched.macs / whole.macs < 1.15  # 10%, figure 4


def test_patches_make_the_mcu_net_fit():
    blocks = list(McuNet().features)
    whole, patched = cost(blocks, (96, 96)), cost(blocks, (96, 96), 3, McuNet.patched)
    assert patched.bytes < 0.5 * whole.bytes
    assert patched.bytes < 32_000
    assert whole.macs < patched.macs < 1.3 * whole.macs
    assert cost(blocks, (96, 96), 1, McuNet.patched).macs == whole.macs


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"network": "resnet"}, "network=resnet does not exist; choose mcunet or mobilenet_v2"),
        ({"width": 2.0}, "width=2 is out of range; give 0.1 to 1"),
        ({"image_size": 32}, "image_size=32 is out of range; give 48 to 224"),
    ],
)
def test_mistakes_are_refused(options, what):
    with pytest.raises(UserError, match=what):
        Wake(**options)


def test_any_image_is_accepted():
    torch.manual_seed(0)
    wake = Wake(width=0.1, image_size=48).eval()
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)
    grey = np.repeat(image[..., :1], 3, axis=2)
    assert wake.probability(image) == pytest.approx(predict(wake, image[None])[0], abs=1e-6)
    assert wake.probability(grey[..., 0]) == wake.probability(grey)
    assert wake.probability(grey[..., 0].astype(np.uint16) * 257) == wake.probability(grey)
    with pytest.raises(UserError, match="need at least 8x8"):
        wake.probability(image[:1, :1])


def test_as_a_frontend(tmp_path):
    torch.manual_seed(0)
    wake = lively(Wake("mobilenet_v2", 0.1, 48, on=0.0, off=0.0))
    image = np.full((40, 60, 3), 128, np.uint8)
    wake.save(tmp_path)
    again = load_frontend(tmp_path)
    assert (again.on, again.image_size, again.training) == (0.0, 48, False)
    assert again.probability(image) == pytest.approx(wake.probability(image), abs=1e-6)
    findings = again.find(image)
    assert findings.records == [{"person": True, "probability": round(wake.probability(image), 4)}]
    assert (findings.image[0, 0] == (220, 30, 30)).all()
    assert (findings.image[20, 30] == 128).all()
    assert (image == 128).all()
    with pytest.raises(UserError, match="takes no points"):
        again.find(image, points=[])
    images = torch.rand(2, 3, 64, 64)
    features = again.see(images, ["", ""])
    assert {name: tuple(value.shape[1:]) for name, value in features.items()} == {
        name: feature.shape for name, feature in again.adds((64, 64)).items()
    }
    assert ((features["person"] > 0) & (features["person"] < 1)).all()
