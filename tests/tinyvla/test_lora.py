"""Low-rank adaptation: what it trains, what it leaves alone, and that it learns."""

import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature
from released import save_llava_pythia
from torch import nn

from policies.tinyvla import TinyVLAConfig
from policies.tinyvla.modeling_tinyvla import TinyVLAPolicy
from tinyvla.backbones.llava_pythia import LlavaPythiaConfig
from tinyvla.backbones.lora import LoRAConfig, add_lora
from tinyvla.decoders import DiffusionConfig, UNet1dConfig


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 4, bias=False)])
        self.norm = nn.LayerNorm(4)

    def forward(self, ids):
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


def test_matrices_start_as_a_zero_update_and_all_else_freezes():
    tower = Tower()
    ids = torch.arange(10)
    before = tower(ids)
    add_lora(tower, LoRAConfig(r=2, alpha=8, dropout=0.5))
    torch.testing.assert_close(tower.eval()(ids), before)
    trainable = {name: p.numel() for name, p in tower.named_parameters() if p.requires_grad}
    assert trainable == {
        "layers.0.lora_A.default.weight": 16,
        "layers.0.lora_B.default.weight": 16,
        "layers.1.lora_A.default.weight": 16,
        "layers.1.lora_B.default.weight": 8,
    }
    assert tower.layers[0].scaling["default"] == 4
    assert tower.layers[0].lora_dropout["default"].p == 0.5


def test_rank_zero_trains_everything():
    tower = Tower()
    names = list(tower.state_dict())
    add_lora(tower, LoRAConfig(r=0))
    assert list(tower.state_dict()) == names
    assert all(parameter.requires_grad for parameter in tower.parameters())


@pytest.fixture
def policy(tmp_path):
    save_llava_pythia(tmp_path / "hub")
    torch.manual_seed(0)
    return TinyVLAPolicy(
        TinyVLAConfig(
            input_features={
                "observation.images.left": PolicyFeature(FeatureType.VISUAL, (3, 28, 28)),
                "observation.images.right": PolicyFeature(FeatureType.VISUAL, (3, 28, 28)),
                "observation.state": PolicyFeature(FeatureType.STATE, (4,)),
            },
            output_features={"action": PolicyFeature(FeatureType.ACTION, (4,))},
            chunk_size=8,
            n_action_steps=4,
            backbone=LlavaPythiaConfig(pretrained=str(tmp_path / "hub"), image_size=28),
            decoder=DiffusionConfig(network=UNet1dConfig(widths=[32, 64])),
            optimizer_lr=2e-5,
            optimizer_lr_lora=2e-4,
            device="cpu",
        )
    )


def test_lora_and_the_rest_have_their_own_learning_rates(policy):
    rest, lora = policy.get_optim_params()
    names = {parameter: name for name, parameter in policy.named_parameters()}
    assert lora["lr"] == 2e-4
    assert all("lora_" in names[parameter] for parameter in lora["params"])
    assert {names[parameter].split(".")[1] for parameter in rest["params"]} == {"backbone", "decoder", "waypoint_head"}
    assert {names[p] for p in rest["params"] if "backbone" in names[p]} == {
        f"model.backbone.projector.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")
    }


def test_training_lowers_the_loss_and_changes_only_what_it_should(policy):
    """Actions depend on instruction and images, so that the backbone has something to learn as well."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(8, 2, 3, 28, 28, generator=generator)
    batch = {
        "observation.images.left": images[:, 0],
        "observation.images.right": images[:, 1],
        "observation.state": torch.randn(8, 4, generator=generator),
        "action": torch.rand(8, 1, 4, generator=generator).expand(-1, 8, -1) * 2 - 1,
        "task": ["open the drawer", "close the window"] * 4,
    }
    before = {name: parameter.detach().clone() for name, parameter in policy.named_parameters()}
    # Rates above the preset's: a test has a hundred steps, not ten thousand.
    lora_rate, rate = 2e-3, 2e-3
    groups = [group | {"lr": lora_rate if "lr" in group else rate} for group in policy.get_optim_params()]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0)
    policy.train()
    torch.manual_seed(0)
    losses = []
    for _ in range(120):
        loss, _ = policy(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    curve = [sum(losses[i : i + 10]) / 10 for i in range(0, 120, 10)]
    print("mean loss of every 10 steps:", ", ".join(f"{value:.3f}" for value in curve))
    assert curve[-1] < 0.5 * curve[0]

    changed = {name for name, p in policy.named_parameters() if not torch.equal(p, before[name])}
    intended = {
        name for name in before if "lora_" in name or name.startswith(("model.decoder.", "model.backbone.projector."))
    }
    assert changed == intended
    assert {name for name in before if ".base_layer." in name}.isdisjoint(changed)  # bit-equal, not only close


def test_state_dict_round_trip_through_safetensors(policy, tmp_path):
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    policy.save_pretrained(tmp_path / "saved")
    loaded = TinyVLAPolicy.from_pretrained(tmp_path / "saved")
    saved = policy.state_dict()
    assert loaded.state_dict().keys() == saved.keys()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in loaded.state_dict().items())
    flags = {name: parameter.requires_grad for name, parameter in policy.named_parameters()}
    assert {name: parameter.requires_grad for name, parameter in loaded.named_parameters()} == flags
