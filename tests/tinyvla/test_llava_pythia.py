"""The LLaVA-Pythia backbone against transformers' own modules, from small checkpoints in the released layout."""

import json
import shutil

import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature
from released import save_llava_pythia
from safetensors.torch import load_file, save_file

from policies.tinyvla import TinyVLAConfig
from policies.tinyvla.modeling_tinyvla import TinyVLAPolicy
from tinyvla.backbones.llava_pythia import LlavaPythiaConfig
from tinyvla.backbones.lora import LoRAConfig
from tinyvla.backbones.pretrained import square_images
from tinyvla.decoders import DiffusionConfig, UNet1dConfig
from tinyvla.errors import UserError

NO_LORA = LoRAConfig(r=0)


def build(folder, **options):
    torch.manual_seed(1)
    return LlavaPythiaConfig(pretrained=str(folder), **{"lora": NO_LORA} | options).build().eval()


@pytest.fixture
def images():
    return torch.rand(2, 2, 3, 56, 56, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("tower", "files"), [("clip", "safetensors"), ("clip", "bin"), ("clip", "sharded"), ("siglip", "safetensors")]
)
def test_released_layout_gives_the_released_models_features(tmp_path, images, tower, files):
    reference = save_llava_pythia(tmp_path, tower, files)
    backbone = build(tmp_path)
    with torch.no_grad():
        features = backbone(images, ["open the drawer", "close the window"])
    assert backbone.hidden_size == features.tokens.shape[-1] == 48
    for i, instruction in enumerate(["open the drawer", "close the window"]):
        expected = reference.tokens(tmp_path, images[i], instruction)
        torch.testing.assert_close(features.tokens[i][features.mask[i]], expected, rtol=1e-4, atol=1e-4)


def test_the_fixture_has_the_names_of_the_hub():
    # As listed by a reader of lesjie/Llava-Pythia-700M's model.safetensors.
    from released import LlavaPythiaReference

    names = set(LlavaPythiaReference("clip").state_dict())
    assert names >= {
        "embed_out.weight",
        "gpt_neox.embed_in.weight",
        "gpt_neox.final_layer_norm.bias",
        "gpt_neox.layers.0.attention.dense.weight",
        "gpt_neox.layers.0.attention.query_key_value.weight",
        "gpt_neox.layers.0.mlp.dense_4h_to_h.bias",
        "gpt_neox.mm_projector.0.weight",
        "gpt_neox.mm_projector.2.bias",
        "gpt_neox.vision_tower.vision_model.embeddings.class_embedding",
        "gpt_neox.vision_tower.vision_model.embeddings.position_embedding.weight",
        "gpt_neox.vision_tower.vision_model.encoder.layers.2.self_attn.out_proj.weight",
        "gpt_neox.vision_tower.vision_model.post_layernorm.weight",
        "gpt_neox.vision_tower.vision_model.pre_layrnorm.bias",
    }


def test_padding_does_not_alter_real_tokens(tmp_path, images):
    save_llava_pythia(tmp_path)
    backbone = build(tmp_path)
    long = "press the button from the top, then open the drawer and close the window"
    with torch.no_grad():
        alone = backbone(images[:1], ["open"])
        beside = backbone(images, ["open", long])
    assert beside.tokens.shape[1] > alone.tokens.shape[1]
    assert beside.mask.sum(1).tolist() == [alone.tokens.shape[1], beside.tokens.shape[1]]
    torch.testing.assert_close(beside.tokens[0][beside.mask[0]], alone.tokens[0], rtol=1e-4, atol=1e-5)


def record(tokenizer, texts):
    """The tokenizer, adding what it reads to a list."""
    return lambda prompts: texts.extend(prompts) or tokenizer(prompts)


def test_training_reads_the_released_trainings_prompt(tmp_path, images, monkeypatch):
    """Two spaces after `ASSISTANT:` in training, one when it acts, as in the released code."""
    save_llava_pythia(tmp_path)
    texts = {}
    for spaces in (1, 2):
        backbone = build(tmp_path, training_spaces=spaces)
        for training in (True, False):
            batch = texts.setdefault((spaces, training), [])
            monkeypatch.setattr(backbone, "tokenizer", record(backbone.tokenizer, batch))
            backbone.train(training)(images[:1], ["open the drawer"])
    one, two = (f"\nopen the drawer ASSISTANT:{space}<|endoftext|>" for space in (" ", "  "))
    prompts = {key: batch[0] for key, batch in texts.items()}
    assert prompts == {(1, True): one, (1, False): one, (2, True): two, (2, False): one}


def test_every_camera_adds_its_tokens_and_matters(tmp_path, images):
    save_llava_pythia(tmp_path)
    backbone = build(tmp_path)
    with torch.no_grad():
        one, two = backbone(images[:, :1], ["open"] * 2), backbone(images, ["open"] * 2)
        swapped = backbone(images.flip(1), ["open"] * 2)
    assert two.tokens.shape[1] - one.tokens.shape[1] == 16  # (56 / 14)^2 patches
    assert (two.tokens[:, -1] - swapped.tokens[:, -1]).abs().max() > 1e-3


def test_images_are_padded_to_a_square_in_the_middle():
    wide = torch.rand(1, 2, 3, 18, 32)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    square = square_images(wide, 32, (mean, std))
    assert square.shape == (2, 3, 32, 32)
    assert (square[:, :, :7] == 0).all()  # the mean colour
    assert (square[:, :, 25:] == 0).all()
    back = square[:, :, 7:25] * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    torch.testing.assert_close(back, wide[0])
    small = square_images(wide, 16, ([0.5] * 3, [0.5] * 3))
    assert small.shape == (2, 3, 16, 16)
    assert small.abs().max() <= 1


