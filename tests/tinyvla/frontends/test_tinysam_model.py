"""TinySAM's network: the same numbers as timm's and transformers' modules, and checkpoints in the released layouts."""

import re

import pytest
import timm
import torch
from transformers import SamConfig, SamModel
from transformers.models.sam.configuration_sam import SamMaskDecoderConfig, SamPromptEncoderConfig, SamVisionConfig

from tinyvla.errors import UserError
from tinyvla.frontends import load_frontend
from tinyvla.frontends.tinysam import SIZES, EverythingSettings, Segmenter, TinySAM, TinySAMConfig, load_segmenter

# As narrow as it gets; the layout, strides and windows are the released ones.
NARROW = {"hidden_size": 32, "embed_dims": (8, 16, 24, 32), "num_heads": (1, 2, 3, 4), "depths": (1, 1, 2, 1)}


def randomise(module):
    """Weights that no symmetry or small default hides a mistake in."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator) * 0.1
            scale = "norm" in name or "bn" in name
            tensor.copy_(1 + noise.abs() if scale and name.endswith(("weight", "running_var")) else noise)
    return module.eval()


def test_released_sizes():
    model = Segmenter(TinySAMConfig())
    assert model.config.embedding_side == 64
    trunk = sum(p.numel() for p in model.image_encoder.trunk.parameters())
    decoder = sum(p.numel() for part in (model.prompt_encoder, model.mask_decoder) for p in part.parameters())
    assert trunk == pytest.approx(5.4e6, rel=0.1)
    assert decoder == pytest.approx(4.06e6, rel=0.01)  # SAM's


@torch.no_grad()
def test_trunk_is_timms():
    config = TinySAMConfig(image_size=128)
    encoder = randomise(Segmenter(config).image_encoder)
    reference = timm.create_model("tiny_vit_5m_224").eval()
    reference.load_state_dict(encoder.trunk.state_dict(), strict=False)
    reference.stages[3].downsample.conv2.conv.stride = (1, 1)  # what TinySAM changes
    images = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    maps = encoder.trunk.forward_features(images)
    assert maps.shape == (1, 320, 8, 8)
    torch.testing.assert_close(maps, reference.forward_features(images), atol=1e-4, rtol=1e-4)
    # And the stages before that one are untouched, stride and all.
    unchanged = timm.create_model("tiny_vit_5m_224").eval()
    unchanged.load_state_dict(encoder.trunk.state_dict(), strict=False)
    assert [tuple(m.shape[2:]) for m in unchanged.forward_intermediates(images, intermediates_only=True)][-1] == (4, 4)


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    """A small SAM as `facebook/sam-vit-base` is stored, and its folder."""
    torch.manual_seed(0)
    vision = SamVisionConfig(
        hidden_size=32, output_channels=32, num_hidden_layers=2, num_attention_heads=2, image_size=128,
        global_attn_indexes=[1], window_size=4, num_pos_feats=16, mlp_dim=64,
    )  # fmt: skip
    config = SamConfig(
        vision_config=vision,
        prompt_encoder_config=SamPromptEncoderConfig(hidden_size=32, image_size=128),
        mask_decoder_config=SamMaskDecoderConfig(hidden_size=32, mlp_dim=64, num_attention_heads=4),
    )
    model = randomise(SamModel(config))
    folder = tmp_path_factory.mktemp("sam")
    model.save_pretrained(folder)
    return model, folder


@torch.no_grad()
@pytest.mark.parametrize("kind", ["points", "boxes", "both"])
def test_sam_as_transformers(sam, kind):
    reference, folder = sam
    model = load_segmenter(folder)
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(2, 3, 128, 128, generator=generator)
    points = torch.rand(2, 3, 2, 2, generator=generator) * 127
    labels = torch.tensor([[[1, 0], [1, 1], [0, 1]]] * 2)
    boxes = torch.tensor([[[10.0, 20, 60, 90], [0, 0, 128, 128], [30, 30, 50, 40]]] * 2)
    prompts = {"input_points": points, "input_labels": labels} if kind != "boxes" else {}
    prompts |= {"input_boxes": boxes} if kind != "points" else {}
    expected = reference(pixel_values=model.normalise(images), multimask_output=True, **prompts)
    logits, scores = model(
        images,
        **({"points": points, "labels": labels} if kind != "boxes" else {}),
        **({"boxes": boxes} if kind != "points" else {}),
    )
    assert logits.shape == (2, 3, 3, 32, 32)
    torch.testing.assert_close(logits, expected.pred_masks, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scores, expected.iou_scores, atol=1e-4, rtol=1e-4)


DOWNSCALING = {"conv1": 0, "layer_norm1": 1, "conv2": 3, "layer_norm2": 4, "conv3": 6}
# The other way round than `released.rename`: our names -> those in tinysam.pth.
TO_AUTHORS = [
    (r"^image_encoder\.trunk\.patch_embed\.conv1\.", "image_encoder.patch_embed.seq.0."),
    (r"^image_encoder\.trunk\.patch_embed\.conv2\.", "image_encoder.patch_embed.seq.2."),
    (
        r"^image_encoder\.trunk\.stages\.(\d)\.downsample",
        lambda match: f"image_encoder.layers.{int(match[1]) - 1}.downsample",
    ),
    (r"^image_encoder\.trunk\.stages", "image_encoder.layers"),
    (r"^(image_encoder\.(?:layers|patch_embed).*)\.conv\.weight", r"\1.c.weight"),
    (
        r"neck\.(conv|layer_norm)([12])",
        lambda match: f"neck.{2 * (int(match[2]) - 1) + (match[1] == 'layer_norm')}",
    ),
    (r"shared_embedding\.positional_embedding", "pe_layer.positional_encoding_gaussian_matrix"),
    (r"\.point_embed\.", ".point_embeddings."),
    (r"mask_embed\.(conv1|layer_norm1|conv2|layer_norm2|conv3)",
     lambda match: f"mask_downscaling.{DOWNSCALING[match[1]]}"),
    (r"(transformer\.layers\.\d+)\.layer_norm", r"\1.norm"),
    (r"layer_norm_final_attn", "norm_final_attn"),
    (r"upscale_conv1", "output_upscaling.0"),
    (r"upscale_layer_norm", "output_upscaling.1"),
    (r"upscale_conv2", "output_upscaling.3"),
    (r"(mlps\.\d|prediction_head)\.layers\.0", r"\1.layers.1"),
    (r"(mlps\.\d|prediction_head)\.proj_in", r"\1.layers.0"),
    (r"(mlps\.\d|prediction_head)\.proj_out", r"\1.layers.2"),
]  # fmt: skip
# Names as they stand in the released file, one of every kind.
RELEASED_NAMES = {
    "image_encoder.patch_embed.seq.0.c.weight",
    "image_encoder.patch_embed.seq.2.bn.running_var",
    "image_encoder.layers.0.blocks.0.conv2.c.weight",
    "image_encoder.layers.0.downsample.conv1.bn.bias",
    "image_encoder.layers.2.downsample.conv2.c.weight",
    "image_encoder.layers.3.blocks.0.attn.attention_biases",
    "image_encoder.layers.1.blocks.0.attn.qkv.weight",
    "image_encoder.layers.2.blocks.1.local_conv.c.weight",
    "image_encoder.layers.2.blocks.1.mlp.fc1.weight",
    "image_encoder.neck.0.weight",
    "image_encoder.neck.3.bias",
    "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    "prompt_encoder.point_embeddings.3.weight",
    "prompt_encoder.not_a_point_embed.weight",
    "prompt_encoder.no_mask_embed.weight",
    "prompt_encoder.mask_downscaling.0.weight",
    "prompt_encoder.mask_downscaling.4.bias",
    "prompt_encoder.mask_downscaling.6.weight",
    "mask_decoder.transformer.layers.1.self_attn.q_proj.weight",
    "mask_decoder.transformer.layers.0.cross_attn_token_to_image.out_proj.bias",
    "mask_decoder.transformer.layers.0.cross_attn_image_to_token.k_proj.weight",
    "mask_decoder.transformer.layers.0.mlp.lin2.weight",
    "mask_decoder.transformer.layers.1.norm4.weight",
    "mask_decoder.transformer.final_attn_token_to_image.v_proj.weight",
    "mask_decoder.transformer.norm_final_attn.bias",
    "mask_decoder.iou_token.weight",
    "mask_decoder.mask_tokens.weight",
    "mask_decoder.output_upscaling.0.weight",
    "mask_decoder.output_upscaling.1.weight",
    "mask_decoder.output_upscaling.3.bias",
    "mask_decoder.output_hypernetworks_mlps.3.layers.2.weight",
    "mask_decoder.iou_prediction_head.layers.1.bias",
}


def save_as_authors(model, file):
    """Write a checkpoint in the layout of tinysam.pth, with the unused layers of the authors' trunk."""
    state = {}
    for name, tensor in model.state_dict().items():
        for pattern, replacement in TO_AUTHORS:
            name = re.sub(pattern, replacement, name)
        state[name] = tensor
    width = model.config.embed_dims[-1]
    state |= {"image_encoder.norm_head.weight": torch.ones(width), "image_encoder.norm_head.bias": torch.zeros(width)}
    state |= {"image_encoder.head.weight": torch.zeros(10, width), "image_encoder.head.bias": torch.zeros(10)}
    torch.save(state, file)
    return state


