"""Training TinyCLIP: a teacher, its students, and how well they find captions."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from clips import TEXT, VISION, fake_scenes

from configs.composing import decode, load_config
from tinyvla.augment import AugmentConfig
from tinyvla.errors import UserError
from tinyvla.frontends.tinyclip import TinyCLIP
from tinyvla.frontends.tinyclip.metrics import make_galleries, recall_at_1, recalls
from tinyvla.frontends.tinyclip.training import TinyClipTask, TinyClipTrainable
from tinyvla.intervals import bootstrap_interval
from tinyvla.ranges import RangeError
from tinyvla.training import TrainerConfig

STUDENT = {"vision": {"layers": 1, "units": 24}, "text": {"layers": 1, "width": 12}}


@pytest.fixture(scope="module")
def data():
    return {"train": fake_scenes(2000), "validation": fake_scenes(60, seed=1), "test": fake_scenes(100, seed=2)}


TASK = decode(TinyClipTask, load_config("train", ["task=perception/tinyclip"]).task)
TRAINER = decode(TrainerConfig, load_config("train", ["task=perception/tinyclip"]).trainer)


def make_trainable(data, seed=0, trainer=None, **changes):
    settings = {"vision": VISION, "text": TEXT, "gallery": 10, "model": TASK.model | {"max_tokens": 24, "width": 20}}
    trainer = {"batch_size": 16, "steps": 20, "lr": 3e-3} | (trainer or {})
    return TinyClipTrainable(replace(TASK, **settings | changes), data, replace(TRAINER, **trainer), seed)


def fit(trainable, steps):
    """Training loop without checkpoints."""
    trainable.module.train()
    optimizer = trainable.make_optimizer(trainable.trainer.lr, trainable.trainer.weight_decay)
    losses = []
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=15)
    for step in range(steps):
        torch.manual_seed(step)
        trainable.phase()
        loss, _ = trainable.module(trainable.prepare(trainable.batch(step)))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable.module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def teacher(data, tmp_path_factory):
    trainable = make_trainable(data)
    fit(trainable, 3)
    folder = tmp_path_factory.mktemp("teacher")
    trainable.save(folder)
    return folder


def parameters(folder):
    return sum(p.numel() for p in TinyCLIP.from_pretrained(folder).parameters())


def test_a_model_learns_captions(data, tmp_path):
    settings = {
        "augment": AugmentConfig(0, 0, 0, 0),
        "trainer": {"batch_size": 32, "steps": 60, "lr": 3e-3, "weight_decay": 0.1},
    }
    trainable = make_trainable(data, **settings)
    assert trainable.evaluate()["score"] < 0.3
    losses = fit(trainable, 60)
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
    after = trainable.evaluate()
    assert after["score"] > 0.6
    assert {type(value) for value in after.values()} == {float}  # a checkpoint keeps it, and numpy's would not load
    assert after["score"] == pytest.approx((after["image_to_text"] + after["text_to_image"]) / 2)

    trainable.save(tmp_path)
    fresh = make_trainable(data, **settings)
    fresh.restore(tmp_path)
    assert fresh.evaluate() == pytest.approx(after)
    figure = fresh.test()["recall@1"]
    assert figure.ci95[0] < figure.value < figure.ci95[1]
    assert figure.n == 10 * len(make_galleries(data["test"].labels, 10))
    assert [image.shape for image in fresh.examples().values()] == [(32, 32, 3)] * 4


def test_batches_come_from_seed_and_step_alone(data):
    one, other, third = (make_trainable(data, seed) for seed in (0, 0, 1))
    first = one.batch(3)
    one.batch(4)
    for again in (one.batch(3), other.batch(3)):
        assert all(torch.equal(torch.as_tensor(first[key]), torch.as_tensor(again[key])) for key in first)
    assert not torch.equal(first["pixels"], third.batch(3)["pixels"])


@pytest.mark.parametrize("way", ["none", "manual"])
def test_a_student_begins_as_it_should(data, teacher, tmp_path, way):
    trainable = make_trainable(data, teacher=str(teacher), inherit=way, **STUDENT)
    weight = trainable.module.clip.text_model.embeddings.token_embedding.weight
    theirs = TinyCLIP.from_pretrained(teacher).clip.text_model.embeddings.token_embedding.weight
    assert torch.equal(weight, theirs[:, ::2]) == (way == "manual")
    fit(trainable, 2)
    trainable.save(tmp_path)
    assert parameters(tmp_path) < 0.6 * parameters(teacher)


def test_the_teacher_stays_as_it_is_and_outside(data, teacher):
    trainable = make_trainable(data, teacher=str(teacher), inherit="masks")
    before = copy.deepcopy(trainable.module._teacher[0].state_dict())
    fit(trainable, 2)
    assert all(torch.equal(before[key], value) for key, value in trainable.module._teacher[0].state_dict().items())
    inside = {id(p) for p in trainable.module.parameters()}
    assert not any(id(p) in inside for p in trainable.module._teacher[0].parameters())


def test_masks_end_in_a_smaller_model_that_finds_the_same(data, teacher, tmp_path):
    trainable = make_trainable(data, teacher=str(teacher), inherit="masks", keep=0.5, mask_lr=0.2)
    fit(trainable, 20)
    assert trainable.phase() == 8
    assert not trainable.module.masked.is_learning
    trainable.save(tmp_path / "own")
    trainable.save(tmp_path / "given", weights=trainable.module.state_dict())
    assert parameters(tmp_path / "own") <= 0.5 * parameters(teacher)
    expected = recalls(trainable.frontend, data["validation"].images, trainable._galleries)
    for name in ("own", "given"):
        loaded = TinyCLIP.from_pretrained(tmp_path / name)
        np.testing.assert_allclose(recalls(loaded, data["validation"].images, trainable._galleries), expected)


def test_a_resumed_run_follows_the_same_curve(data, teacher):
    whole, stopped, resumed = (make_trainable(data, teacher=str(teacher), inherit="masks") for _ in range(3))
    fit(stopped, 12)
    resumed.module.load_state_dict(copy.deepcopy(stopped.module.state_dict()))
    fit(whole, 12)
    for trainable in (whole, resumed):
        trainable.module.train()
        torch.manual_seed(12)
        trainable.last = trainable.module(trainable.batch(12))[0].item()
    assert whole.last == pytest.approx(resumed.last, rel=1e-5)


def test_a_later_stage_inherits_from_the_one_before(data, teacher, tmp_path):
    first = make_trainable(data, teacher=str(teacher), inherit="manual", vision=STUDENT["vision"], text=None)
    first.save(tmp_path / "stage")
    stages = {"teacher": str(teacher), "inherit": "manual", "inherit_from": str(tmp_path / "stage")}
    second = make_trainable(data, **stages, **STUDENT)
    fit(second, 1)
    assert len(second.module.clip.vision_model.encoder.layers) == 1


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"inherit": "manual"}, "nothing to inherit from"),
        ({"inherit": "everything"}, "use one of none, manual, masks"),
        ({"affinity": 2}, "from 0 to 1"),
        ({"teacher": "nowhere/at-all"}, "no CLIP could be loaded"),
        ({"vision": VISION | {"heads": 5}}, "width=32 must divide by task.vision.heads=5"),
        ({"gallery": 100}, "fill no gallery of 100"),
    ],
)
def test_options_that_do_not_go_together(data, changed, says):
    with pytest.raises((UserError, RangeError), match=says):
        make_trainable(data, **changed)


def test_in_a_gallery_a_caption_is_true_of_one_image():
    labels = fake_scenes(400).labels
    galleries = make_galleries(labels, 10)
    assert len(galleries) >= 30
    for numbers, captions in galleries:
        shown = [{thing["name"] for thing in labels[number]["objects"]} for number in numbers]
        assert not any(one <= other for i, one in enumerate(shown) for j, other in enumerate(shown) if i != j)
        assert all(text in labels[number]["captions"] for number, text in zip(numbers, captions, strict=True))
    everywhere = [number for numbers, _ in galleries for number in numbers]
    assert len(set(everywhere)) == len(everywhere)


def test_recall_counts_both_ways():
    images = torch.eye(4)
    texts = torch.tensor([[1.0, 0, 0, 0], [1, 0.5, 0, 0], [0, 0, 1, 0], [0, 0.9, 0, 1]])
    assert recall_at_1(images, texts) == (0.75, 0.75)
    assert recall_at_1(images, images) == (1, 1)


def test_intervals_cover_means_and_ratios():
    rng = np.random.default_rng(0)
    values = rng.normal(0.6, 0.1, 100)
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(4 * 0.1 / 10, rel=0.3)
    low, high = bootstrap_interval(np.stack([0.9 * values, values], axis=1))
    assert (low, high) == pytest.approx((0.9, 0.9))
