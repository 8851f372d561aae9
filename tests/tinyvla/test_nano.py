"""The nano backbone and its tokenizer, as every backbone must behave, whatever is inside."""

from dataclasses import replace

import pytest
import torch

from tinyvla.backbones.nano import NanoConfig
from tinyvla.backbones.tokenizer import HashTokenizer
from tinyvla.encoders import Classifier
from tinyvla.errors import UserError
from tinyvla.inference.eager import to_bfloat16

SIZE = 32


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return NanoConfig(image_size=SIZE).build().eval()


@pytest.fixture
def images():
    return torch.rand(2, 2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def encode(backbone, images, *instructions):
    return backbone(images, list(instructions))


def test_shapes_and_mask(backbone, images):
    tokens, mask = encode(backbone, images, "open", "open the drawer now")
    assert tokens.shape == (*mask.shape, backbone.hidden_size)
    assert mask.dtype == torch.bool
    assert (~mask).sum() == 3  # the shorter instruction's padding, on the right
    assert not mask[0, -3:].any()
    assert tokens.isfinite().all()


def test_padding_changes_nothing(backbone, images):
    alone = encode(backbone, images[:1], "open")
    beside = encode(backbone, images, "open", "press the red button from above")
    torch.testing.assert_close(beside.tokens[0][beside.mask[0]], alone.tokens[0], rtol=1e-4, atol=1e-5)


def test_tokens_of_several_cameras_are_concatenated(backbone, images):
    one, two = encode(backbone, images[:, :1], "open", "close"), encode(backbone, images, "open", "close")
    words = 2  # the beginning and the word
    assert two.tokens.shape[1] - words == 2 * (one.tokens.shape[1] - words)
    # Attention is causal: what the first camera's tokens say does not depend on the second camera.
    torch.testing.assert_close(two.tokens[:, : one.tokens.shape[1] - words], one.tokens[:, :-words])


def test_what_features_depend_on(backbone, images):
    def last(images, instruction):
        return encode(backbone, images[:1], instruction).tokens[0, -1]

    reference = last(images, "open the drawer")
    assert not torch.allclose(last(images, "open the window"), reference, atol=1e-3)
    assert not torch.allclose(last(images.flip(1), "open the drawer"), reference, atol=1e-3)  # cameras change places
    other = images.clone()
    other[:, 1, :, 8:20, 8:20] = 1.0
    assert not torch.allclose(last(other, "open the drawer"), reference, atol=1e-3)
    torch.testing.assert_close(last(images, "Open  the drawer"), reference)


@pytest.mark.parametrize("size", [(48, 48), (17, 40)])
def test_images_of_any_size_are_resized(backbone, size):
    tokens = encode(backbone, torch.rand(1, 2, 3, *size), "open").tokens
    assert tokens.shape == encode(backbone, torch.rand(1, 2, 3, SIZE, SIZE), "open").tokens.shape
    plain = torch.full((1, 1, 3, 1, 1), 0.3)
    torch.testing.assert_close(
        encode(backbone, plain.expand(-1, -1, -1, *size), "open").tokens,
        encode(backbone, plain.expand(-1, -1, -1, SIZE, SIZE), "open").tokens,
        rtol=1e-4,
        atol=1e-4,
    )


def test_every_parameter_learns(images):
    backbone = NanoConfig(image_size=SIZE).build()
    backbone(images, ["open", "close the door"]).tokens.square().mean().backward()
    assert [name for name, parameter in backbone.named_parameters() if parameter.grad is None] == []


def test_a_size_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="image_size must be a multiple of"):
        NanoConfig(image_size=33).build()