@torch.no_grad()
def test_tinysams_file(tmp_path, capsys):
    decoder = {"layer_norm_eps": 1e-5, "mlp_dim": 48, "iou_head_hidden_dim": 32}
    model = randomise(Segmenter(TinySAMConfig(**NARROW, decoder=decoder)))
    state = save_as_authors(model, tmp_path / "tinysam.pth")
    assert set(state) >= RELEASED_NAMES
    assert len(state) == len(model.state_dict()) + 4
    loaded = load_segmenter(tmp_path)  # a folder that holds it, as the hub's does
    unused = "4 stored tensors are not used, those of image_encoder.head, image_encoder.norm_head"
    assert f"warning: {tmp_path}/tinysam.pth: {unused} (the classifier " in capsys.readouterr().err
    sizes = ("hidden_size", "embed_dims", "depths", "window_sizes", "image_size")
    assert [getattr(loaded.config, name) for name in sizes] == [getattr(model.config, name) for name in sizes]
    assert loaded.config.num_heads[1:] == model.config.num_heads[1:]
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor)
    images = torch.rand(1, 3, 1024, 1024)
    boxes = torch.tensor([[[100.0, 200, 500, 600]]])
    torch.testing.assert_close(loaded(images, boxes=boxes)[0], model(images, boxes=boxes)[0])


