"""Everything mode on images of any shape, with a decoder that knows the right logits.

The expected numbers are those of the authors' TinySAM (commit 11589bc of xinghaochen/TinySAM) with the same decoder.
"""

import numpy as np
import pytest
import torch
from torch import nn

from tinyvla.frontends.tinysam import EverythingSettings, TinySAMConfig, encode_image, everything, segment_everything
from tinyvla.frontends.tinysam.everything import dense_grid, grid
from tinyvla.frontends.tinysam.prompts import to_image_size

CONFIG = TinySAMConfig(image_size=256)
SIDE = 4 * CONFIG.embedding_side  # cells of a mask
CERTAIN, UNDECIDED = 10.0, 0.5  # logits


class Oracle(nn.Module):
    """Decoder that knows the objects of an image: discs on a background.

    A point gets the mask of the disc that it lies in, or of the background, which is undecided in the padding, and as a
    trap the mask of the padding. All points are collected.

    Args:
        size: height and width of the image.
        discs: (N, 3), x, y and radius in pixels of the image.
        nearest: a point gets the nearest disc, wherever it lies.
    """

    def __init__(self, size, discs, nearest=False):
        super().__init__()
        scale = CONFIG.image_size / max(size)
        self.discs, self.nearest = torch.tensor(discs) * scale, nearest
        self.height, self.width = (int(side * scale + 0.5) for side in size)
        self.config, self.points = CONFIG, []
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        line = (torch.arange(SIDE) + 0.5) * CONFIG.image_size / SIDE
        cells = torch.cartesian_prod(line, line).flip(1)
        self.labels = self._labels_of(cells, nearest=False).view(SIDE, SIDE)
        beyond = (cells - torch.tensor([self.width, self.height])).amax(1).view(SIDE, SIDE)  # pixels of the square
        self.padded, self.far = beyond >= 0, beyond >= CONFIG.image_size / SIDE

    def _labels_of(self, places, nearest):
        """Number of the disc at each place (N, 2) in pixels of the square, from 1; 0 on the background."""
        gaps = (places[:, None] - self.discs[:, :2]).norm(dim=-1) - self.discs[:, 2]
        gap, disc = gaps.min(1)
        return torch.where((gap <= 0) | torch.tensor(nearest), disc + 1, 0)

    def answer(self, points):
        """Logits (P, 2, SIDE, SIDE) and scores (P, 2) for points (P, 2) in pixels of the square."""
        self.points.append(points)
        labels = self._labels_of(points, self.nearest)
        objects = torch.where(labels[:, None, None] == self.labels, CERTAIN, -CERTAIN)
        around = torch.where(labels == 0, UNDECIDED, -CERTAIN)[:, None, None]
        objects = torch.where(self.padded, around, objects)
        trap = torch.where(self.far, CERTAIN, -CERTAIN).expand_as(objects)
        scores = torch.stack([0.9 + 0.001 * labels, torch.full(labels.shape, 0.95)], dim=1)
        return torch.stack([objects, trap], dim=1), scores

    def normalise(self, images):
        return images

    def image_encoder(self, images):
        return torch.zeros(1, 1, CONFIG.embedding_side, CONFIG.embedding_side)

    def decode(self, embeddings, points=None, labels=None, boxes=None):
        logits, scores = self.answer(points[0, :, 0])
        return logits[None], scores[None]


def discs_of(size):
    """25 discs (25, 3) on five rows and columns, with radii from 1% to 10% of the shorter side of an image."""
    height, width = size
    x, y = (((np.arange(5) + 0.5) * side / 5).astype(np.float32) for side in (width, height))
    radii = np.linspace(0.01, 0.1, 25, dtype=np.float32) * min(size)
    return np.column_stack([np.repeat(x, 5), np.tile(y, 5), np.random.default_rng(0).permutation(radii)])


def segment(oracle, size, settings):
    """Masks of a grey image, and the points that were decoded, (N, 2)."""
    encoded = encode_image(oracle, np.zeros((*size, 3), np.uint8))
    assert encoded.fitted == (oracle.height, oracle.width)
    masks = segment_everything(oracle, encoded, settings)
    return masks, torch.cat(oracle.points)