class TestVision:
    """The vision tower by name."""

    def test_the_default_has_the_weights_it_always_had(self):
        """Or policies saved so far would not load, and runs would not be repeated."""
        torch.manual_seed(0)
        state = NanoConfig(image_size=SIZE).build().state_dict()
        assert len(state) == 47
        sums = {name: tensor.double().abs().sum().item() for name, tensor in state.items()}
        assert sums["vision_tower.sharpness"] == 192
        assert sums["vision_tower.stem.0.0.weight"] == pytest.approx(164.7201, abs=1e-3)
        assert sums["vision_tower.stem.3.weight"] == pytest.approx(256.6708, abs=1e-3)
        assert sums["projector.0.weight"] == pytest.approx(1448.5599, abs=1e-3)

    @pytest.mark.parametrize("vision", ["tinyvit_5m", "cct_2_3x2"])
    def test_an_image_encoder_learns_places(self, vision, images):
        torch.manual_seed(0)
        backbone = NanoConfig(image_size=SIZE, vision=vision, layers=1).build()
        backbone(images, ["open", "close the door"]).tokens.square().mean().backward()
        assert [name for name, parameter in backbone.named_parameters() if parameter.grad is None] == []
        tokens, mask = encode(backbone.eval(), images, "open", "close the door")
        assert tokens.shape == (*mask.shape, backbone.hidden_size)
        places = backbone.vision_tower(images.flatten(0, 1))
        assert places.shape == (4, 2 * backbone.config.keypoints)
        assert places.abs().max() <= 1

    def test_bfloat16_is_close(self, images):
        torch.manual_seed(0)
        tower = NanoConfig(image_size=SIZE, vision="tinyvit_5m", layers=1).build().vision_tower.eval()
        with torch.no_grad():
            expected = tower(images[0])
            to_bfloat16(tower)
            assert (tower(images[0].bfloat16()) - expected).abs().mean() < 0.03

    def test_weights_of_a_classifier_to_begin_with(self, tmp_path):
        torch.manual_seed(0)
        classifier = Classifier("cct_2_3x2", ["cup", "ball"], SIZE)
        classifier.save(tmp_path)
        config = NanoConfig(image_size=SIZE, vision="cct_2_3x2", vision_pretrained=str(tmp_path))
        ours, theirs = config.build().vision_tower.stem[0].net, classifier.net
        torch.testing.assert_close(ours.blocks[1].mlp.fc1.weight, theirs.blocks[1].mlp.fc1.weight)
        with pytest.raises(UserError, match="holds weights of 'cct_2_3x2', not 'tiny_vit_5m_224'"):
            replace(config, vision="tinyvit_5m").build()

    @pytest.mark.parametrize(
        ("vision", "near"), [("keypoint", "keypoints"), ("tinyvit_5", "tinyvit_5m"), ("cct_7_3x3", "cct_7_3x2")]
    )
    def test_a_mistyped_name_gets_the_nearest(self, vision, near):
        with pytest.raises(UserError, match=f"no image encoder '{vision}'; did you mean {near}"):
            NanoConfig(vision=vision).build()

    def test_a_map_of_one_cell_is_refused(self):
        with pytest.raises(ValueError, match=r"too few for positions; raise backbone\.image_size"):
            NanoConfig(image_size=16, vision="tinyvit_5m").build()


class TestRememberedTexts:
    """A text is encoded once, and encoded again after the weights have changed."""

    @pytest.fixture
    def backbone(self):
        torch.manual_seed(0)
        return NanoConfig(image_size=SIZE).build().eval()

    def test_a_text_is_read_once(self, backbone, images):
        read, tokenizer = [], backbone.tokenizer
        backbone.tokenizer = lambda texts: read.append(list(texts)) or tokenizer(texts)
        first = encode(backbone, images, "open", "close").tokens
        torch.testing.assert_close(encode(backbone, images, "open", "close").tokens, first, rtol=0, atol=0)
        assert read == [["open", "close"]]
        other = encode(backbone, images, "open", "open").tokens
        assert read == [["open", "close"], ["open", "open"]]
        assert not torch.allclose(other[1], first[1], atol=1e-4)

    @pytest.mark.parametrize("change", ["in place", "load_state_dict", "replaced", "data"])
    def test_new_weights_are_read_anew(self, backbone, images, change):
        encode(backbone, images[:1], "open")
        table = backbone.language_model.embed_in
        new = torch.randn_like(table.weight)
        with torch.no_grad():
            if change == "in place":
                table.weight.copy_(new)
            elif change == "load_state_dict":
                backbone.load_state_dict(backbone.state_dict() | {"language_model.embed_in.weight": new})
            elif change == "replaced":
                table.weight = torch.nn.Parameter(new)
            else:  # what an optimiser of old might do, between training and evaluation mode
                backbone.train()
                table.weight.data.copy_(new)
                backbone.eval()
            ids = torch.tensor([backbone.tokenizer.encode("open")])
            torch.testing.assert_close(backbone.embed_texts(["open"]).embedded, new[ids])

    def test_training_remembers_nothing(self, backbone, images):
        backbone.train()
        backbone(images, ["open", "close"]).tokens[..., 0].sum().backward()  # of all features: constant after LayerNorm
        assert backbone.language_model.embed_in.weight.grad.abs().sum() > 0
        assert not backbone._words

    def test_memory_is_bounded(self, backbone, images):
        for number in range(2 * backbone.CACHE_SIZE):
            encode(backbone, images[:1], f"open drawer {number}")
        assert len(backbone._words) <= backbone.CACHE_SIZE


class TestHashTokenizer:
    def test_ids_stay_in_the_table_and_special_ones_are_kept_free(self):
        tokenizer = HashTokenizer(vocab_size=16)
        ids, mask = tokenizer([" ".join(f"word{i}" for i in range(40)), ""])
        assert ids.max() < 16
        assert (ids[mask][1:41] >= 2).all()
        assert ids[1].tolist() == [tokenizer.bos_id] + [tokenizer.pad_id] * 40
        assert mask.sum(1).tolist() == [41, 1]

    def test_words_and_punctuation(self):
        encode = HashTokenizer().encode
        assert encode("Push, the puck!") == encode("push , the  PUCK !")
        assert len(encode("push-v3 it")) == 1 + 4
        assert encode("open the drawer") != encode("drawer the open")

    def test_long_texts_are_cut(self):
        tokenizer = HashTokenizer(max_length=5)
        assert tokenizer.encode("a b c d e f g") == tokenizer.encode("a b c d")

    def test_ids_never_change(self):
        """Saved policies depend on them, so they are the same in every process and version."""
        assert HashTokenizer().encode("open the drawer") == [1, 2898, 4730, 4059]
