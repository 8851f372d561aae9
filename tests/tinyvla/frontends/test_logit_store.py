"""Stored answers of a teacher: a student reads exactly the teacher's answers, even after interruptions."""

import multiprocessing
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from tinyvla.errors import UserError
from tinyvla.frontends.tinyvit.logit_store import Contents, LogitStore
from tinyvla.frontends.tinyvit.losses import Teacher, online_loss, soft_label_loss, top_probabilities
from tinyvla.frontends.tinyvit.stored_logits import StoredLogits, check_logits, save_logits
from tinyvla.frontends.views import RandomView, plain_view

CLASSES, SIZE = 6, 12
VIEW = RandomView(SIZE)


class Images:
    def __init__(self, number=10, checksum="one"):
        self.images = torch.randint(256, (number, 3, 16, 20), dtype=torch.uint8, generator=torch.manual_seed(1))
        self.checksum = checksum

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


class Network(nn.Module):
    """A teacher that counts the images it is called with."""

    def __init__(self, classes=CLASSES, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.layer, self.n_images = nn.Linear(3 * SIZE * SIZE, classes), 0

    def forward(self, images):
        self.n_images += len(images)
        return 30 * self.layer(images.flatten(1))


@pytest.fixture
def images():
    return Images()


@pytest.fixture
def teacher():
    return Teacher(Network())


def contents(dataset, **changes):
    defaults = {"images": len(dataset), "epochs": 3, "classes": CLASSES, "k": 2, "teacher": "linear"}
    return Contents(**defaults | {"checksum": dataset.checksum, "view": VIEW.describe()} | changes)


def saved(tmp_path, dataset, teacher, **changes):
    store = LogitStore.create(tmp_path / "logits", contents(dataset, **changes))
    save_logits(store, dataset, teacher, batch_size=4)
    return store


class TestViews:
    def test_a_seed_stands_for_a_view(self, images):
        torch.manual_seed(3)
        state = torch.get_rng_state()
        first, again, other = VIEW(images[0], 5), VIEW(images[0], 5), VIEW(images[0], 6)
        assert torch.equal(torch.get_rng_state(), state)  # torch's own draws are left alone
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert (first.shape, first.dtype) == ((3, SIZE, SIZE), torch.float32)
        assert first.min() >= 0
        assert first.max() <= 1

    @pytest.mark.parametrize("size", [(8, 8), (1, 40), (40, 3)])
    def test_images_of_any_shape(self, size):
        image = torch.randint(256, (3, *size), dtype=torch.uint8)
        for seed in range(20):
            assert VIEW(image, seed).isfinite().all()

    def test_nothing_random_is_the_whole_image(self):
        image = torch.randint(256, (3, SIZE, SIZE), dtype=torch.uint8)
        still = RandomView(SIZE, scale=1, ratio=1, flip=False, colour=0)
        torch.testing.assert_close(still(image, 0), plain_view(image, SIZE))


class TestLosses:
    def test_all_classes_stored_is_cross_entropy(self):
        logits, answers = torch.randn(4, CLASSES), torch.randn(4, CLASSES)
        values, indices = top_probabilities(answers, CLASSES)
        torch.testing.assert_close(soft_label_loss(logits, values, indices), online_loss(logits, answers))

    def test_the_rest_is_spread_over_the_other_classes(self):
        logits, answers = torch.randn(4, CLASSES), torch.randn(4, CLASSES)
        values, indices = top_probabilities(answers, 2)
        dense = ((1 - values.sum(1, keepdim=True)) / (CLASSES - 2)).expand(4, CLASSES).scatter(1, indices, values)
        torch.testing.assert_close(dense.sum(1), torch.ones(4))
        torch.testing.assert_close(soft_label_loss(logits, values, indices), F.cross_entropy(logits, dense))

    def test_rounded_probabilities_never_give_negative_shares(self):
        values, indices = torch.tensor([[0.9, 0.1005]]), torch.tensor([[0, 1]])
        loss = soft_label_loss(torch.tensor([[0.0, 0.0, -50.0]]), values, indices)
        assert loss.item() == pytest.approx(np.log(2), rel=1e-2)


class TestStore:
    @pytest.mark.parametrize("k", [1, 2, CLASSES])
    def test_students_read_what_the_teacher_said(self, tmp_path, images, teacher, k):
        store = saved(tmp_path, images, teacher, k=k)
        answers = StoredLogits(LogitStore(store.path), images)
        assert len(answers) == 30
        view_sums = set()
        for position in range(30):
            sample = answers[position]
            values, indices = top_probabilities(teacher(sample["images"][None]), k)
            torch.testing.assert_close(sample["values"], values[0], atol=1e-3, rtol=1e-3)
            assert torch.equal(sample["indices"], indices[0]) or (values[0].diff().abs() < 1e-3).any()
            view_sums.add(sample["images"].sum().item())
        assert len(view_sums) == 30  # every epoch has views of its own

    def test_the_file_is_as_small_as_it_says(self, tmp_path, images, teacher):
        store = saved(tmp_path, images, teacher)
        assert store.path.stat().st_size == store.contents.bytes == 4096 + 3 + 30 * (4 + 2 * (2 + 2))
        many = contents(images, classes=21841, k=100, images=14_000_000, epochs=90)
        assert many.record.itemsize == 404  # dense float16 answers would take 43,682 bytes

    def test_answers_come_once_and_epochs_are_resumed(self, tmp_path, images, teacher):
        store = LogitStore.create(tmp_path / "logits", contents(images))
        save_logits(store, images, teacher, epochs=[1])
        assert (store.epochs(whole=True), store.epochs(whole=False)) == ([1], [0, 2])
        with pytest.raises(UserError, match="lacks 2 of 3 epochs"):
            StoredLogits(store, images)
        before = store.read(1, 4)
        save_logits(LogitStore.create(tmp_path / "logits", contents(images)), images, teacher)
        assert teacher.network.n_images == 30
        assert store.read(1, 4)[0] == before[0]
        assert torch.equal(store.read(1, 4)[1], before[1])

    def test_what_was_interrupted_is_done_again(self, tmp_path, images, teacher):
        calls = iter(range(5))

        def dies(batch):
            if next(calls) == 4:
                raise KeyboardInterrupt
            return teacher(batch)

        store = LogitStore.create(tmp_path / "logits", contents(images))
        with pytest.raises(KeyboardInterrupt):
            save_logits(store, images, dies, batch_size=4)
        assert store.epochs(whole=True) == [0]
        save_logits(store, images, teacher, batch_size=4)
        assert check_logits(store, images, teacher) < 1e-3

    def test_processes_fill_different_epochs(self, tmp_path, images, teacher):
        store = LogitStore.create(tmp_path / "logits", contents(images))
        with store.claim(0) as mine:
            assert mine
            with multiprocessing.get_context("fork").Pool(1) as other:
                assert other.apply(_may_fill, (store.path, 0)) is False
                assert other.apply(_may_fill, (store.path, 1)) is True

    def test_loaders_with_workers_read_the_same(self, tmp_path, images, teacher):
        answers = StoredLogits(saved(tmp_path, images, teacher), images)
        assert pickle.loads(pickle.dumps(answers.store)).read(2, 3)[0] == answers.store.read(2, 3)[0]
        alone, many = (
            list(DataLoader(answers, batch_size=7, num_workers=n, multiprocessing_context="fork" if n else None))
            for n in (0, 2)
        )
        for one, other in zip(alone, many, strict=True):
            for key, value in one.items():
                assert torch.equal(value, other[key])

    def test_a_student_needs_no_right_to_write(self, tmp_path, images, teacher):
        store = saved(tmp_path, images, teacher)
        reading = LogitStore(store.path)
        with pytest.raises(ValueError, match="read-only"):
            reading.finish(0)


def _may_fill(path, epoch):
    with LogitStore(path).claim(epoch) as mine:
        return mine


class TestMistakes:
    @pytest.fixture
    def store(self, tmp_path, images, teacher):
        return saved(tmp_path, images, teacher)

    def test_a_truncated_file(self, store):
        content = store.path.read_bytes()
        for left, what in ((len(content) - 1, "it was cut short"), (100, "cut short|is not a logit store")):
            store.path.write_bytes(content[:left])
            with pytest.raises(UserError, match=what):
                LogitStore(store.path)

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b'{"format": "other"}', b'["list"]'])
    def test_another_file(self, tmp_path, content):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(UserError, match="is not a logit store"):
            LogitStore(tmp_path / "other")
        with pytest.raises(UserError, match="there is no logit store"):
            LogitStore(tmp_path / "nowhere")

    def test_changed_images(self, store, teacher):
        for changed in (Images(checksum="two"), Images(number=9)):
            for use in (
                lambda p: StoredLogits(store, p),
                lambda p: check_logits(store, p, teacher),
                lambda p: save_logits(store, p, teacher),
                lambda p: LogitStore.create(store.path, contents(p)),
            ):
                with pytest.raises(UserError, match=r"the images have changed|the number of images differs"):
                    use(changed)

    def test_a_teacher_with_other_classes(self, tmp_path, store, images):
        other = Teacher(Network(classes=CLASSES + 1))
        with pytest.raises(UserError, match=r"the teacher has 7 classes and .* is for 6"):
            save_logits(LogitStore.create(tmp_path / "new", contents(images)), images, other)
        with pytest.raises(UserError, match="the teacher has 7 classes"):
            check_logits(store, images, other)
        with pytest.raises(UserError, match="the student has 7 classes"):
            store.require_classes(7, "student")

    def test_another_teacher_is_noticed(self, store, images, teacher):
        assert check_logits(store, images, teacher) < 1e-3
        with pytest.raises(UserError, match=r"differs by .* from what the teacher says now"):
            check_logits(store, images, Teacher(Network(seed=1)))

    @pytest.mark.parametrize(
        ("changes", "what"),
        [
            ({"teacher": "other"}, "another teacher .linear in the store, other now"),
            ({"k": 3}, "another number of classes per image .2 in the store, 3 now"),
            ({"epochs": 4}, "number of epochs differs"),
            ({"view": RandomView(SIZE, flip=False).describe()}, "the teacher saw other views"),
            ({"seed": 1}, "other seeds"),
        ],
    )
    def test_a_store_of_something_else(self, store, images, changes, what):
        with pytest.raises(UserError, match=what):
            LogitStore.create(store.path, contents(images, **changes))

    @pytest.mark.parametrize("k", [0, CLASSES + 1])
    def test_impossible_k(self, images, k):
        with pytest.raises(UserError, match="use 1 to 6"):
            contents(images, k=k)
