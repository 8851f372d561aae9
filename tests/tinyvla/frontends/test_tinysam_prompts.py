"""Prompts on images and segment-everything; a stand-in that knows the right masks where they matter."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from clips import tiny_clip
from pycocotools import mask as coco
from torch import nn

from tinyvla.errors import UserError
from tinyvla.frontends import load_frontend
from tinyvla.frontends.tinysam import (
    SIZES,
    EverythingSettings,
    Masks,
    Segmenter,
    TinySAM,
    encode_image,
    masks_from_coco,
    segment_box,
    segment_everything,
    segment_points,
)
from tinyvla.frontends.tinysam.everything import stability


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Segmenter(SIZES["small"]).eval()


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)


class Knowing(nn.Module):
    """Decodes a point to its region of a label map, with the score of all regions or of each; it counts the points."""

    SIDE = 64

    def __init__(self, regions, config=SIZES["small"], score=0.95):
        super().__init__()
        self.regions, self.config, self.n_points = torch.as_tensor(regions), config, 0
        self.scores = torch.as_tensor(score).expand(int(self.regions.max()) + 1)
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.image_encoder = lambda images: torch.zeros(1, 1, 16, 16)

    def normalise(self, images):
        return images

    def decode(self, embeddings, points=None, labels=None, boxes=None):
        self.n_points += points.shape[1]
        cells = ((points[0, :, 0] + 0.5) / 2).long()
        labels = self.regions[cells[:, 1], cells[:, 0]]
        logits = torch.where(labels[:, None, None] == self.regions, 10.0, -10.0).unsqueeze(0).unsqueeze(2)
        return logits, self.scores[labels].view(1, -1, 1)


@pytest.fixture
def regions():
    """Three things of 64x64 cells: the sparse grid of four points per side meets two and misses the third.

    No edge lies on a point of the dense grid, where no mask is certain.
    """
    regions = np.zeros((64, 64), np.int64)
    regions[5:27, 5:27], regions[37:59, 37:59], regions[30:34, 5:10] = 1, 2, 3
    return regions


def test_masks_have_the_image_size_and_order(model, image):
    encoded = encode_image(model, image)
    assert encoded.fitted == (96, 128)
    for masks in (
        segment_points(model, encoded, [(5, 80), (100, 3)], [1, 0]),
        segment_box(model, encoded, (3, 4, 50, 60)),
    ):
        assert masks.masks.shape == (3, 90, 120)
        assert masks.masks.dtype == torch.bool
        assert (masks.scores.diff() <= 0).all()
        assert masks.scores.isfinite().all()


def test_prompts_matter(model, image):
    """Even untrained: another point or label or box, another answer."""
    encoded = encode_image(model, image)
    with torch.no_grad():
        ask = model.decode
        reference = ask(encoded.embedding, torch.tensor([[[[20.0, 20]]]]), torch.ones(1, 1, 1))[0]
        elsewhere = ask(encoded.embedding, torch.tensor([[[[90.0, 60]]]]), torch.ones(1, 1, 1))[0]
        negative = ask(encoded.embedding, torch.tensor([[[[20.0, 20]]]]), torch.zeros(1, 1, 1))[0]
    assert not torch.allclose(reference, elsewhere, atol=1e-3)
    assert not torch.allclose(reference, negative, atol=1e-3)


@pytest.mark.parametrize("points", [[(120, 5)], [(5, 90)], [(-1, 5)], [(5, 5), (500, 5)]])
def test_point_outside(model, image, points):
    with pytest.raises(UserError, match=r"outside the image of 120x90 pixels"):
        segment_points(model, encode_image(model, image), points)


@pytest.mark.parametrize(
    ("points", "labels"),
    [([], None), ([(1, 2, 3)], None), ([(float("nan"), 2)], None), ([1, 2], None), ([[1], [1, 2]], None)],
)
def test_points_that_are_none(model, image, points, labels):
    with pytest.raises(UserError, match="points must be"):
        segment_points(model, encode_image(model, image), points, labels)


@pytest.mark.parametrize("labels", [[1, 1], [2], [0.5], []])
def test_labels_that_do_not_fit(model, image, labels):
    with pytest.raises(UserError, match="labels must be 1 zeros and ones"):
        segment_points(model, encode_image(model, image), [(3, 4)], labels)


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (5, 9, 8, 9), (9, 5, 5, 9), (120, 5, 130, 9), (-9, -9, 0, 5)])
def test_box_without_area(model, image, box):
    with pytest.raises(UserError, match="has no area"):
        segment_box(model, encode_image(model, image), box)


def test_box_is_cut_to_the_image(model, image):
    encoded = encode_image(model, image)
    beyond, cut = segment_box(model, encoded, (-50, 10, 500, 60)), segment_box(model, encoded, (0, 10, 120, 60))
    assert torch.equal(beyond.masks, cut.masks)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8, 3), np.uint8),
        np.full((300, 9), 200, np.uint8),
        np.full((20, 30), 65535, np.uint16),
        np.zeros((16, 700, 4), np.uint8),
    ],
    ids=["tiny", "narrow grey", "16 bits", "wide with alpha"],
)
def test_unusual_images(model, image):
    encoded = encode_image(model, image)
    masks = segment_points(model, encoded, [(2, 3)])
    assert masks.masks.shape[1:] == image.shape[:2]
    assert masks.scores.isfinite().all()
    everything = segment_everything(model, encoded, EverythingSettings(4, min_score=-9, min_stability=0))
    assert everything.scores.isfinite().all()


def test_one_pixel(model):
    with pytest.raises(UserError, match="1x1 pixels"):
        encode_image(model, np.zeros((1, 1, 3), np.uint8))


def test_coco_round_trip():
    masks = torch.zeros(3, 20, 30, dtype=torch.bool)
    masks[0, 3:9, 4:20], masks[1, 0, 0] = True, True
    records = Masks(masks, torch.tensor([0.9, 0.8, 0.1])).to_coco()
    records = json.loads(json.dumps(records))
    assert records[0]["bbox"] == [4, 3, 16, 6]
    assert [record["area"] for record in records] == [96, 1, 0]
    assert coco.area(records[0]["segmentation"]) == 96
    again = masks_from_coco(records)
    assert torch.equal(again.masks, masks)
    assert again.boxes.tolist() == [[4, 3, 20, 9], [0, 0, 1, 1], [0, 0, 0, 0]]


def test_stability():
    logits = torch.tensor([[[5.0, -5]], [[0.5, 5]], [[-5, -5]]])
    assert stability(logits, 1.0).tolist() == [1.0, 0.5, 0.0]


def masks_of(regions):
    return {
        int(label): torch.as_tensor(regions == label).repeat_interleave(2, 0).repeat_interleave(2, 1)
        for label in np.unique(regions)
    }


@pytest.mark.parametrize("hierarchical", [False, True])
def test_everything_finds_all_regions_once(regions, hierarchical):
    knowing = Knowing(regions)
    encoded = encode_image(knowing, np.zeros((128, 128, 3), np.uint8))
    masks = segment_everything(knowing, encoded, EverythingSettings(16, hierarchical, max_overlap=0.9))
    expected = masks_of(regions)
    assert len(masks) == len(expected)
    for mask in expected.values():
        ious = [(mask & other).sum() / (mask | other).sum() for other in masks.masks]
        assert max(ious) > 0.9


@pytest.mark.parametrize(("max_overlap", "scores"), [(0.5, [0.95, 0.9]), (0.6, [0.95, 0.92, 0.9])])
def test_of_two_masks_whose_boxes_overlap_more_than_allowed_the_better_one_is_kept(max_overlap, scores):
    """A frame and the square within it, whose boxes have an IoU of 23² / 31² = 0.55, on a background."""
    regions = np.zeros((64, 64), np.int64)
    regions[16:48, 16:48], regions[20:44, 20:44] = 1, 2
    knowing = Knowing(regions, score=(0.9, 0.92, 0.95))
    encoded = encode_image(knowing, np.zeros((128, 128, 3), np.uint8))
    masks = segment_everything(knowing, encoded, EverythingSettings(16, max_overlap=max_overlap))
    assert masks.scores.tolist() == pytest.approx(scores)


def test_hierarchy_asks_fewer_points_and_only_where_it_is_not_sure(regions):
    plain, hierarchical, unsure = Knowing(regions), Knowing(regions), Knowing(regions, score=0.89)
    for model, settings in (
        (plain, EverythingSettings(16, False)),
        (hierarchical, EverythingSettings(16)),
        (unsure, EverythingSettings(16, certain_score=0.9)),
    ):
        segment_everything(model, encode_image(model, np.zeros((128, 128, 3), np.uint8)), settings)
    assert plain.n_points == 256
    assert hierarchical.n_points < 30  # all but the third thing is certain after 16
    assert unsure.n_points == 15 * 15  # one step of 8 pixels apart, none of them twice


def test_nothing_certain_enough(regions):
    knowing = Knowing(regions, score=0.2)
    masks = segment_everything(knowing, encode_image(knowing, np.zeros((100, 128, 3), np.uint8)), EverythingSettings(8))
    assert len(masks) == 0
    assert masks.masks.shape == (0, 100, 128)
    assert masks.boxes.shape == (0, 4)
    assert masks.to_coco() == []


def test_settings_of_everything():
    with pytest.raises(UserError, match="at least 4"):
        EverythingSettings(points_per_side=3)
    with pytest.raises(ValueError, match="points_per_side is 0; use a number from 1"):
        EverythingSettings(points_per_side=0)
    with pytest.raises(UserError, match="points_per_side=0 does not fit; use a number from 1"):
        TinySAM(asdict(SIZES["small"]), points_per_side=0)


def test_frontend_answers_requests(image):
    torch.manual_seed(0)
    frontend = TinySAM.of(Segmenter(SIZES["small"]), EverythingSettings(4, min_score=-9, min_stability=0)).eval()
    for request in ({}, {"points": [(3, 4)]}, {"points": [(3, 4), (9, 9)], "labels": [1, 0]}, {"box": (3, 4, 50, 60)}):
        findings = frontend.find(image, **request)
        assert findings.image.shape == image.shape
        assert json.loads(json.dumps(findings.records)) == findings.records
        assert len(findings.records) == 1 or request == {}
    with pytest.raises(UserError, match="point_per_side"):
        frontend.find(image, point_per_side=3)
    with pytest.raises(UserError, match="box, points together"):
        frontend.find(image, points=[(3, 4)], box=(3, 4, 50, 60))


class Reader:
    """Stands in for a TinyCLIP: the brightest crop fits every text best."""

    def score(self, crops, texts):
        return torch.tensor([[float(crop.mean())] for crop in crops]).expand(-1, len(texts))


@pytest.fixture
def scene(regions):
    """A front-end that knows the regions, and an image in which the third thing is the brightest."""
    frontend = TinySAM.of(Segmenter(SIZES["small"]), EverythingSettings(16, max_overlap=0.9))
    knowing = Knowing(regions)
    knowing.image_encoder = lambda images: torch.arange(64 * 256.0).view(1, 64, 16, 16)
    frontend.model = knowing
    image = (masks_of(regions)[3][..., None].numpy() * 200).repeat(3, -1).astype(np.uint8)
    return frontend, image


def test_what_a_policy_gets(scene):
    frontend, image = scene
    images = torch.tensor(image).permute(2, 0, 1)[None] / 255
    feature = frontend.adds((128, 128))["objects"]
    tokens = frontend.see(images, ["push it"])["objects"]
    assert tokens.shape == (1, *feature.shape) == (1, 8, 69)
    assert (tokens[0, 3:] == 0).all()  # three things; the table is none
    boxes = {tuple(round(value * 64) for value in token[:4].tolist()) for token in tokens[0, :3]}
    assert boxes == {(5, 5, 27, 27), (37, 37, 59, 59), (5, 30, 10, 34)}
    assert (tokens[0, :3, 4] == 0.95).all()
    assert ((tokens[0, :3, 5] > 0) & (tokens[0, :3, 5] < 256)).all()  # means of the first channel


def test_what_the_text_names(scene, regions):
    frontend, image = scene
    with pytest.raises(UserError, match="picker"):
        frontend.find(image, text="the bright one")
    frontend._picker = [Reader()]
    (record,) = frontend.find(image, text="the bright one").records
    assert record["bbox"] == [10, 60, 10, 8]
    frontend.options |= {"gives": "mask", "objects": 1}
    images = torch.tensor(image).permute(2, 0, 1)[None] / 255
    mask = frontend.see(images, ["the bright one"])["mask"]
    assert mask.shape == (1, *frontend.adds((128, 128))["mask"].shape)
    assert torch.equal(mask[0, 0] > 0, masks_of(regions)[3])


def test_a_policys_images_may_be_searched_by_a_coarser_grid(scene):
    frontend, image = scene
    images = torch.tensor(image).permute(2, 0, 1)[None] / 255

    def count_points(look):
        before = frontend.model.n_points
        look()
        return frontend.model.n_points - before

    fine = count_points(lambda: frontend.see(images, ["push it"]))
    frontend._search = TinySAM(frontend.options["model"], {"max_overlap": 0.9}, points_per_side=8)._search
    assert count_points(lambda: frontend.see(images, ["push it"])) < fine / 2
    assert (frontend.see(images, ["push it"])["objects"][0, 0] != 0).any()
    assert count_points(lambda: frontend.find(image)) == fine  # alone it looks as closely as before


def test_the_picker_goes_where_the_segmenter_goes(tmp_path):
    tiny_clip().save(tmp_path / "clip")
    picked = TinySAM(json.loads(json.dumps(asdict(SIZES["small"]))), picker=str(tmp_path / "clip"))
    picked.save(tmp_path / "sam")
    (tmp_path / "clip").rename(tmp_path / "elsewhere")
    loaded = load_frontend(tmp_path / "sam")
    assert loaded._picker[0].max_tokens == picked._picker[0].max_tokens
    assert str(tmp_path) not in (tmp_path / "sam" / "config.json").read_text()
    assert load_frontend(tmp_path / "sam", picker=None)._picker == []