def test_image_size_interpolates_position_embeddings(tmp_path, images):
    save_llava_pythia(tmp_path)
    small = build(tmp_path, image_size=28)
    with torch.no_grad():
        assert small.encode_images(images).shape == (2, 2 * 4, 48)
    with pytest.raises(UserError, match="multiple of 14"):
        build(tmp_path, image_size=30)


def test_bfloat16_checkpoints_train_in_float32(tmp_path):
    save_llava_pythia(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in build(tmp_path).parameters()} == {torch.float32}


def test_gradient_checkpointing_changes_no_gradient(tmp_path, images):
    save_llava_pythia(tmp_path)
    gradients = []
    for checkpointing in (False, True):
        backbone = build(tmp_path, gradient_checkpointing=checkpointing, lora=LoRAConfig(r=4, dropout=0)).train()
        assert backbone.language_model.is_gradient_checkpointing is checkpointing
        backbone(images, ["open", "close"]).tokens.square().mean().backward()
        gradients.append({n: p.grad for n, p in backbone.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        torch.testing.assert_close(gradient, gradients[1][name])


@pytest.mark.parametrize("size", ["s", "b", "h"])
def test_released_shapes_have_the_released_number_of_parameters(size):
    with torch.device("meta"):
        backbone = LlavaPythiaConfig(size=size, pretrained=None, lora=NO_LORA).build()
    total = sum(parameter.numel() for parameter in backbone.parameters())
    # What a checkpoint holds besides: the language head, the vision tower's last layer and its last normalisation.
    total += backbone.language_model.embed_in.weight.numel() + 12_596_224 + 2048
    assert round(total / 1e9, 1) == {"s": 0.4, "b": 0.7, "h": 1.3}[size]


def policy_config(backbone):
    return TinyVLAConfig(
        input_features={
            "observation.images.left": PolicyFeature(FeatureType.VISUAL, (3, 32, 48)),
            "observation.images.right": PolicyFeature(FeatureType.VISUAL, (3, 32, 48)),
            "observation.state": PolicyFeature(FeatureType.STATE, (4,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (4,))},
        chunk_size=8,
        n_action_steps=4,
        backbone=backbone,
        decoder=DiffusionConfig(network=UNet1dConfig(widths=[16, 32])),
        device="cpu",
    )


def test_a_saved_policy_loads_without_its_checkpoint(tmp_path):
    save_llava_pythia(tmp_path / "hub")
    torch.manual_seed(0)
    config = policy_config(LlavaPythiaConfig(pretrained=str(tmp_path / "hub"), lora=LoRAConfig(r=4)))
    policy = TinyVLAPolicy(config)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:  # as if trained; they start at zero
            torch.nn.init.normal_(parameter, std=0.1)
    policy.save_pretrained(tmp_path / "saved")
    shutil.rmtree(tmp_path / "hub")
    (tmp_path / "saved").rename(tmp_path / "moved")
    loaded = TinyVLAPolicy.from_pretrained(tmp_path / "moved")
    batch = {
        "observation.images.left": torch.rand(1, 3, 32, 48),
        "observation.images.right": torch.rand(1, 3, 32, 48),
        "observation.state": torch.rand(1, 4),
        "task": ["open the drawer"],
    }
    noise = torch.randn(1, 8, 4)
    expected = policy.predict_action_chunk(batch, noise=noise)
    torch.testing.assert_close(loaded.predict_action_chunk(batch, noise=noise), expected)


def test_random_weights_of_a_released_shape_need_no_file(tmp_path):
    with torch.device("meta"):
        backbone = LlavaPythiaConfig(pretrained=None, lora=NO_LORA).build()
    backbone.save_assets(tmp_path)
    with torch.device("meta"):
        again = LlavaPythiaConfig(assets=str(tmp_path), lora=NO_LORA).build()
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in backbone.state_dict().items()}


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit_weights(folder, change):
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")


def edit_config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: truncate(f / "model.safetensors"), "not a complete checkpoint file"),
        (lambda f: truncate(f / "config.json"), "could not be read"),
        (lambda f: (f / "model.safetensors").unlink(), "download the checkpoint's weights again"),
        (lambda f: (f / "tokenizer.json").unlink(), "download the checkpoint again"),
        (lambda f: edit_config(f, model_type="llava"), "of type 'llava', not llava_pythia"),
        (lambda f: edit_config(f, vision_config={}), "lacks 'vision_tower'"),
        (lambda f: edit_config(f, hidden_size=64), "does not fit its own config.json"),
        (lambda f: edit_weights(f, lambda s: s.pop("gpt_neox.mm_projector.0.weight")), "lacks 1 tensors.*projector.0"),
        (lambda f: edit_weights(f, lambda s: s.update(stray=torch.ones(1))), "has unknown 1 tensors.*stray"),
    ],
)
def test_harmed_checkpoints_name_the_fix(tmp_path, harm, message):
    save_llava_pythia(tmp_path)
    harm(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        build(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_shard_is_noticed(tmp_path):
    save_llava_pythia(tmp_path, files="sharded")
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="a file is missing"):
        build(tmp_path)


def test_a_truncated_pickled_checkpoint_is_noticed(tmp_path):
    save_llava_pythia(tmp_path, files="bin")
    truncate(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="not a complete checkpoint file"):
        build(tmp_path)


@pytest.mark.parametrize("name", ["released", "no-one/no-such-model", "no/such/folder"])
def test_a_hub_id_without_network_is_one_line(monkeypatch, name):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="backbone=nano") as caught:
        LlavaPythiaConfig(pretrained=name).build()
    assert "\n" not in str(caught.value)


def test_unknown_size():
    with pytest.raises(UserError, match="use one of s, b, h"):
        LlavaPythiaConfig(size="xl").build()
