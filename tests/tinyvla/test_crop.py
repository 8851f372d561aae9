"""Crops and rotations of images against torchvision, and against the formulas of the released TinyVLA."""

import math

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from tinyvla.crop import centre_crop, random_crop, rotate
from tinyvla.training.distributed import DrawsOfWholeBatch

RATIO, DEGREES = 0.95, 5.0


def images_of(samples, height, width, cameras=2):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(samples, cameras, 3, height, width, generator=generator)


def released_crop(frames, ratio=RATIO):
    """The middle of frames (..., H, W) as the released evaluation cuts it."""
    height, width = frames.shape[-2:]
    rows, columns = (slice(int(side * (1 - ratio) / 2), int(side * (1 + ratio) / 2)) for side in (height, width))
    return v2.Resize((height, width), antialias=True)(frames[..., rows, columns])


@pytest.mark.parametrize("size", [(180, 320), (320, 320), (96, 96), (48, 64)])
def test_the_middle_is_that_of_the_released_evaluation(size):
    images = images_of(2, *size)
    expected = torch.stack([released_crop(sample) for sample in images])
    torch.testing.assert_close(centre_crop(images, RATIO), expected)


@pytest.mark.parametrize("size", [(40, 40), (36, 64)])
def test_a_random_crop_is_torchvisions_crop_and_rotation_with_the_same_draws(size):
    images, (height, width) = images_of(6, *size), size
    torch.manual_seed(3)
    cropped = random_crop(images, RATIO, DEGREES)
    torch.manual_seed(3)
    draws = torch.rand(len(images), 3).tolist()
    sides = int(height * RATIO), int(width * RATIO)
    for sample, result, (row, column, angle) in zip(images, cropped, draws, strict=True):
        top, left = int(row * (height - sides[0] + 1)), int(column * (width - sides[1] + 1))
        expected = reference.resized_crop(sample, top, left, *sides, list(size), antialias=True)
        expected = reference.rotate(expected, (2 * angle - 1) * DEGREES)
        different = (result - expected).abs().amax((0, 1)) > 1e-5
        assert different.float().mean() < 0.01  # a pixel on the line between two may be either


def test_places_and_angles_reach_both_ends():
    ramp = torch.arange(20.0).expand(1, 1, 3, 20, 20)  # every column has its number
    torch.manual_seed(0)
    crops = random_crop(ramp.expand(400, -1, -1, -1, -1), 0.9)
    left = crops[:, 0, 0, 10, 0]
    assert left.min() < 0.5
    assert left.max() > 1.5
    torch.manual_seed(0)
    angles = (random_crop(torch.ones(400, 1, 3, 40, 40), 1.0, 10.0) == 0).flatten(1).sum(1)  # black corners
    assert angles.min() == 0
    assert angles.max() > 60


def test_a_rotation_is_about_the_middle_by_the_angle_in_every_shape():
    image = torch.zeros(1, 1, 3, 41, 81)
    image[..., 20, 60] = 1  # 20 pixels to the right of the middle
    rotated = rotate(image, torch.tensor([math.radians(90)]))[0, 0, 0]
    (place,) = rotated.nonzero().tolist()
    assert place in ([0, 40], [40, 40])


def test_cameras_of_a_sample_move_together_and_samples_differ():
    torch.manual_seed(0)
    cropped = random_crop(images_of(1, 40, 40, cameras=1).expand(8, 3, -1, -1, -1), RATIO, DEGREES)
    torch.testing.assert_close(cropped, cropped[:, :1].expand_as(cropped))
    assert len({float(sample.sum()) for sample in cropped}) == 8


def test_without_a_crop_nothing_is_drawn_or_changed():
    images = images_of(2, 8, 8)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    assert random_crop(images, 1.0) is images
    assert torch.equal(centre_crop(images, 1.0), images)
    assert torch.equal(torch.rand(1), expected)


def test_parts_of_a_batch_are_cropped_as_in_the_whole():
    images = images_of(8, 24, 24)
    torch.manual_seed(2)
    whole, batch_parts = random_crop(images, 0.8, 20.0), []
    for index, part in enumerate(images.chunk(2)):
        torch.manual_seed(2)
        with DrawsOfWholeBatch(4, index, 2):
            batch_parts.append(random_crop(part, 0.8, 20.0))
    assert torch.equal(torch.cat(batch_parts), whole)


def test_bf16_arithmetic_moves_no_pixel():
    images, angles = images_of(2, 64, 64), torch.tensor([0.05, -0.08])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rotated = rotate(images, angles)
    assert torch.equal(rotated, rotate(images, angles))
