"""The authors' files of TinyCLIP: embeddings as written in plain torch, of towers of one shape and of pruned ones."""

import argparse

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from clips import tiny_clip
from safetensors.torch import load_file, save_file

from policies.tinyvla.frontends import make_frontend
from tinyvla.errors import UserError
from tinyvla.frontends import load_frontend
from tinyvla.frontends.tinyclip import TinyCLIP

SIDE, PATCH, HEAD, COMMON, TOKENS = 32, 16, 64, 24, 20
TEXTS = ["a red disc left of a blue bar", "a yellow square"]
# Width and, per layer, heads and FFN units; None: automatic inheritance has removed that half of the layer.
REGULAR = {"visual.": (128, [(2, 96), (2, 96)]), "": (64, [(1, 80), (1, 80)])}
PRUNED = {
    "visual.": (72, [(1, 40), (None, 33), (3, 96), (2, None)]),
    "": (50, [(2, 31), (1, 0), (None, None), (1, 64)]),
}


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_clip(max_tokens=TOKENS).tokenizer


def random_tensors(shape, vocab_size):
    """Tensors of a CLIP by OpenAI's names, for widths, heads and units by tower."""
    torch.manual_seed(0)
    tensors = {"logit_scale": torch.tensor(1.5)}

    def norm(name, width):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = 1 + 0.2 * torch.randn(width), 0.2 * torch.randn(width)

    def linear(name, rows, columns):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = 0.2 * torch.randn(rows, columns), 0.2 * torch.randn(rows)

    for prefix, (width, layers) in shape.items():
        for number, (heads, units) in enumerate(layers):
            block = f"{prefix}transformer.resblocks.{number}"
            if heads is not None:
                norm(f"{block}.ln_1", width)
                tensors[f"{block}.attn.in_proj_weight"] = 0.2 * torch.randn(3 * heads * HEAD, width)
                tensors[f"{block}.attn.in_proj_bias"] = 0.2 * torch.randn(3 * heads * HEAD)
                linear(f"{block}.attn.out_proj", width, heads * HEAD)
            if units is not None:
                norm(f"{block}.ln_2", width)
                linear(f"{block}.mlp.c_fc", units, width)
                linear(f"{block}.mlp.c_proj", width, units)
    (vision, _), (text, _) = shape["visual."], shape[""]
    for name, width in (("visual.ln_pre", vision), ("visual.ln_post", vision), ("ln_final", text)):
        norm(name, width)
    shapes = {
        "visual.class_embedding": (vision,),
        "visual.conv1.weight": (vision, 3, PATCH, PATCH),
        "visual.positional_embedding": (1 + (SIDE // PATCH) ** 2, vision),
        "visual.proj": (vision, COMMON),
        "token_embedding.weight": (vocab_size, text),
        "positional_embedding": (TOKENS, text),
        "text_projection": (text, COMMON),
    }
    return tensors | {name: 0.2 * torch.randn(size) for name, size in shapes.items()}


def transform(tensors, prefix, x, mask):
    """The layers of a tower on tokens (B, N, W), with an additive mask (N, N) of its attention."""

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def linear(name, x):
        return F.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    numbers = [int(name.split("resblocks.")[1].split(".")[0]) for name in tensors if f"{prefix}transformer." in name]
    for number in range(1 + max(numbers)):
        block = f"{prefix}transformer.resblocks.{number}"
        if f"{block}.ln_1.weight" in tensors:
            normed = norm(f"{block}.ln_1", x)
            q, k, v = (
                F.linear(normed, weight, bias).unflatten(-1, (-1, HEAD)).transpose(1, 2)
                for weight, bias in zip(
                    tensors[f"{block}.attn.in_proj_weight"].chunk(3),
                    tensors[f"{block}.attn.in_proj_bias"].chunk(3),
                    strict=True,
                )
            )
            weights = (q @ k.transpose(-1, -2) / HEAD**0.5 + mask).softmax(-1)
            x = x + linear(f"{block}.attn.out_proj", (weights @ v).transpose(1, 2).flatten(2))
        if f"{block}.ln_2.weight" in tensors:
            x = x + linear(f"{block}.mlp.c_proj", F.gelu(linear(f"{block}.mlp.c_fc", norm(f"{block}.ln_2", x))))
    return x


@torch.no_grad()
def reference_images(tensors, images):
    """Unit vectors (B, D) of images (B, S, S, 3) uint8."""
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    pixels = ((torch.from_numpy(images) / 255 - mean) / std).permute(0, 3, 1, 2)
    patches = F.conv2d(pixels, tensors["visual.conv1.weight"], stride=PATCH).flatten(2).transpose(1, 2)
    first = tensors["visual.class_embedding"].expand(len(images), 1, -1)
    x = torch.cat([first, patches], dim=1) + tensors["visual.positional_embedding"]
    x = F.layer_norm(x, x.shape[-1:], tensors["visual.ln_pre.weight"], tensors["visual.ln_pre.bias"])
    x = transform(tensors, "visual.", x, torch.zeros(x.shape[1], x.shape[1]))[:, 0]
    x = F.layer_norm(x, x.shape[-1:], tensors["visual.ln_post.weight"], tensors["visual.ln_post.bias"])
    return F.normalize(x @ tensors["visual.proj"], dim=-1)


@torch.no_grad()
def reference_texts(tensors, tokenizer, texts):
    """Unit vectors (N, D) of texts; they are read at the token of the highest number, the mark of the end."""
    rows = tokenizer(texts)["input_ids"]
    ids = torch.zeros(len(texts), TOKENS, dtype=torch.long)
    for row, numbers in zip(ids, rows, strict=True):
        row[: len(numbers)] = torch.tensor(numbers)
    x = tensors["token_embedding.weight"][ids] + tensors["positional_embedding"]
    x = transform(tensors, "", x, torch.full((TOKENS, TOKENS), -torch.inf).triu(1))
    x = F.layer_norm(x, x.shape[-1:], tensors["ln_final.weight"], tensors["ln_final.bias"])
    return F.normalize(x[torch.arange(len(ids)), ids.argmax(-1)] @ tensors["text_projection"], dim=-1)


def under_openais_names(tensors):
    return {f"module.{name}": tensor for name, tensor in tensors.items()}


def of_a_training(tensors):
    """The state dict of a distributed training beside its state, as open_clip saves it."""

    def name_of(name):
        part = "_logit_scale" if name == "logit_scale" else "_image_encoder" if "visual." in name else "_text_encoder"
        return f"{part}.module.{name}"

    state = {name_of(name): tensor for name, tensor in tensors.items()}
    return {"args": argparse.Namespace(name="run", lr=1e-3), "epoch": 3, "state_dict": state, "optimizer": [{}]}


def after_pruning(tensors):
    """A pruned model, whose image tower has two names."""
    state = {}
    for name, tensor in tensors.items():
        if name == "logit_scale":
            state["_logit_scale.logit_scale"] = tensor
        elif name.startswith("visual."):
            state |= {f"_image_encoder.{name}": tensor, f"image_encoder_without_ddp.{name}": tensor}
        else:
            state[f"text_encoder_without_ddp.{name}"] = tensor
    return state


@pytest.fixture
def save(tmp_path, tokenizer):
    """Writer of a file of the authors with the tokenizer beside it; returns the file and its tensors."""

    def write(shape, layout, **changed):
        tensors = random_tensors(shape, len(tokenizer))
        torch.save(layout(tensors | changed), tmp_path / "TinyCLIP.pt")
        tokenizer.save_pretrained(tmp_path)
        return tmp_path / "TinyCLIP.pt", tensors

    return write


@pytest.mark.parametrize(
    ("shape", "layout"),
    [(REGULAR, under_openais_names), (REGULAR, of_a_training), (PRUNED, after_pruning), (PRUNED, of_a_training)],
    ids=["regular", "regular, of a training", "pruned", "pruned, of a training"],
)
def test_it_embeds_as_the_authors_model(save, tokenizer, tmp_path, shape, layout):
    file, tensors = save(shape, layout)
    images = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    of_images, of_texts = reference_images(tensors, images), reference_texts(tensors, tokenizer, TEXTS)
    assert of_images.std(0).max() > 0.01
    clip = TinyCLIP.from_pretrained(file)
    torch.testing.assert_close(clip.embed_images(images), of_images, rtol=0, atol=1e-4)
    torch.testing.assert_close(clip.embed_texts(TEXTS), of_texts, rtol=0, atol=1e-4)
    scores = tensors["logit_scale"].exp() * of_images @ of_texts.T
    torch.testing.assert_close(clip.score(images, TEXTS), scores, rtol=0, atol=1e-4)
    clip.save(tmp_path / "saved")
    torch.testing.assert_close(load_frontend(tmp_path / "saved").score(images, TEXTS), scores, rtol=0, atol=1e-4)


def test_it_is_a_frontend_of_a_policy_and_of_perceive(save):
    file, _ = save(PRUNED, after_pruning)
    frontend = make_frontend("tinyclip", {"checkpoint": str(file)})
    features = frontend.see(torch.rand(2, 3, 40, 40), TEXTS)
    assert features["match"].shape == (2, 2, COMMON)
    records = frontend.find(np.zeros((40, 40, 3), np.uint8), texts=TEXTS).records
    assert {record["text"] for record in records} == {*TEXTS}
    with pytest.raises(UserError, match="is a file; give the folder"):
        make_frontend("wake", {"checkpoint": str(file)})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"visual.stray": torch.ones(1)}, r"unknown 1 tensors, e\.g\. visual\.stray"),
        ({"transformer.resblocks.1.ln_3.weight": torch.ones(1)}, r"unknown 1 tensors.*ln_3"),
        ({"visual.layer1.0.conv1.weight": torch.ones(1)}, "ResNet"),
        ({"visual.l0_module.hidden_loga": torch.ones(1)}, "unfinished automatic inheritance"),
        ({"visual.transformer.resblocks.0.attn.in_proj_weight": torch.ones(30, 128)}, "heads of other sizes than 64"),
        ({"transformer.resblocks.70000.mlp.c_fc.weight": torch.ones(1)}, "70001 layers"),
        ({"token_embedding.weight": torch.ones(7, 64)}, "and TinyCLIP.pt reads 7"),
    ],
)
def test_what_has_no_place_is_named(save, changed, message):
    file, _ = save(REGULAR, of_a_training, **changed)
    with pytest.raises(UserError, match=message) as caught:
        TinyCLIP.from_pretrained(file)
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_named(save):
    file, tensors = save(REGULAR, under_openais_names)
    del tensors["transformer.resblocks.1.mlp.c_proj.bias"]
    torch.save(tensors, file)
    with pytest.raises(UserError, match=r"lacks 1 tensors, e\.g\. text_model\.encoder\.layers\.1\.mlp\.fc2\.bias"):
        TinyCLIP.from_pretrained(file)
    del tensors["token_embedding.weight"]
    torch.save(tensors, file)
    with pytest.raises(UserError, match="not a TinyCLIP in the authors' layout"):
        TinyCLIP.from_pretrained(file)


def test_two_names_of_one_tensor_agree(save):
    file, tensors = save(PRUNED, after_pruning)
    state = after_pruning(tensors)
    torch.save(state | {"_image_encoder.visual.ln_pre.bias": tensors["visual.ln_pre.bias"] + 1}, file)
    with pytest.raises(UserError, match=r"two different tensors visual\.ln_pre\.bias"):
        TinyCLIP.from_pretrained(file)


def test_without_a_tokenizer_and_a_network_the_fix_is_named(save, monkeypatch):
    file, _ = save(REGULAR, under_openais_names)
    for other in file.parent.iterdir():
        if other != file:
            other.unlink()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"put tokenizer\.json of any CLIP"):
        TinyCLIP.from_pretrained(file)


def test_unused_weights_of_a_folder_are_named(tmp_path, capsys):
    tiny_clip().save(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    stray = {"text_model.stray.weight": torch.ones(1), "text_model.embeddings.position_ids": torch.ones(1)}
    save_file(state | stray, tmp_path / "model.safetensors", metadata={"format": "pt"})
    TinyCLIP.from_pretrained(tmp_path)
    assert capsys.readouterr().err.splitlines() == [
        f"warning: {tmp_path}: 1 stored tensors are not used, those of text_model.stray"
    ]
