"""Image encoders: the paper's parameter counts, released layouts, images of any size, and saved classifiers."""

import copy

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tinyvla.encoders import Classifier, make_encoder
from tinyvla.errors import UserError
from tinyvla.frontends.classifier import make_network
from tinyvla.frontends.tinyvit.model import map_sides, window_of

# Millions of parameters in the paper (arXiv 2104.05704, table 2; CCT-14 in table 3) and its authors' table, to the
# digits given there: variant, side in pixels, classes. CCT-6/3x1 is counted there without positional embeddings.
PUBLISHED = {
    "cct_2_3x2": (0.284, 32, 10),
    "cct_4_3x2": (0.482, 32, 10),
    "cct_6_3x1": (3.168, 32, 10),
    "cct_6_3x2": (3.327, 32, 10),
    "cct_7_3x1": (3.760, 32, 10),
    "cct_7_3x2": (3.853, 32, 10),
    "cct_14_7x2": (22.36, 224, 1000),
    "vit_lite_6_4": (3.191, 32, 10),
    "vit_lite_7_4": (3.717, 32, 10),
    "cvt_6_4": (3.190, 32, 10),
    "cvt_7_4": (3.717, 32, 10),
}


def count(module: nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def on_meta(name, **kwargs):
    with torch.device("meta"):
        return timm.create_model(name, **kwargs)


class TestCompactTransformers:
    @pytest.mark.parametrize("variant", PUBLISHED)
    def test_parameters_are_the_papers(self, variant):
        published, side, classes = PUBLISHED[variant]
        positions = variant != "cct_6_3x1"
        encoder = on_meta(variant, img_size=side, num_classes=classes, positions=positions)
        assert count(encoder) == pytest.approx(published, rel=0.01)

    def test_seqpool_is_a_weighted_mean(self):
        net = timm.create_model("cct_2_3x2", num_classes=3).eval()
        images = torch.rand(2, 3, 32, 32)
        tokens = net.forward_features(images)
        weights = torch.softmax(tokens @ net.pool.weigh.weight[0] + net.pool.weigh.bias, dim=1)
        assert tokens.shape == (2, 64, 128)
        torch.testing.assert_close(net.forward_head(tokens, pre_logits=True), (weights[..., None] * tokens).sum(1))
        torch.testing.assert_close(net(images), net.head(net.pool(tokens)))

    def test_what_can_be_compared(self):
        """Any tokenizer goes with any way to pool, and every weight learns."""
        for variant, pool in (("cct_2_3x2", "token"), ("vit_lite_6_4", "seq"), ("vit_lite_6_4", "token")):
            net = timm.create_model(variant, num_classes=3, global_pool=pool, depth=1, img_size=16)
            net(torch.rand(2, 3, 16, 16)).square().sum().backward()
            assert [name for name, parameter in net.named_parameters() if parameter.grad is None] == []
            assert net.num_prefix_tokens == (pool == "token")
        with pytest.raises(ValueError, match="seq or token"):
            timm.create_model("cct_2_3x2", global_pool="avg")

    def test_a_checkpoint_in_the_authors_layout_loads(self, tmp_path):
        net = timm.create_model("cct_2_3x2", num_classes=10).eval()
        names = {
            "positions": "classifier.positional_emb",
            "pool.weigh": "classifier.attention_pool",
            "head": "classifier.fc",
            "norm": "classifier.norm",
            "attn": "self_attn",
            "norm1": "pre_norm",
            "norm2": "norm1",
            "mlp.fc1": "linear1",
            "mlp.fc2": "linear2",
        }
        authors = {}
        for name, tensor in net.state_dict().items():
            modules = name.split(".")
            if modules[0] == "tokenizer":
                renamed = ".".join(["tokenizer", "conv_layers", *modules[1:]])
            elif modules[0] == "blocks":
                inner = ".".join(modules[2:4]) if modules[2] == "mlp" else modules[2]
                renamed = ".".join(["classifier", *modules[:2], name.split(".", 2)[2].replace(inner, names[inner], 1)])
            else:
                old = name if name == "positions" else name.rpartition(".")[0]
                renamed = name.replace(old, names[old])
            authors[renamed] = tensor
        file = tmp_path / "cct.pth"
        torch.save(authors, file)
        overlay = {"file": str(file), "num_classes": 10}
        loaded = timm.create_model("cct_2_3x2", pretrained=True, num_classes=10, pretrained_cfg_overlay=overlay).eval()
        images = torch.rand(1, 3, 32, 32)
        torch.testing.assert_close(loaded(images), net(images), rtol=0, atol=0)
        larger = timm.create_model(
            "cct_2_3x2", pretrained=True, num_classes=10, img_size=48, pretrained_cfg_overlay=overlay
        )
        assert larger(torch.rand(1, 3, 48, 48)).shape == (1, 10)  # positions are resized


class TestTinyViT:
    @pytest.mark.parametrize(("name", "published"), [("tinyvit_5m", 5.4), ("tinyvit_11m", 11), ("tinyvit_21m", 21)])
    def test_parameters_are_the_papers(self, name, published):
        with torch.device("meta"):
            assert count(make_network(name, 224, num_classes=1000)) == pytest.approx(published, rel=0.015)

    def test_at_224_pixels_it_is_timms(self):
        torch.manual_seed(0)
        ours = make_network("tinyvit_5m", 224, num_classes=10).eval()
        theirs = timm.create_model("tiny_vit_5m_224", num_classes=10).eval()
        theirs.load_state_dict(ours.state_dict())
        images = torch.rand(1, 3, 224, 224)
        with torch.no_grad():
            torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=1e-4)

    def test_windows_fit_the_map(self):
        released = (7, 7, 14, 7)
        assert [window_of(side, most) for side, most in zip(map_sides(224), released, strict=True)] == [7, 7, 14, 7]
        for size in (64, 96, 100, 128, 320):
            for side, most in zip(map_sides(size), released, strict=True):
                window = window_of(side, most)
                assert window <= most
                assert -(-side // window) * window - side < -(-side // window)  # less than a cell a window is padding

    def test_released_weights_load_at_another_size(self, tmp_path):
        """A file in the released layout, at 224 pixels with 1,000 classes, begins an encoder at 96."""
        torch.manual_seed(0)
        released = timm.create_model("tiny_vit_5m_224")
        save_file(released.state_dict(), tmp_path / "model.safetensors")
        overlay = {"file": str(tmp_path / "model.safetensors"), "num_classes": 1000}
        net = make_network("tinyvit_5m", 96, True, num_classes=0, pretrained_cfg_overlay=overlay)
        torch.testing.assert_close(net.stages[2].blocks[0].mlp.fc1.weight, released.stages[2].blocks[0].mlp.fc1.weight)
        assert net.stages[2].blocks[0].attn.attention_biases.shape == (5, 36)


class TestEncoders:
    @pytest.mark.parametrize(
        ("name", "options", "channels", "side"),
        [("tinyvit_5m", {}, 320, 2), ("tinyvit_5m", {"stride": 16}, 160, 4), ("cct_2_3x2", {}, 128, 16)],
    )
    def test_maps(self, name, options, channels, side):
        encoder = make_encoder(name, 64, **options)
        images = torch.rand(2, 3, 64, 64)
        features = encoder.forward_map(images)
        assert features.shape == (2, channels, side, side)
        assert (encoder.num_features, encoder.map_size) == (channels, (side, side))
        features.square().sum().backward()
        assert [key for key, parameter in encoder.named_parameters() if parameter.grad is None] == []

    def test_rows_and_columns_are_where_they_were(self):
        """A change below on the left changes the map most below on the left."""
        torch.manual_seed(0)
        encoder = make_encoder("cct_2_3x2", 32).eval()
        images = torch.rand(1, 3, 32, 32)
        changed = images.clone()
        changed[..., 24:30, 2:8] = 1 - changed[..., 24:30, 2:8]
        with torch.no_grad():
            difference = (encoder(changed) - encoder(images)).square().sum(1)[0]
        assert difference[4:, :4].sum() > 0.9 * difference.sum()

    def test_images_are_normalised_inside(self):
        encoder = make_encoder("tinyvit_5m", 32, stride=4).eval()
        images = torch.rand(1, 3, 32, 32)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        with torch.no_grad():
            torch.testing.assert_close(encoder(images), encoder.net.forward_features((images - mean) / std))

    @pytest.mark.parametrize(
        ("make", "what"),
        [
            (lambda: make_encoder("tinyvit_5", 64), "no image encoder 'tinyvit_5'; did you mean tinyvit_5m"),
            (lambda: make_encoder("cct_7_3x3", 64), "did you mean cct_7_3x2"),
            (lambda: make_encoder("resnet18", 64), "no image encoder 'resnet18'"),
            (lambda: make_encoder("cct_2_3x2", 64, stride=16), "leave the stride out"),
            (lambda: make_encoder("cct_2_3x2", 32, pretrained=True), "weights of 'cct_2_3x2' could not be loaded"),
            (lambda: make_network("resnet_18", 64), "timm has no model 'resnet_18'; did you mean resnet18"),
        ],
    )
    def test_mistakes_are_one_line(self, make, what):
        with pytest.raises(UserError, match=what) as mistake:
            make()
        assert "\n" not in str(mistake.value)


class TestClassifiers:
    @pytest.fixture(scope="class")
    def saved(self, tmp_path_factory):
        torch.manual_seed(0)
        classifier = Classifier("cct_2_3x2", ["cup", "ball", "cube"], 32).eval()
        folder = tmp_path_factory.mktemp("run") / "checkpoints/best/pretrained_model"
        classifier.save(folder)
        return classifier, folder

    def test_one_is_loaded_as_it_was_saved(self, saved):
        classifier, folder = saved
        loaded, images = Classifier.load(folder.parents[2]), torch.rand(2, 3, 32, 32)
        assert (loaded.classes, loaded.image_size, loaded.training) == (["cup", "ball", "cube"], 32, False)
        torch.testing.assert_close(loaded(images), classifier(images), rtol=0, atol=0)

    def test_an_encoder_begins_with_its_weights(self, saved, capsys):
        classifier, folder = saved
        encoder = make_encoder("cct_2_3x2", 32, pretrained=str(folder.parents[2])).eval()
        assert capsys.readouterr().err == f"warning: {folder.parents[2]}: its classifier of 3 classes is not used\n"
        images = torch.rand(2, 3, 32, 32)
        tokens = classifier.net.forward_features(classifier.normalise(images))
        torch.testing.assert_close(encoder(images).flatten(2).transpose(1, 2), tokens, rtol=0, atol=0)

    def test_damage_and_mix_ups_are_one_line(self, saved, tmp_path):
        classifier, folder = saved
        with pytest.raises(UserError, match="holds weights of 'cct_2_3x2', not 'cct_4_3x2'"):
            make_encoder("cct_4_3x2", 32, pretrained=str(folder))
        with pytest.raises(UserError, match="there is no classifier at"):
            Classifier.load(tmp_path)
        cut = tmp_path / "cut"
        copy.deepcopy(classifier).save(cut)
        weights = cut / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        with pytest.raises(UserError, match="is not a complete checkpoint file"):
            Classifier.load(cut)
        (cut / "config.json").write_text("[]")
        with pytest.raises(UserError, match="holds a list where an object belongs"):
            Classifier.load(cut)
        assert load_file(folder / "model.safetensors")
