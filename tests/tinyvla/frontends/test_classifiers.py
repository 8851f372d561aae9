"""Classifiers of images: what they learn from, how they are trained, and how a student learns from stored answers."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from configs.composing import as_dict, decode, load_config
from tinyvla.encoders import Classifier
from tinyvla.errors import UserError
from tinyvla.frontends.cct.training import CctTrainable
from tinyvla.frontends.classification_images import cut_objects, digits, load_classification_images
from tinyvla.frontends.tinyvit.training import TinyVitTrainable
from tinyvla.frontends.training import decode_task
from tinyvla.training import TrainerConfig

SIDE = 64
CATEGORIES = {"disc": (200, 30, 30), "square": (30, 30, 200), "bar": (30, 200, 30)}


def make_scenes(count, seed):
    """Grey tables with a coloured shape or two; what is behind the object tells nothing."""
    rng, images, labels = np.random.default_rng(seed), [], []
    for _ in range(count):
        image, objects = np.full((SIDE, SIDE, 3), rng.integers(60, 200), np.uint8), []
        for left in (4, 36):
            name = str(rng.choice(list(CATEGORIES)))
            half, (x, y) = int(rng.integers(6, 11)), (left + 12, int(rng.integers(16, 48)))
            rows, columns = np.mgrid[:SIDE, :SIDE]
            inside = (abs(columns - x) <= half) & (abs(rows - y) <= (half // 3 if name == "bar" else half))
            if name == "disc":
                inside = (columns - x) ** 2 + (rows - y) ** 2 <= half**2
            image[inside] = CATEGORIES[name]
            box = [columns[inside].min(), rows[inside].min(), columns[inside].max() + 1, rows[inside].max() + 1]
            objects.append({"category": name, "box": [int(value) for value in box], "pixels": int(inside.sum())})
        images.append(image)
        labels.append({"objects": objects})
    return SimpleNamespace(images=np.array(images), labels=labels)


@pytest.fixture(scope="module")
def scenes():
    return {split: make_scenes(30, seed) for seed, split in enumerate(("train", "validation", "test"))}


def options(task, *settings):
    small = ("task.model=cct_2_3x2", "task.image_size=16", "trainer.batch_size=16")
    cfg = load_config("train", [f"task=perception/{task}", *small, *settings])
    trainer = decode(TrainerConfig, cfg.trainer)
    return decode_task(as_dict(cfg.task)), trainer


def cct(scenes, *settings, seed=0, part=(0, 1)):
    task, trainer = options("cct", *settings)
    return CctTrainable(task, scenes, trainer, seed, part)


def student(settings, scenes):
    task, trainer = settings
    return TinyVitTrainable(task, scenes, trainer)


def train(trainable, steps, start=0, lr=2e-3):
    torch.set_num_threads(1)
    optimizer = trainable.make_optimizer(lr, weight_decay=0.0)
    trainable.module.train()
    trainable.start(start)
    for step in range(start, start + steps):
        loss, _ = trainable.module(trainable.prepare(trainable.batch(step)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


class TestImages:
    def test_objects_are_cut_out(self, scenes):
        images = cut_objects(scenes["train"], side=32)
        assert images.classes == ["bar", "disc", "square"]
        assert len(images) == 60
        for number in range(len(images)):
            image, colour = images[number], CATEGORIES[images.classes[images.labels[number]]]
            assert (image.shape, image.dtype) == ((3, 32, 32), torch.uint8)
            assert (image[:, 16, 16] - torch.tensor(colour)).abs().max() <= 2

    def test_classes_are_those_of_training(self, scenes):
        assert set(cut_objects(scenes["test"], ["disc", "bar"]).labels) == {0, 1}
        with pytest.raises(UserError, match="fewer than two categories"):
            cut_objects(make_scenes(2, 0))

    def test_digits(self):
        splits = [digits(split) for split in ("train", "validation", "test")]
        assert sum(map(len, splits)) == 1797
        assert all(set(split.labels) == set(range(10)) for split in splits)
        assert len({split.checksum for split in splits}) == 3
        assert splits[0].images.max() == 255

    def test_folders(self, tmp_path):
        for split in ("train", "validation"):
            for name, colour in (("cat", 40), ("dog", 200)):
                (tmp_path / split / name).mkdir(parents=True)
                Image.new("L", (20, 12), colour).save(tmp_path / split / name / "grey.png")
        images = load_classification_images(str(tmp_path), "train")
        assert (images.classes, images.labels.tolist()) == (["cat", "dog"], [0, 1])
        assert images[1].shape == (3, 12, 20)
        assert images[1].min() == 200
        checksum = images.checksum
        Image.new("RGB", (30, 12)).save(tmp_path / "train/dog/more.png")
        assert load_classification_images(str(tmp_path), "train").checksum != checksum
        (tmp_path / "train/dog/more.png").write_bytes(b"no image")
        with pytest.raises(UserError, match="cannot be read"):
            load_classification_images(str(tmp_path), "train")[2]
        (tmp_path / "validation/fox").mkdir()
        Image.new("RGB", (30, 12)).save(tmp_path / "validation/fox/one.png")
        with pytest.raises(UserError, match="other classes than"):
            load_classification_images(str(tmp_path), "validation", classes=["cat", "dog"])
        with pytest.raises(UserError, match="holds no images"):
            load_classification_images(str(tmp_path / "nowhere"), "train")


class TestClassification:
    def test_it_learns(self, scenes, tmp_path):
        trainable = cct(scenes)
        before = trainable.evaluate()["score"]
        train(trainable, 40)
        after = trainable.evaluate()["score"]
        assert after > max(0.8, before)
        accuracy = trainable.test()["accuracy"]
        assert accuracy.n == 60
        assert accuracy.ci95[0] < accuracy.value <= accuracy.ci95[1]
        assert len(trainable.examples()) == 12
        trainable.save(tmp_path, trainable.module.state_dict())
        assert Classifier.load(tmp_path).classes == ["bar", "disc", "square"]
        fresh = cct(scenes, seed=1)
        fresh.restore(tmp_path)
        assert fresh.evaluate()["score"] == after

    @pytest.mark.parametrize("workers", [0, 1])
    def test_batches_come_from_seed_and_step(self, scenes, workers):
        trainable = cct(scenes)
        trainable.start(0)
        whole = [trainable.batch(step) for step in range(6)]
        resumed = cct(scenes, f"task.workers={workers}")
        resumed.start(4)
        for step in (4, 5):
            assert torch.equal(resumed.batch(step)["images"], whole[step]["images"])
        assert not torch.equal(whole[0]["images"], whole[4]["images"])

    def test_processes_share_a_step(self, scenes):
        def batches(batch_size, part):
            trainable = cct(scenes, f"trainer.batch_size={batch_size}", part=part)
            trainable.start(3)
            return [trainable.batch(step)["images"] for step in (3, 4)]

        halves = [batches(8, (rank, 2)) for rank in range(2)]
        for whole, *shares in zip(batches(16, (0, 1)), *halves, strict=True):
            assert torch.equal(whole, torch.cat(shares))

    def test_every_epoch_has_every_image(self, scenes):
        trainable = cct(scenes, "trainer.batch_size=20")
        trainable.start(0)
        labels = torch.cat([trainable.batch(step)["labels"] for step in range(3)])
        assert sorted(labels.tolist()) == sorted(trainable.train_images.labels.tolist())


class TestDistillation:
    @pytest.fixture(scope="class")
    def teacher(self, scenes, tmp_path_factory):
        trainable = cct(scenes)
        train(trainable, 40)
        folder = tmp_path_factory.mktemp("teacher")
        trainable.save(folder)
        return folder

    def settings(self, teacher, folder, *more):
        overrides = (
            f"task.teacher={teacher}",
            f"task.store={folder}/logits",
            "task.k=2",
            "task.epochs=4",
            "task.check=4",
        )
        return options("tinyvit", *overrides, *more)

    def test_a_student_of_stored_answers(self, scenes, teacher, tmp_path, monkeypatch):
        trainable = student(self.settings(teacher, tmp_path), scenes)
        assert trainable.store.epochs(whole=True) == [0, 1, 2, 3]
        train(trainable, 40)
        assert trainable.evaluate()["score"] > 0.8
        # Once its answers are stored, the teacher is not used again.
        monkeypatch.setattr("tinyvla.frontends.tinyvit.training.load_teacher", None)
        again = student(self.settings(teacher, tmp_path, "task.check=0"), scenes)
        again.start(2)
        assert set(again.batch(2)) == {"images", "values", "indices"}
        assert not [name for name, _ in again.module.named_parameters() if "teacher" in name]

    def test_a_student_of_the_live_teacher(self, scenes, teacher, tmp_path):
        trainable = student(self.settings(teacher, tmp_path, "task.online=true"), scenes)
        before = {name: weight.clone() for name, weight in trainable.module._teacher.network.state_dict().items()}
        train(trainable, 40)
        assert trainable.evaluate()["score"] > 0.8
        for name, weight in trainable.module._teacher.network.state_dict().items():
            assert torch.equal(weight, before[name])
        assert not (tmp_path / "logits").exists()
        assert all(name.startswith("classifier.") for name in trainable.module.state_dict())

    def test_teachers_that_do_not_fit(self, scenes, teacher, tmp_path):
        classes = ["bar", "disc", "ball", "cup"]
        Classifier("cct_2_3x2", classes, 16).save(tmp_path / "other")
        for name, what in (
            (tmp_path / "other", "knows 4 classes, others than the 3"),
            ("resnet18", "the teacher resnet18 knows 1000 classes and the images have 3"),
            ("resnet_18", "timm knows no model 'resnet_18' with weights"),
            ("cct_2_3x2", "timm knows no model 'cct_2_3x2' with weights"),
        ):
            with pytest.raises(UserError, match=what):
                student(self.settings(name, tmp_path / "new"), scenes)

    def test_changed_images_are_noticed(self, scenes, teacher, tmp_path):
        student(self.settings(teacher, tmp_path), scenes)
        changed = scenes | {"train": make_scenes(30, seed=9)}
        with pytest.raises(UserError, match="the images have changed since the teacher saw them"):
            student(self.settings(teacher, tmp_path), changed)
