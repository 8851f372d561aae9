"""Training of a segmenter: losses, hard prompts and a teacher."""

import pytest
import torch

from tinyvla.errors import UserError
from tinyvla.frontends.tinysam import SIZES, Segmenter, TinySAMConfig, TinySamLoss, inherit_decoder
from tinyvla.frontends.tinysam.losses import (
    DistillationWeights,
    best_mask,
    check_teacher,
    draw_cells,
    hardness,
    mask_iou,
    mask_loss,
    record_tokens,
    shrink_masks,
)

TINY = TinySAMConfig(
    image_size=64, hidden_size=32, embed_dims=(8, 16, 16, 16), depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 2),
    window_sizes=(8, 8, 8, 8), stage_strides=(2, 1, 1), decoder={"mlp_dim": 32, "num_attention_heads": 2},
)  # fmt: skip
WEIGHTS = DistillationWeights(embedding=1.0, token=1.0, output=0.1)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(2, 4, 64, 64, dtype=torch.bool)
    masks[:, ::2, 8:30, 10:40], masks[:, 1::2, 40:60, 30:50] = True, True
    images = torch.rand(2, 3, 64, 64, generator=generator) * 0.1
    images[:, 0, 8:30, 10:40], images[:, 1, 40:60, 30:50] = 0.9, 0.8
    boxes = torch.tensor([[10.0, 8, 40, 30], [30, 40, 50, 60]] * 2).expand(2, -1, -1)
    return {"images": images, "masks": masks, "boxes": boxes, "rounds": torch.tensor(2)}


def model(seed=0, config=TINY):
    torch.manual_seed(seed)
    return Segmenter(config)


def test_right_masks_cost_less():
    targets = torch.zeros(1, 1, 8, 8)
    targets[..., 2:6, 2:6] = 1
    right = torch.where(targets > 0, 8.0, -8.0).unsqueeze(2)
    wrong = right.roll(3, -1)
    losses = [
        mask_loss(torch.cat(pair, 2), torch.ones(1, 1, 2), targets)[0]
        for pair in ((right, right), (right, wrong), (wrong, wrong))
    ]
    assert losses[0] == losses[1]  # the best of the masks is what counts
    assert losses[2] > 10 * losses[0]


def test_qualities_are_those_of_the_masks():
    targets = torch.zeros(1, 1, 8, 8)
    targets[..., 2:6, 2:6] = 1
    logits = torch.stack([targets * 2 - 1, torch.ones_like(targets)], dim=2)  # IoU 1 and 16/64
    assert mask_loss(logits, torch.tensor([[[1.0, 0.25]]]), targets)[1] == 0
    assert mask_loss(logits, torch.tensor([[[1.0, 0.75]]]), targets)[1] == pytest.approx(0.125)
    assert mask_iou(torch.zeros(2, 2).bool(), torch.zeros(2, 2).bool()) == 0


def test_small_things_survive_shrinking():
    masks = torch.zeros(1, 2, 64, 64, dtype=torch.bool)
    masks[0, 0, 10, 10], masks[0, 1, 8:24, 8:24] = True, True
    small = shrink_masks(masks, 16)
    assert small[0, 0].sum() == 1
    assert small[0, 1].sum() == 16


def test_hard_masks_weigh_more():
    targets = torch.zeros(1, 2, 8, 8)
    targets[..., 2:6, 2:6] = 1
    right, wrong = targets > 0, (targets > 0).roll(3, -1)
    student = torch.stack([right[:, 0], wrong[:, 0]], dim=1)
    weights = hardness(right, student, targets)[0]
    assert weights[0] == pytest.approx(0.5, abs=0.01)
    assert weights[1] > 0.9


def test_the_answer_is_the_mask_of_the_best_quality():
    logits = torch.arange(3.0).view(1, 1, 3, 1, 1).expand(1, 1, 3, 2, 2)
    assert (best_mask(logits, torch.tensor([[[0.1, 0.9, 0.3]]])) == 1).all()


def test_draws_lie_in_their_region():
    torch.manual_seed(0)
    regions = torch.zeros(1, 2, 16, 16, dtype=torch.bool)
    regions[0, 0, 3, 5], regions[0, 1, 8:, :4] = True, True
    drawn = torch.cat([draw_cells(regions) for _ in range(50)])
    assert (drawn[:, 0] == torch.tensor([5.0, 3])).all()
    assert ((drawn[:, 1, 0] < 4) & (drawn[:, 1, 1] >= 8)).all()
    assert len({tuple(place) for place in drawn[:, 1].tolist()}) > 20