def backgrounds(masks):
    """Number of masks whose box is the image."""
    height, width = masks.masks.shape[1:]
    return int((masks.boxes == torch.tensor([0, 0, width, height])).all(1).sum())


# Size -> points that the authors' generator decodes, and masks that it finds, the background among them.
FOUND = {
    (256, 256): (259, 12),
    (192, 256): (269, 8),
    (144, 256): (314, 3),
    (256, 192): (255, 9),
    (256, 144): (314, 3),
    (151, 203): (335, 5),
    (216, 384): (289, 15),
    (97, 512): (248, 1),
}


@pytest.mark.parametrize("size", FOUND, ids=str)
def test_undecided_padding_changes_nothing(size):
    masks, points = segment(Oracle(size, discs_of(size)), size, EverythingSettings())
    assert (len(points), len(masks)) == FOUND[size]
    assert backgrounds(masks) == 1
    assert masks.masks.flatten(1).any(1).all()  # the mask of the padding is none


STABLE = {(256, 256): 11, (192, 256): 7, (144, 256): 2, (256, 144): 2, (216, 384): 14}


@pytest.mark.parametrize("size", STABLE, ids=str)
def test_small_discs_are_judged_at_the_size_of_the_image(size):
    """The edge of a disc is a ramp there, which is a large part of a small one."""
    oracle = Oracle(size, discs_of(size), nearest=True)
    masks, _ = segment(oracle, size, EverythingSettings(16))
    assert len(masks) == STABLE[size]


# Size, points per side -> points of both grids.
GRIDS = {
    ((512, 512), 32): 31 * 31,
    ((384, 512), 32): 31 * 31,
    ((375, 500), 32): 32 * 32,
    ((720, 1280), 32): 31 * 32,
    ((100, 131), 18): 16 * 16,
    ((128, 128), 16): 15 * 15,
}


@pytest.mark.parametrize(("size", "per_side"), GRIDS, ids=str)
def test_grids_have_the_points_of_the_released_tinysam(size, per_side):
    sparse = grid(size, per_side // 4)
    points = torch.cat([sparse, dense_grid(sparse, size, per_side)])
    assert len(points) == len(points.unique(dim=0)) == GRIDS[size, per_side]
    assert (points >= 0).all()
    assert (points < torch.tensor(size).flip(0)).all()


def test_a_step_of_the_dense_grid_is_a_whole_number_of_pixels():
    sparse = grid((90, 120), 1)
    assert sparse.tolist() == [[60, 45]]
    points = {tuple(point) for point in dense_grid(sparse, (90, 120), 4).tolist()}
    assert points == {(x, y) for x in (30, 60, 90) for y in (23, 45, 67, 89)} - {(60, 45)}


def test_an_image_narrower_than_the_grid_has_no_point_twice():
    sparse = grid((300, 9), 8)
    points = torch.cat([sparse, dense_grid(sparse, (300, 9), 32)])
    assert len(points.unique(dim=0)) == len(points) == 8 * 32


def test_points_are_those_of_the_image():
    size = (384, 768)
    _, points = segment(Oracle(size, discs_of(size)), size, EverythingSettings(4, hierarchical=False))
    assert points[0].tolist() == pytest.approx([32, 16])  # (96, 48) in the image
    assert points[-1].tolist() == pytest.approx([224, 112])


@pytest.mark.parametrize("masks_at_once", [1, 3])
def test_masks_are_resized_in_batches(masks_at_once, monkeypatch):
    size = (192, 256)
    expected, _ = segment(Oracle(size, discs_of(size)), size, EverythingSettings(16))
    batch_sizes = []

    def resize(segmenter, encoded, logits):
        batch_sizes.append(len(logits))
        return to_image_size(segmenter, encoded, logits)

    monkeypatch.setattr(everything, "to_image_size", resize)
    monkeypatch.setattr(everything, "RESIZED_PIXELS", masks_at_once * CONFIG.image_size**2)
    masks, _ = segment(Oracle(size, discs_of(size)), size, EverythingSettings(16))
    assert max(batch_sizes) == masks_at_once
    assert torch.equal(masks.masks, expected.masks)
    assert torch.equal(masks.scores, expected.scores)
