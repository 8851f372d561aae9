"""Augmentation: what moves, what stays together, and what no augmentation may do to an image."""

import pytest
import torch

from tinyvla.augment import AugmentConfig, augment_images, random_colour, random_noise, random_shift

NONE = AugmentConfig(shift=0, brightness=0, contrast=0, saturation=0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def distinct_images(*shape):
    """Images whose every pixel has a value of its own."""
    size = torch.Size(shape).numel()
    return torch.randperm(size, generator=seeded()).view(shape).float() / size


def test_a_shift_moves_whole_images_by_whole_pixels():
    images = distinct_images(32, 3, 9, 7)
    shifted = random_shift(images, 2, seeded())
    assert shifted.shape == images.shape
    offsets = set()
    for before, after in zip(images, shifted, strict=True):
        bordered = torch.nn.functional.pad(before[None], (2, 2, 2, 2), mode="replicate")[0]
        places = [(y, x) for y in range(5) for x in range(5) if bordered[:, y : y + 9, x : x + 7].equal(after)]
        assert len(places) == 1
        offsets.add(places[0])
    assert {y for y, _ in offsets} == {x for _, x in offsets} == {0, 1, 2, 3, 4}
    assert len(offsets) > 10  # rows and columns move independently


def test_time_steps_of_a_sample_move_and_change_colour_together():
    images = distinct_images(8, 1, 3, 6, 6).expand(-1, 4, -1, -1, -1)
    changed = augment_images(images, AugmentConfig(shift=2, brightness=0.3, contrast=0.3, saturation=0.3), seeded())
    assert changed.shape == images.shape
    torch.testing.assert_close(changed, changed[:, :1].expand_as(changed))
    assert not torch.allclose(changed, images)


def test_nothing_to_do_returns_the_images_themselves():
    images = distinct_images(2, 3, 4, 4)
    assert augment_images(images, NONE) is images


@pytest.mark.parametrize("kind", ["brightness", "contrast", "saturation"])
def test_colours_stay_in_range_and_differ_between_samples(kind):
    images = distinct_images(1, 3, 5, 5).expand(16, -1, -1, -1)
    changed = random_colour(
        images, **{"brightness": 0, "contrast": 0, "saturation": 0} | {kind: 0.8}, generator=seeded()
    )
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert len({round(float(image.std()), 6) for image in changed}) == 16


def test_what_each_colour_change_keeps():
    images = distinct_images(4, 3, 5, 5) * 0.2 + 0.4  # far from 0 and 1, so that nothing is cut
    brighter = random_colour(images, 0.2, 0, 0, seeded())
    factors = brighter / images
    torch.testing.assert_close(factors, factors[:, :1, :1, :1].expand_as(factors))
    assert ((factors > 0.8) & (factors < 1.2)).all()
    contrast = random_colour(images, 0, 0.2, 0, seeded())
    torch.testing.assert_close(contrast.mean((1, 2, 3)), images.mean((1, 2, 3)))
    saturation = random_colour(images, 0, 0, 0.2, seeded())
    torch.testing.assert_close(saturation.mean(1), images.mean(1))


def test_draws_follow_the_generator_or_the_global_seed():
    images, options = distinct_images(4, 3, 8, 8), AugmentConfig(shift=2, brightness=0.1, contrast=0.1, saturation=0.1)
    first = augment_images(images, options, seeded(1))
    assert torch.equal(first, augment_images(images, options, seeded(1)))
    assert not torch.equal(first, augment_images(images, options, seeded(2)))
    torch.manual_seed(1)
    assert torch.equal(first, augment_images(images, options))


def test_noise_is_as_strong_as_each_sample_draws():
    images = torch.full((64, 3, 16, 16), 0.5)
    noisy = random_noise(images, 0.05, seeded())
    deviations = (noisy - images).flatten(1).std(1)
    assert 0 < deviations.min() < 0.01
    assert 0.04 < deviations.max() < 0.055
    assert (noisy - images).mean().abs() < 1e-3
    dark = random_noise(torch.zeros(4, 3, 8, 8), 0.05, seeded())
    assert dark.min() == 0 < dark.max()
    batch_parts = [random_noise(part, 0.05, seeded(), (index, 4)) for index, part in enumerate(images.chunk(4))]
    assert torch.equal(torch.cat(batch_parts), noisy)
    assert random_noise(images, 0) is images