def test_damaged_and_foreign_files(tmp_path):
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 not much")
    with pytest.raises(UserError, match="not a complete checkpoint"):
        load_segmenter(tmp_path / "cut.pth")
    torch.save({"backbone.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="TinySAM's layout"):
        load_segmenter(tmp_path / "other.pth")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="neither a TinySAM nor a SAM"):
        load_segmenter(tmp_path / "empty")
    with pytest.raises(UserError, match="model hub"):
        load_segmenter("no-one/no-such-sam")
    with pytest.raises(UserError, match="multiple of 16"):
        TinySAMConfig(image_size=100)


@torch.no_grad()
def test_frontend_saves_and_loads(tmp_path):
    torch.manual_seed(0)
    frontend = TinySAM.of(Segmenter(SIZES["small"]), EverythingSettings(points_per_side=8)).eval()
    frontend.save(tmp_path)
    loaded = load_frontend(tmp_path)
    assert loaded.everything.points_per_side == 8
    images, boxes = torch.rand(1, 3, 128, 128), torch.tensor([[[10.0, 20, 50, 60]]])
    torch.testing.assert_close(loaded.model(images, boxes=boxes), frontend.model(images, boxes=boxes))
    torch.testing.assert_close(load_segmenter(tmp_path)(images, boxes=boxes), frontend.model(images, boxes=boxes))


def test_positions_are_readable():
    """The position encoding of an untrained model must change slowly enough to learn from."""
    torch.manual_seed(0)
    embed = Segmenter(SIZES["small"]).prompt_encoder.shared_embedding
    here, near, far = (embed(torch.tensor([[x, 0.5]])) for x in (0.5, 0.51, 0.8))
    assert (here - near).abs().mean() < 0.3 * (here - far).abs().mean()
    assert not embed.positional_embedding.requires_grad
