"""Wake Vision as a stream, and the benchmark suite's scores."""

import io

import numpy as np
import pytest
from PIL import Image
from wake_vision import rows, write_wake_vision

from benchmarks.frontends.wake_analysis import leverage, quantisation_effect, sweep
from tinyvla.errors import UserError
from tinyvla.frontends.wake.dataset import COLUMNS, WakeVisionStream, _read, open_wake_vision, read_label, take
from tinyvla.frontends.wake.metrics import find_thresholds, score


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    return write_wake_vision(tmp_path_factory.mktemp("hub") / "Wake-Vision")


def test_images_and_labels_are_read(copy):
    subset = take("test", 16, source=copy)
    assert subset.images.shape == (8, 16, 16, 3)
    assert subset.images[0, 0, 0].tolist() == [5, 10, 0]
    assert [label["person"] for label in subset.labels] == [0, 1, 0, 1, 0, 1, 0, 1]
    assert subset.labels[0] == {
        "person": 0, "distance": None, "lighting": "dark", "depiction": "non_person", "gender": None, "age": None,
    }  # fmt: skip
    assert subset.labels[1]["distance"] == "far"
    assert len(take("test", 16, 3, copy)) == 3
    assert next(iter(open_wake_vision("train_quality", copy)))["near"] == -1
    assert read_label(rows(2, known=False)[1]) == {"person": 1} | dict.fromkeys(COLUMNS)


def test_the_middle_of_an_image_is_what_counts(tmp_path):
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255
    buffer = io.BytesIO()
    Image.fromarray(wide).save(buffer, "PNG")
    assert (_read({"person": 1, "image": {"bytes": buffer.getvalue()}}, 20) == 255).all()


def test_the_stream_is_the_same_again_and_goes_on_where_it_stopped(copy):
    def stream(seed=0):
        return WakeVisionStream("train_quality", 16, 5, seed, copy, buffer=8)

    first = stream()
    batches = [first.batch(step) for step in range(7)]  # one and a half times through
    assert batches[0][0].dtype == np.uint8
    assert batches[0][0].shape[1:] == (16, 16, 3)
    for images, persons in batches:
        assert 3 <= len(images) == len(persons) <= 5
        assert ((images[:, 0, 0, 0] > 100) == persons).all()
    for resumed, start in ((stream(), 0), (stream(), 5), (first, 2)):
        for step in range(start, 7):
            images, persons = resumed.batch(step)
            assert (images == batches[step][0]).all()
            assert (persons == batches[step][1]).all()
    assert not np.array_equal(stream(1).batch(0)[0], batches[0][0])


def test_what_cannot_be_read_is_one_line(copy, tmp_path):
    with pytest.raises(UserError, match="no split 'train'; choose train_quality, train_large"):
        open_wake_vision("train", copy)
    with pytest.raises(UserError, match="train_large cannot be read from"):
        open_wake_vision("train_large", copy)
    with pytest.raises(UserError, match=r"cannot be read from .*nowhere"):
        open_wake_vision("test", tmp_path / "nowhere")