class Fixed(Segmenter):
    """Answers every prompt with one mask, and remembers the prompts."""

    def fix(self, mask):
        self.fixed, self.prompts = torch.where(mask, 5.0, -5.0), []
        return self

    def decode(self, embeddings, points=None, labels=None, boxes=None):
        self.prompts.append((points, labels))
        logits = self.fixed.expand(*points.shape[:2], 3, -1, -1)
        return logits, torch.ones(logits.shape[:3])


def test_hard_prompts_lie_where_the_answer_is_wrong():
    targets = torch.zeros(1, 1, 32, 32)
    targets[..., 4:20, 4:20] = 1
    answer = torch.zeros(32, 32, dtype=torch.bool)
    answer[4:20, 4:12], answer[24:28, 24:28] = True, True  # misses the right half, and takes something else as well
    training = TinySamLoss(Fixed(TINY).fix(answer), None, WEIGHTS)
    drawn, kinds = [], set()
    for seed in range(40):
        torch.manual_seed(seed)
        prompt = training.draw_points(torch.zeros(1, 32, 8, 8), targets, rounds=3)
        cells = ((prompt["points"] + 0.5) / 2).floor()[0, 0]
        labels = prompt["labels"][0, 0]
        kinds.add(len(cells))
        assert len(cells) in (1, 4)
        for (x, y), label in list(zip(cells.tolist(), labels.tolist(), strict=True))[-3:]:
            missed, taken = 12 <= x < 20 and 4 <= y < 20, 24 <= x < 28 and 24 <= y < 28
            assert missed if label else taken
            drawn.append(label)
    assert kinds == {1, 4}  # a single point that moves, or all of them
    assert 0 < sum(drawn) < len(drawn)


def test_random_prompts_are_anywhere_on_the_object():
    targets = torch.zeros(1, 1, 32, 32)
    targets[..., 4:20, 4:20] = 1
    model = Fixed(TINY).fix(targets[0, 0] > 0)
    training = TinySamLoss(model, None, WEIGHTS, hard_prompts=False)
    torch.manual_seed(0)
    prompt = training.draw_points(torch.zeros(1, 32, 8, 8), targets, rounds=3)
    assert model.prompts == []
    cells = ((prompt["points"] + 0.5) / 2).floor()
    assert ((cells >= 4) & (cells < 20)).all()
    assert (prompt["labels"] == 1).all()


def test_it_learns(batch):
    training = TinySamLoss(model(), None, WEIGHTS).train()
    optimizer = torch.optim.AdamW([p for p in training.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for step in range(30):
        torch.manual_seed(step)
        loss, metrics = training(batch)
        losses.append(metrics["mask"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert set(metrics) == {"mask", "iou"}
    assert sum(losses[-3:]) < 0.6 * sum(losses[:3])


def test_distillation_pulls_towards_the_teacher(batch):
    teacher, student = model(1), model(2)
    training = TinySamLoss(student, teacher, WEIGHTS)
    torch.manual_seed(0)
    loss, metrics = training(batch)
    assert set(metrics) == {"embedding", "mask", "iou", "token", "output"}
    loss.backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert student.image_encoder.trunk.patch_embed.conv1.conv.weight.grad.abs().sum() > 0
    assert not any("teacher" in name for name in training.state_dict())
    # A student that is its teacher has nothing to learn from it.
    same = TinySamLoss(teacher.requires_grad_(True).eval(), model(1), WEIGHTS).eval()
    metrics = same(batch)[1]
    assert metrics["embedding"] == metrics["token"] == metrics["output"] == 0


def test_decoder_is_inherited():
    teacher, student = model(1), model(2)
    inherit_decoder(student, teacher)
    for mine, theirs in zip(student.mask_decoder.parameters(), teacher.mask_decoder.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    with pytest.raises(UserError, match="same decoder"):
        inherit_decoder(Segmenter(SIZES["small"]), teacher)


def test_teacher_of_another_size():
    with pytest.raises(UserError, match="image_size 128 and the student 64"):
        check_teacher(model(), Segmenter(SIZES["small"]))


def test_tokens_are_those_of_the_outputs(batch):
    segmenter = model().eval()
    with torch.no_grad(), record_tokens(segmenter) as tokens:
        segmenter(batch["images"], boxes=batch["boxes"])
    assert [token.shape for token in tokens] == [(2, 4, 5, 32)]
    segmenter(batch["images"], boxes=batch["boxes"])
    assert len(tokens) == 1  # nothing is left behind
