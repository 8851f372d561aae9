"""TinyCLIP as a front-end: checkpoints, scores, embeddings and what it refuses."""

import json

import numpy as np
import pytest
import torch
from clips import fake_scenes, save_released, tiny_clip
from PIL import Image
from transformers import CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from tinyvla.errors import UserError
from tinyvla.frontends import load_frontend
from tinyvla.frontends.tinyclip import InstructionEncoder, TinyCLIP
from tinyvla.frontends.tinyclip.tokenizer import train_tokenizer

TEXTS = ["a red disc left of a blue bar", "A Yellow square!", "nothing of that sort: 42 ✂"]


@pytest.fixture(scope="module")
def clip():
    return tiny_clip()


@pytest.fixture(scope="module")
def images():
    return [Image.fromarray(image) for image in fake_scenes(3, size=32).images]


def test_a_released_checkpoint_scores_as_transformers_does(clip, images, tmp_path):
    reference = save_released(tmp_path, clip)
    loaded = TinyCLIP.from_pretrained(str(tmp_path))
    large = [image.resize((50, 41), Image.Resampling.BICUBIC) for image in images]
    processor = CLIPProcessor(CLIPImageProcessor.from_pretrained(tmp_path), CLIPTokenizer.from_pretrained(tmp_path))
    with torch.no_grad():
        expected = reference(**processor(text=TEXTS, images=large, return_tensors="pt", padding=True))
    ours = loaded.score([np.asarray(image) for image in large], TEXTS)
    torch.testing.assert_close(ours, expected.logits_per_image, atol=1e-4, rtol=0)
    image_embeds = loaded.embed_images([np.asarray(image) for image in large])
    torch.testing.assert_close(image_embeds, expected.image_embeds, atol=1e-4, rtol=0)
    torch.testing.assert_close(loaded.embed_texts(TEXTS), expected.text_embeds, atol=1e-4, rtol=0)


def test_what_is_saved_loads_with_transformers_and_as_a_frontend(clip, tmp_path):
    clip.save(tmp_path)
    ours, plain = load_frontend(tmp_path), CLIPModel.from_pretrained(tmp_path)
    assert isinstance(ours, TinyCLIP)
    assert not ours.training
    torch.testing.assert_close(ours.embed_texts(TEXTS), clip.embed_texts(TEXTS))
    assert plain.state_dict().keys() == clip.clip.state_dict().keys()


def test_a_run_folder_will_do(clip, tmp_path):
    clip.save(tmp_path / "checkpoints/best/pretrained_model")
    torch.testing.assert_close(TinyCLIP.from_pretrained(tmp_path).embed_texts(TEXTS), clip.embed_texts(TEXTS))


def test_images_of_all_kinds_score_alike(clip):
    image = fake_scenes(1).images[0]
    expected = clip.embed_images([image])
    grey = image[..., 1]
    alpha = np.dstack([image, np.full(image.shape[:2], 7, np.uint8)])
    for same in (alpha, image.astype(np.uint16) * 257):
        torch.testing.assert_close(clip.embed_images([same]), expected)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    torch.testing.assert_close(clip.embed_images(tensor), expected, atol=1e-5, rtol=1e-5)
    assert clip.embed_images([grey, np.zeros((90, 40, 3), np.uint8)]).shape == (2, 20)
    torch.testing.assert_close(expected.norm(dim=-1), torch.ones(1))


def test_padding_does_not_change_a_text(clip):
    together = clip.embed_texts(TEXTS)
    alone = torch.cat([clip.embed_texts([text]) for text in TEXTS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["a mug", " "], "text 2 of 2 is empty"),
        ([], "at least one"),
        ("a mug", r"give \[text\]"),
        (["mug " * 40], "the model reads 24"),
    ],
)
def test_texts_that_cannot_be_read(clip, texts, says):
    with pytest.raises(UserError, match=says):
        clip.embed_texts(texts)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        ([np.zeros((1, 1, 3), np.uint8)], "1x1 pixels"),
        ([np.full((16, 16, 3), np.nan)], "image 1 has values"),
        ([], "no image"),
    ],
)
def test_images_that_cannot_be_seen(clip, images, says):
    with pytest.raises(UserError, match=says):
        clip.score(images, ["a mug"])


def test_checkpoints_that_are_none(clip, tmp_path):
    with pytest.raises(UserError, match="no CLIP could be loaded from 'wkcn/none'"):
        TinyCLIP.from_pretrained("wkcn/none")
    save_released(tmp_path, clip)
    config = tmp_path / "config.json"
    whole = config.read_text()
    config.write_text(json.dumps(json.loads(whole) | {"model_type": "siglip"}))
    with pytest.raises(UserError, match="a model of type 'siglip'"):
        TinyCLIP.from_pretrained(tmp_path)
    config.write_text(whole)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="give a complete folder"):
        TinyCLIP.from_pretrained(tmp_path)


def test_a_checkpoint_that_lacks_tensors(clip, tmp_path):
    from safetensors.torch import load_file, save_file

    save_released(tmp_path, clip)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 of its tensors, such as text_projection"):
        TinyCLIP.from_pretrained(tmp_path)


def test_the_tokenizer_spells_out_what_it_never_saw():
    tokenizer = train_tokenizer(["a red mug", "a blue mug"], vocab_size=530)
    ids = tokenizer("a Red mug né ✂")["input_ids"]
    end = tokenizer.eos_token_id
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, end)
    assert end not in ids[:-1]
    assert len(tokenizer) == tokenizer.eos_token_id + 1 <= 530
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a red mug né ✂"


def test_to_a_policy_it_adds_two_tokens_a_camera(clip):
    images = torch.rand(3, 3, 40, 40)
    features = clip.see(images, ["a red disc", "a blue bar", "a red disc"])
    assert features["match"].shape == (3, *clip.adds((40, 40))["match"].shape)
    torch.testing.assert_close(features["match"][:, 1], clip.embed_texts(["a red disc", "a blue bar", "a red disc"]))
    torch.testing.assert_close(features["match"][:, 0], clip.embed_images(images))


def test_it_says_which_text_fits_an_image(clip):
    image = fake_scenes(1).images[0]
    findings = clip.find(image, texts=TEXTS)
    assert findings.image.shape == image.shape
    assert sum(record["share"] for record in findings.records) == pytest.approx(1)
    assert [record["share"] for record in findings.records] == sorted(
        (r["share"] for r in findings.records), reverse=True
    )
    with pytest.raises(UserError, match="compares an image with texts"):
        clip.find(image)


def test_instructions_are_read_once(clip, monkeypatch):
    encoder = InstructionEncoder(tiny_clip())
    expected = encoder(TEXTS)
    assert expected.shape == (3, encoder.width)
    assert not list(encoder.parameters())
    monkeypatch.setattr(TinyCLIP, "embed_texts", None)
    torch.testing.assert_close(encoder([TEXTS[1], TEXTS[0]]), expected[[1, 0]])
