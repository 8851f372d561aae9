"""Training TinySAM: its batches, its checkpoints, and how masks are scored."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from table_shapes import Shapes
from torch import nn

from configs.composing import decode, load_config
from tinyvla.errors import UserError
from tinyvla.frontends import load_frontend
from tinyvla.frontends.tinysam import SIZES, EverythingSettings, Masks, Segmenter, TinySAM, TinySAMConfig
from tinyvla.frontends.tinysam.metrics import best_ious, interior_point, score_masks, summarise
from tinyvla.frontends.tinysam.training import TinySamTask, TinySamTrainable, jittered_box
from tinyvla.training import TrainerConfig

TASK = decode(TinySamTask, load_config("train", ["task=perception/tinysam"]).task)
TINY = TinySAMConfig(
    image_size=64, hidden_size=32, embed_dims=(8, 16, 16, 16), depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 2),
    window_sizes=(8, 8, 8, 8), stage_strides=(2, 1, 1), decoder={"mlp_dim": 32, "num_attention_heads": 2},
)  # fmt: skip


@pytest.fixture(scope="module")
def scenes():
    return {"train": Shapes(12, 64), "validation": Shapes(3, 64, seed=1), "test": Shapes(4, 64, seed=2)}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(SIZES, "small", TINY)


def make_trainable(scenes, part=(0, 1), **changes):
    task = replace(TASK, **{"prompts": 5, "scored": 3} | changes)
    return TinySamTrainable(task, scenes, TrainerConfig(batch_size=3), seed=4, part=part)


def train(trainable, steps):
    optimizer = trainable.make_optimizer(lr=2e-3, weight_decay=0.01)
    trainable.module.train()
    for step in range(steps):
        torch.manual_seed(step)
        loss, _ = trainable.module(trainable.prepare(trainable.batch(step)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss


def test_batches(scenes):
    trainable = make_trainable(scenes)
    batch, again, other = trainable.batch(3), make_trainable(scenes).batch(3), trainable.batch(4)
    assert {key: tuple(value.shape) for key, value in batch.items()} == {
        "images": (3, 3, 64, 64), "masks": (3, 5, 64, 64), "boxes": (3, 5, 4), "rounds": (),
    }  # fmt: skip
    assert all(torch.equal(batch[key], again[key]) for key in batch)  # nothing but seed and step
    assert not torch.equal(batch["images"], other["images"])
    second = make_trainable(scenes, part=(1, 2)).batch(3)
    assert not torch.equal(second["images"], batch["images"])
    assert batch["masks"].flatten(2).any(2).all()
    low, high = batch["boxes"].split(2, dim=2)
    assert (high > low).all()
    assert (low >= 0).all()
    assert (high <= 64).all()
    assert {int(trainable.batch(step)["rounds"]) for step in range(30)} == {0, 1, 2, 3}
    # Boxes are around objects, never around the table.
    assert (batch["masks"][:, 3:].float().mean((-1, -2)) < 0.5).all()


def test_mirrored_images_keep_their_masks(scenes):
    """An object of one colour stays so, mirrored or not."""
    batch = make_trainable(scenes).batch(0)
    for image, mask in zip(batch["images"], batch["masks"][:, 4], strict=True):
        assert image[:, mask].std(1).max() < 0.02


def test_jittered_boxes():
    mask = np.zeros((64, 64), bool)
    mask[10:30, 20:60] = True
    boxes = np.stack([jittered_box(mask, np.random.default_rng(seed)) for seed in range(200)])
    assert np.abs(boxes.mean(0) - [20, 10, 60, 30]).max() < 1
    assert 2 < boxes[:, 0].std() < 6  # a tenth of 40
    pixel = np.zeros((64, 64), bool)
    pixel[0, 63] = True
    box = jittered_box(pixel, np.random.default_rng(0))
    assert (box[2:] > box[:2]).all()
    assert box.max() <= 64


def test_it_trains_and_what_is_saved_is_what_was_trained(scenes, tmp_path):
    trainable = make_trainable(scenes)
    assert train(trainable, 3).isfinite()
    figures = trainable.evaluate()
    assert figures["score"] == pytest.approx((figures["point"] + figures["box"]) / 2)
    assert trainable.module.training  # goes on
    tested = trainable.test()
    assert next(iter(tested)) == "point and box"
    assert all(figure.ci95[0] <= figure.value <= figure.ci95[1] for figure in tested.values())
    assert {image.shape for image in trainable.examples().values()} == {(64, 64, 3)}
    trainable.save(tmp_path)
    frontend = load_frontend(tmp_path)
    assert frontend.everything == TASK.everything
    for name, tensor in trainable.module.state_dict().items():
        assert torch.equal(frontend.state_dict()[name], tensor)
    again = make_trainable(scenes)
    again.restore(tmp_path)
    assert all(torch.equal(t, frontend.state_dict()[name]) for name, t in again.module.state_dict().items())
    averaged = {name: torch.zeros_like(tensor) for name, tensor in trainable.module.state_dict().items()}
    trainable.save(tmp_path, averaged)
    assert all((tensor == 0).all() for tensor in load_frontend(tmp_path).state_dict().values())


def test_from_a_teacher(scenes, tmp_path):
    torch.manual_seed(1)
    teacher = TinySAM.of(Segmenter(TINY), EverythingSettings())
    teacher.save(tmp_path)
    trainable = make_trainable(scenes, teacher=str(tmp_path))
    expected = teacher.model.mask_decoder.iou_token.weight
    assert torch.equal(trainable.module.model.mask_decoder.iou_token.weight, expected)
    assert train(trainable, 2).isfinite()
    again = make_trainable(scenes, pretrained=str(tmp_path))
    assert torch.equal(
        again.module.model.image_encoder.neck.conv1.weight, teacher.model.image_encoder.neck.conv1.weight
    )


def test_wrong_options(scenes):
    with pytest.raises(UserError, match="use one of small, base, released"):
        make_trainable(scenes, size="huge")
    with pytest.raises(UserError, match=r"scenes\.image_size=1024"):
        make_trainable(scenes, size="released")


class Right(nn.Module):
    """Answers with the region that a prompt is about, or with too much of it."""

    def __init__(self, scenes, grow=0):
        super().__init__()
        self.config, self.scenes, self.index, self.grow = TINY, scenes, -1, grow
        self.register_buffer("mean", torch.zeros(3, 1, 1))

    def normalise(self, images):
        return images

    def image_encoder(self, images):
        self.index += 1
        return torch.zeros(1, 1, 8, 8)

    def decode(self, embeddings, points=None, labels=None, boxes=None):
        instances = torch.from_numpy(self.scenes.instances[self.index])
        places = points[0, :, 0] if points is not None else boxes[0].unflatten(1, (2, 2)).mean(1)
        x, y = places.round().long().unbind(1)
        regions = (instances[y, x][:, None, None] == instances).float()
        if self.grow:
            regions = nn.functional.max_pool2d(regions, 2 * self.grow + 1, 1, self.grow)
        logits = nn.functional.avg_pool2d(regions * 20 - 10, 2)[None, :, None]
        return logits, torch.ones(logits.shape[:3])


def test_scores(scenes):
    test, modes = scenes["validation"], ("point", "random_point", "points", "everything")
    everything = EverythingSettings(16, min_stability=0.3)  # edges of small things are a large part of them
    right, grown = (
        {mode: summarise(ious)["mean_iou"] for mode, ious in score_masks(model, test, 3, modes, everything).items()}
        for model in (Right(test), Right(test, 2))
    )
    assert min(right.values()) > 0.9  # masks of half the resolution
    assert all(grown[mode] < right[mode] - 0.05 for mode in modes)


def test_interior_points_and_best_masks():
    region = np.zeros((20, 20), bool)
    region[0:9, 0:9], region[12, :] = True, True
    assert interior_point(region) == (4, 4)
    truths = [region, ~region]
    masks = Masks(torch.from_numpy(np.stack([~region, np.ones_like(region)])), torch.tensor([0.9, 0.8]))
    assert best_ious(masks, truths) == pytest.approx([region.mean(), 1.0])
    assert best_ious(Masks(torch.zeros(0, 20, 20).bool(), torch.zeros(0)), truths) == [0.0, 0.0]


def test_intervals_are_over_images():
    """Objects of one image fail together, so the bootstrap draws images."""
    rng = np.random.default_rng(0)
    ious = [np.full(10, value) for value in rng.uniform(0.5, 1.0, 20)]
    together = summarise(ious)
    apart = summarise([iou[:1] for iou in np.concatenate(ious).reshape(-1, 1)])
    assert together["mean_iou"] == pytest.approx(apart["mean_iou"])
    assert together["objects"] == 200
    widths = [high - low for low, high in (together["ci95"], apart["ci95"])]
    assert widths[0] > 2 * widths[1]
    assert together["ci95"][0] < together["mean_iou"] < together["ci95"][1]
    assert summarise([])["images"] == 0
