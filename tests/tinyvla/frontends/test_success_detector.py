"""The success detector: calibration, thresholds and what it refuses."""

import json

import numpy as np
import pytest
import torch
from clips import fake_scenes, tiny_clip

from tinyvla.errors import UserError
from tinyvla.frontends.tinyclip import SuccessDetector
from tinyvla.frontends.tinyclip.success_detector import choose_threshold, fit_logistic, rates


@pytest.fixture(scope="module")
def clip():
    return tiny_clip()


@pytest.fixture
def detector(clip, monkeypatch):
    """Detector whose score of an image is its brightness."""

    def score(images, texts):
        bright = torch.tensor([float(image.mean()) / 25 for image in images])
        return torch.stack([bright, torch.zeros(len(bright))], dim=1)[:, : len(texts)]

    monkeypatch.setattr(clip, "score", score)
    return SuccessDetector(clip, "the drawer is open", "the drawer is closed")


def make_images(count, seed=0):
    """Images, and whether the statement is true of them: a logistic function of the brightness, centred at 120."""
    rng = np.random.default_rng(seed)
    levels = rng.uniform(60, 180, count)
    truth = rng.random(count) < 1 / (1 + np.exp(-(levels - 120) / 10))
    return [np.full((8, 8, 3), level, np.uint8) for level in levels], truth


def test_probabilities_are_calibrated(detector):
    detector.calibrate(*make_images(2000))
    assert detector.calibration.temperature == pytest.approx(10 / 25, rel=0.15)
    assert detector.calibration.offset == pytest.approx(120 / 25, rel=0.03)
    images, truth = make_images(2000, seed=1)
    said = detector.probability(images)
    for low in (0.1, 0.4, 0.7):
        inside = (said > low) & (said < low + 0.2)
        assert truth[inside].mean() == pytest.approx(said[inside].mean(), abs=0.1)


def test_the_threshold_keeps_to_the_wanted_rate(detector):
    images, truth = make_images(1000)
    strict = detector.calibrate(images, truth, false_positive_rate=0.02).calibration
    assert 0 < strict.false_positive_rate <= 0.02
    assert strict.recall > 0.3
    fresh_images, fresh_truth = make_images(2000, seed=1)
    assert detector(fresh_images)[~fresh_truth].mean() < 0.05
    best = detector.calibrate(images, truth).calibration
    assert best.threshold < strict.threshold
    assert best.f1 > strict.f1


def test_the_best_f1_is_the_best_of_all_thresholds():
    rng = np.random.default_rng(0)
    true = rng.random(60) < 0.3
    said = np.round(np.clip(0.3 * true + rng.random(60) * 0.7, 0, 1), 2)
    bar = choose_threshold(said, true, None)
    best = max(rates(said >= threshold, true)["f1"] for threshold in np.linspace(0, 1.01, 400))
    assert rates(said >= bar, true)["f1"] == pytest.approx(best)


def test_separable_scores_have_a_fit():
    slope, shift = fit_logistic(np.array([1.0, 1.1, 3.0, 3.2]), np.array([False, False, True, True]))
    assert 0 < slope < 10
    assert -shift / slope == pytest.approx(2.07, abs=0.15)


def test_no_false_alarm_at_all_can_be_asked_for():
    said, true = np.array([0.2, 0.9, 0.9, 0.5]), np.array([False, False, True, True])
    assert not (said >= choose_threshold(said, true, 0.0))[~true].any()


def test_it_is_saved_beside_the_weights(clip, tmp_path):
    scenes = fake_scenes(40)
    likes = clip.score(scenes.images, ["a red disc"])[:, 0].numpy()
    detector = SuccessDetector(clip, "a red disc").calibrate(scenes.images, likes > np.median(likes))
    assert detector.calibration.f1 == 1
    detector.save(tmp_path)
    loaded = SuccessDetector.load(tmp_path)
    np.testing.assert_allclose(loaded.probability(scenes.images), detector.probability(scenes.images), atol=1e-5)
    np.testing.assert_array_equal(loaded(scenes.images), likes > np.median(likes))
    assert json.loads((tmp_path / "detector.json").read_text())["statement"] == "a red disc"


def test_what_it_refuses(detector, clip, tmp_path):
    images, truth = make_images(50)
    with pytest.raises(UserError, match="is not calibrated"):
        detector(images)
    with pytest.raises(UserError, match="at least two images of success"):
        detector.calibrate(images, np.ones(50, bool))
    with pytest.raises(UserError, match="do not fit 'the drawer is open' any better"):
        detector.calibrate(images, ~truth)
    with pytest.raises(UserError, match="text 1 of 1 is empty"):
        SuccessDetector(clip, "")
    with pytest.raises(UserError, match="no complete detector"):
        SuccessDetector.load(tmp_path)
