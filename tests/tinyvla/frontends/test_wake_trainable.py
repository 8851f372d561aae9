"""Training a person detector: what it draws, what it learns, what it saves."""

import numpy as np
import pytest
import torch
from wake_vision import write_wake_vision

from configs.composing import as_dict, decode, load_config
from tinyvla.frontends import load_frontend
from tinyvla.frontends.wake.dataset import WakeVisionImages
from tinyvla.frontends.wake.training import WakeTask, WakeTrainable
from tinyvla.training import TrainerConfig

OPTIONS = {
    "network": "mcunet", "width": 0.1, "image_size": 48, "false_alarms": 0.05,
    "dataset": {"split": None},
    "augment": {"shift": 2, "brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "noise": 0.02},
}  # fmt: skip
SIZES = {"train": 64, "validation": 40, "test": 40}


def rooms(count, seed=0):
    """Grey images; every second one has an upright bar."""
    rng = np.random.default_rng(seed)
    images = rng.integers(60, 120, (count, 64, 64, 3), dtype=np.uint8)
    labels = []
    for index, image in enumerate(images):
        person = index % 2
        if person:
            left = rng.integers(8, 48)
            image[20:60, left : left + 9] = (200, 150, 120)
        labels.append({"person": person, "distance": "near" if person else None, "lighting": "normal"})
    return WakeVisionImages(images, labels)


def make_trainable(options=OPTIONS, part=(0, 1), batch_size=16):
    images = {split: rooms(count, seed) for seed, (split, count) in enumerate(SIZES.items())}
    return WakeTrainable(decode(WakeTask, options, "task"), images, TrainerConfig(batch_size=batch_size), 0, part)


@pytest.fixture
def trainable():
    return make_trainable()


def test_batches_depend_on_seed_and_step_alone(trainable):
    batch = trainable.batch(3)
    assert batch["images"].shape == (16, 3, 48, 48)
    assert 0 <= batch["images"].min() < batch["images"].max() <= 1
    assert set(batch["person"].tolist()) == {0.0, 1.0}
    again = make_trainable()
    assert torch.equal(again.batch(3)["images"], batch["images"])
    assert not torch.equal(trainable.batch(4)["images"], batch["images"])


def test_processes_share_what_one_would_draw(trainable):
    whole = trainable.batch(1)["images"]
    plain = OPTIONS | {"augment": dict.fromkeys(OPTIONS["augment"], 0)}
    persons = make_trainable(plain).batch(1)["person"]
    halves = [make_trainable(plain, (index, 2), batch_size=8).batch(1) for index in range(2)]
    assert torch.cat([half["person"] for half in halves]).sum() == persons.sum()
    assert whole.shape == torch.cat([half["images"] for half in halves]).shape


def test_it_learns_and_is_saved(trainable, tmp_path):
    optimizer = trainable.make_optimizer(lr=3e-3, weight_decay=0.01)
    trainable.module.train()
    losses = []
    for step in range(60):
        loss, metrics = trainable.module(trainable.prepare(trainable.batch(step)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5])
    assert 0.7 < metrics["accuracy"] <= 1
    figures = trainable.evaluate()
    assert figures[trainable.measure] > 0.95
    assert {"accuracy", "f1", "recall_near"} < set(figures)
    assert trainable.module.training
    tested = trainable.test()
    assert next(iter(tested)) == trainable.score
    assert tested["F1, distance near"].n == 40
    assert tested["accuracy"].value > 0.9
    assert {caption: image.shape for caption, image in trainable.examples().items()} == {
        "nobody": (64, 64, 3), "near person": (64, 64, 3),
    }  # fmt: skip
    trainable.save(tmp_path / "saved")
    wake = load_frontend(tmp_path / "saved")
    validation = rooms(40, seed=1)
    probabilities = np.array([wake.probability(image) for image in validation.images])
    assert (probabilities[::2] >= wake.on).mean() <= 0.05  # of the empty ones
    assert (probabilities[1::2] >= wake.on).mean() > 0.8
    fresh = make_trainable()
    fresh.restore(tmp_path / "saved")
    assert fresh.evaluate() == figures
    assert fresh.wake.on == wake.on
    # Other weights than its own, by the names that the loop has for them.
    trainable.save(tmp_path / "zeros", {name: torch.zeros_like(v) for name, v in trainable.module.state_dict().items()})
    assert load_frontend(tmp_path / "zeros").probability(validation.images[0]) == 0.5


def test_it_learns_from_the_stream_too(tmp_path):
    copy = write_wake_vision(tmp_path / "Wake-Vision")
    data = {"split": "train_quality", "image_size": 64, "validation": 3, "test": None, "buffer": 8}
    task = decode(WakeTask, OPTIONS | {"dataset": data | {"source": str(copy)}}, "task")
    trainable = WakeTrainable(task, {}, TrainerConfig(batch_size=16))
    batch = trainable.batch(0)
    assert batch["images"].shape[1:] == (3, 48, 48)
    assert batch["person"].dtype == torch.float32
    trainable.module(batch)[0].backward()
    assert 0 <= trainable.evaluate()["score"] <= 1
    assert trainable.test()["accuracy"].n == 8


def test_the_configuration_has_what_it_takes():
    cfg = as_dict(load_config("train", ["task=perception/wake"]))
    task = cfg["task"]
    assert task["augment"].keys() == OPTIONS["augment"].keys()
    make_trainable(task, batch_size=2).batch(0)
    assert {"split", "image_size", "validation", "test", "source", "buffer"} == set(task["dataset"])