def labelled(count=400):
    """Labels of images, and probabilities of a detector that misses half of the far people and falls for posters."""
    labels, probabilities = [], []
    for index in range(count):
        person = index % 2
        distance = ("near", "mid", "far")[index // 2 % 3] if person else None
        depiction = None if person else ("person", "non_person", "none")[index // 2 % 3]
        missed = distance == "far" and index % 4 == 1
        fooled = depiction == "person" and index % 4 == 0
        labels.append(
            {
                "person": person, "distance": distance, "depiction": depiction,
                "lighting": ("dark", "normal")[index // 2 % 2], "build": "slim" if person else None,
            }
        )  # fmt: skip
        probabilities.append(0.2 + 0.001 * index if (missed or not person) and not fooled else 0.7 + 0.0005 * index)
    return np.array(probabilities) % 1, labels


def test_scores_of_all_and_of_each_kind():
    probabilities, labels = labelled()
    probabilities = np.where(probabilities > 0.65, 0.9, 0.1)
    scores = score(probabilities, labels)
    person = np.array([label["person"] for label in labels], bool)
    assert scores["accuracy"] == pytest.approx(((probabilities > 0.5) == person).mean())
    assert scores["accuracy_ci95"][0] < scores["accuracy"] < scores["accuracy_ci95"][1]
    kinds = scores["kinds"]
    assert list(kinds) == ["distance", "lighting", "depiction", "build"]
    assert kinds["distance"]["near"]["recall"] > kinds["distance"]["far"]["recall"]
    assert kinds["depiction"]["person"]["false_alarms"] > kinds["depiction"]["none"]["false_alarms"]
    assert set(kinds["lighting"]) == {"dark", "normal"}  # there is none that is bright
    far = kinds["distance"]["far"]
    assert far["empty"] == 200
    assert far["f1"] == pytest.approx(2 * far["recall"] / (2 * far["recall"] + far["false_alarms"] + 1 - far["recall"]))
    assert far["f1_ci95"][0] < far["f1"] < far["f1_ci95"][1]
    assert score(probabilities, labels) == scores


def test_the_area_under_the_roc_curve():
    probabilities = np.array([0.1, 0.4, 0.35, 0.8])
    labels = [{"person": person} for person in (0, 0, 1, 1)]
    assert score(probabilities, labels)["auroc"] == 0.75  # as in scikit-learn's manual
    assert score(np.full(4, 0.5), labels)["auroc"] == 0.5
    scores = score(probabilities[:2], labels[:2])
    assert (scores["auroc"], scores["recall"], scores["f1"], scores["kinds"]) == (None, None, None, {})
    assert score(np.zeros(0), [])["accuracy"] is None


def test_thresholds_keep_to_the_share_of_false_alarms():
    rng = np.random.default_rng(0)
    empty, people = rng.beta(1, 8, 1000), rng.beta(8, 1, 1000)
    both = np.concatenate([empty, people]).astype(np.float32)
    on, off = find_thresholds(both, np.repeat([0, 1], 1000), 0.01)
    assert off < on
    assert (empty >= on).mean() <= 0.01 < (empty >= on - 0.05).mean()
    assert (empty >= off).mean() <= 0.05
    assert find_thresholds(np.array([0.9]), np.array([1])) == (0.5, 0.3)
    assert find_thresholds(np.ones(3), np.zeros(3)) == (1.0, 1.0)


class Fake:
    """A trained network of a width and size: sees near people always, far ones by its size."""

    def __init__(self, width, size):
        self.width, self.size = width, size


def test_sweeps_and_what_matters_more(monkeypatch):
    labels = [{"person": 1, "distance": distance} for distance in ("near", "far")] * 64 + [{"person": 0}] * 64
    test = type("Test", (), {"images": np.arange(len(labels)), "labels": labels})

    def fake_predict(wake, images):
        probabilities = np.array([label["person"] for label in labels], float)
        far = [index for index, label in enumerate(labels) if label.get("distance") == "far"]
        missed = {48: 48, 96: 32, 192: 16}[wake.size] - (8 if wake.width == 1.0 else 0)  # of 64
        probabilities[far[:missed]] = 0
        return probabilities

    monkeypatch.setattr("benchmarks.frontends.wake_analysis.predict", fake_predict)
    sweep_rows = sweep(Fake, (0.5, 1.0), (48, 96, 192), test)
    assert [(row["width"], row["image_size"]) for row in sweep_rows[:3]] == [(0.5, 48), (0.5, 96), (0.5, 192)]
    assert sweep_rows[0]["distance"] == {"near": {"f1": 1.0, "auroc": 1.0}, "far": {"f1": 0.4, "auroc": 0.625}}
    assert leverage(sweep_rows) == pytest.approx({"image_size": 12.5, "width": 6.25})  # each missed one is a draw
    assert leverage(sweep_rows, "near") == pytest.approx({"image_size": 0.0, "width": 0.0}, abs=1e-9)


def test_the_effect_of_quantisation():
    import copy

    import torch

    from tinyvla.frontends.wake import Wake

    torch.manual_seed(0)
    wake = Wake(width=0.1, image_size=48).eval()
    test = type(
        "Test", (), {"images": np.zeros((4, 48, 48, 3), np.uint8), "labels": [{"person": i % 2} for i in range(4)]}
    )

    def shift_bias(module, batches):
        assert len(batches) == 1
        changed = copy.deepcopy(module)
        changed.network.classifier[-1].bias.data += 100
        return changed

    effect = quantisation_effect(wake, shift_bias, [torch.zeros(1, 3, 48, 48)], test)
    assert effect["quantised"]["recall"] == 1.0
    assert effect["largest_difference"] > 0.3
    assert effect["changed"] in (0.0, 1.0)
    assert effect["float"]["images"] == 4
