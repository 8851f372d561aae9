"""The SmolVLM2 backbone against transformers' own model, from a small checkpoint in the released layout."""

import json

import pytest
import torch
from released import save_smolvlm
from safetensors.torch import load_file

from tinyvla.backbones.lora import LoRAConfig
from tinyvla.backbones.smolvlm import SmolVLMConfig
from tinyvla.errors import UserError

NO_LORA = LoRAConfig(r=0)


def build(folder, **options):
    return SmolVLMConfig(pretrained=str(folder), **{"lora": NO_LORA} | options).build().eval()


@pytest.fixture
def images():
    return torch.rand(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_released_layout_gives_the_released_models_features(tmp_path, images):
    model, tokenizer = save_smolvlm(tmp_path)
    assert "model.text_model.layers.0.self_attn.q_proj.weight" in load_file(tmp_path / "model.safetensors")
    camera = "<fake_token_around_image><global-img>" + "<image>" * 4 + "<fake_token_around_image>"
    prompt = f"<|im_start|>User:{camera}{camera}open the drawer<end_of_utterance>\nAssistant:"
    with torch.no_grad():
        ids = torch.tensor([tokenizer.encode(prompt).ids])
        expected = model.model(input_ids=ids, pixel_values=images[:1] * 2 - 1).last_hidden_state
        features = build(tmp_path)(images[:1], ["open the drawer"])
    assert features.mask.all()
    torch.testing.assert_close(features.tokens, expected, rtol=1e-4, atol=1e-4)


def test_padding_does_not_alter_real_tokens(tmp_path, images):
    save_smolvlm(tmp_path)
    backbone = build(tmp_path)
    with torch.no_grad():
        alone = backbone(images[:1], ["open"])
        beside = backbone(images, ["open", "press the button from the top and open the drawer"])
    torch.testing.assert_close(beside.tokens[0][beside.mask[0]], alone.tokens[0], rtol=1e-4, atol=1e-5)


def test_fewer_text_layers(tmp_path, images, capsys):
    save_smolvlm(tmp_path)
    backbone = build(tmp_path, num_layers=2)
    assert len(backbone.language_model.layers) == 2
    assert "text_model.layers.2." in capsys.readouterr().err  # which of the stored weights are not used
    with torch.no_grad():
        assert backbone(images, ["open", "close"]).tokens.shape[-1] == backbone.hidden_size == 48


def test_lora_leaves_only_connector_and_matrices_to_train(tmp_path, images):
    save_smolvlm(tmp_path)
    backbone = build(tmp_path, lora=LoRAConfig(r=4), gradient_checkpointing=True).train()
    trainable = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert {name for name in trainable if "lora_" not in name} == {"connector.modality_projection.proj.weight"}
    backbone(images, ["open", "close"]).tokens.square().mean().backward()
    assert all(parameter.grad is not None for name, parameter in backbone.named_parameters() if name in trainable)


def test_assets_rebuild_the_architecture(tmp_path, images):
    save_smolvlm(tmp_path / "hub")
    backbone = build(tmp_path / "hub", num_layers=2)
    backbone.save_assets(tmp_path / "assets")
    again = SmolVLMConfig(assets=str(tmp_path / "assets"), num_layers=2, lora=NO_LORA).build().eval()
    again.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again(images, ["open", "close"]).tokens, backbone(images, ["open", "close"]).tokens)


@pytest.mark.parametrize(("size", "billions"), [("256M", 0.26), ("500M", 0.51)])
def test_released_shapes_have_the_released_number_of_parameters(size, billions):
    with torch.device("meta"):
        backbone = SmolVLMConfig(size=size, pretrained=None, lora=NO_LORA).build()
    head = backbone.language_model.embed_tokens.weight.numel()
    assert round((sum(p.numel() for p in backbone.parameters()) + head) / 1e9, 2) == billions


def test_another_kind_of_checkpoint_is_refused(tmp_path):
    save_smolvlm(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "idefics3"}))
    with pytest.raises(UserError, match="of type 'idefics3', not smolvlm"):
        build(tmp_path)
    with pytest.raises(UserError, match="use one of 256M, 500M"):
        SmolVLMConfig(size="1B").build()
