"""TinyCLIP's three techniques: affinity mimicking, weight inheritance and progressive stages."""

import copy

import pytest
import torch
from clips import fake_scenes, tiny_clip
from torch.nn.functional import normalize

from benchmarks.frontends.progressive import shape_of, stage_shapes
from tinyvla.errors import UserError
from tinyvla.frontends.tinyclip import TinyCLIP
from tinyvla.frontends.tinyclip.inherit import inherit
from tinyvla.frontends.tinyclip.losses import Pairs, affinity_loss, contrastive_loss, distillation_loss
from tinyvla.frontends.tinyclip.masks import MaskedClip, _hard_concrete
from tinyvla.frontends.tinyclip.model import TOWERS, count_parameters, embed_ids, embed_pixels, sizes_of

SHAPE = {"vision": {"layers": 1, "width": 16, "heads": 2, "units": 20}, "text": {"layers": 2, "units": 9}}


@pytest.fixture
def clip():
    return tiny_clip()


@pytest.fixture(scope="module")
def batch():
    model = tiny_clip()
    scenes = fake_scenes(4)
    return model.pixels(scenes.images), model.ids([label["caption"] for label in scenes.labels])


def pairs(seed: int, width: int) -> Pairs:
    generator = torch.Generator().manual_seed(seed)
    image, text = (normalize(torch.randn(5, width, generator=generator), dim=-1) for _ in range(2))
    return Pairs(image.requires_grad_(), text.requires_grad_(), torch.tensor(7.0))


def embed(clip, batch):
    with torch.no_grad():
        return embed_pixels(clip, batch[0]), embed_ids(clip, batch[1])


def parameters(clip):
    return sum(p.numel() for p in clip.parameters())


def test_affinity_mimicking_is_the_papers_sum_over_pairs():
    student, teacher = pairs(0, 8), pairs(1, 12)

    def affinity(some, i, j, over):
        terms = [torch.exp(some.scale * some.image[a] @ some.text[b]) for a, b in over]
        return torch.exp(some.scale * some.image[i] @ some.text[j]) / sum(terms)

    expected = torch.tensor(0.0)
    for i in range(5):
        for j in range(5):
            row, column = [(i, k) for k in range(5)], [(k, j) for k in range(5)]
            for over in (row, column):
                expected = expected - affinity(teacher, i, j, over) * affinity(student, i, j, over).log() / 10
    torch.testing.assert_close(affinity_loss(student, teacher), expected)


def test_mimicking_teaches_nothing_to_the_teacher_itself():
    teacher = pairs(0, 8)
    twin = Pairs(teacher.image.detach().requires_grad_(), teacher.text.detach().requires_grad_(), teacher.scale)
    affinity_loss(twin, teacher).backward()
    assert twin.image.grad.abs().max() < 1e-6
    assert teacher.image.grad is None


def test_the_contrastive_loss_is_that_of_transformers():
    from transformers.models.clip.modeling_clip import clip_loss

    student = pairs(0, 8)
    torch.testing.assert_close(contrastive_loss(student), clip_loss(student.logits.T))


def test_losses_are_weighed():
    student, teacher = pairs(0, 8), pairs(1, 12)
    loss, metrics = distillation_loss(student, teacher, 0.75)
    assert loss.item() == pytest.approx(0.75 * metrics["affinity"] + 0.25 * metrics["contrastive"])
    assert distillation_loss(student, None, 0.75)[0] == distillation_loss(student, teacher, 0)[0]


def test_inheriting_everything_copies(clip, batch):
    for ours, theirs in zip(embed(inherit(clip.clip, {}), batch), embed(clip.clip, batch), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_inheritance_thins_out_evenly(clip, batch, tmp_path):
    small = inherit(clip.clip, SHAPE)
    assert [parameters(small)] == [count_parameters(small.config, {n: sizes_of(small.config, n) for n in TOWERS})]
    old, new = clip.clip.text_model.encoder.layers, small.text_model.encoder.layers
    chosen = [i * 40 // 9 for i in range(9)]
    torch.testing.assert_close(new[1].mlp.fc1.weight, old[1].mlp.fc1.weight[chosen])
    torch.testing.assert_close(new[0].self_attn.q_proj.weight, old[0].self_attn.q_proj.weight)
    old, new = clip.clip.vision_model, small.vision_model
    torch.testing.assert_close(new.embeddings.patch_embedding.weight, old.embeddings.patch_embedding.weight[::2])
    head = old.encoder.layers[0].self_attn.out_proj.weight[:, 16:24]  # the third of four; the second of two
    torch.testing.assert_close(new.encoder.layers[0].self_attn.out_proj.weight[:, 8:], head[::2])
    for ours in embed(small, batch):
        torch.testing.assert_close(ours.norm(dim=-1), torch.ones(4))


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ({"vision": {"layers": 3}}, "3 layers cannot be inherited from the 2"),
        ({"text": {"heads": 0}}, "choose between 1 and 3"),
        ({"text": {"depth": 1}}, "a tower has no depth"),
    ],
)
def test_what_cannot_be_inherited(clip, shape, says):
    with pytest.raises(UserError, match=says):
        inherit(clip.clip, shape)


def test_layers_of_different_sizes_are_saved_and_loaded(clip, batch, tmp_path):
    small = inherit(clip.clip, {"vision": {"heads": 3}, "text": {"width": 11}})
    TinyCLIP(small, clip.tokenizer, clip.processor).save(tmp_path)
    loaded = TinyCLIP.from_pretrained(tmp_path)
    for ours, theirs in zip(embed(loaded.clip, batch), embed(small, batch), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_stages_lead_to_the_shape(clip):
    stages = stage_shapes(clip.clip, SHAPE, 3)
    assert len(stages) == 3
    assert stages[-1]["vision"] == SHAPE["vision"]
    assert stages[-1]["text"] == shape_of(clip.clip)["text"] | SHAPE["text"]
    counts, model = [parameters(clip.clip)], clip.clip
    for shape in stages:
        model = inherit(model, shape)
        counts.append(parameters(model))
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == parameters(inherit(clip.clip, SHAPE))


def masked(clip, target: float) -> MaskedClip:
    masked_clip = MaskedClip(copy.deepcopy(clip.clip), target)
    generator = torch.Generator().manual_seed(0)
    for odds in masked_clip.log_odds.values():
        odds.data.copy_(3 * torch.randn(odds.shape, generator=generator))
    return masked_clip.eval()


@pytest.mark.parametrize("target", [0.25, 0.5, 0.75])
def test_the_compressed_model_gives_what_the_masked_one_gives(clip, batch, tmp_path, target):
    thin = masked(clip, target)
    thin.draw()
    expected = embed(thin.clip, batch)
    assert (expected[0] - embed(clip.clip, batch)[0]).abs().max() > 0.01
    small = thin.compress()
    assert target - 0.08 < parameters(small) / parameters(clip.clip) <= target
    TinyCLIP(small, clip.tokenizer, clip.processor).save(tmp_path)
    loaded = TinyCLIP.from_pretrained(tmp_path).clip
    for model in (small, loaded):
        for ours, theirs in zip(embed(model, batch), expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_open_masks_change_nothing(clip, batch):
    thin = MaskedClip(copy.deepcopy(clip.clip), 0.5).eval()
    thin._masks = {name: torch.ones_like(odds) for name, odds in thin.log_odds.items()}
    for ours, theirs in zip(embed(thin.clip, batch), embed(clip.clip, batch), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_masks_are_hard_concrete():
    torch.manual_seed(0)
    draws = _hard_concrete(torch.full((20000,), -1.0))
    assert draws.min() == 0
    assert draws.max() == 1
    open_share = torch.sigmoid(torch.tensor(-1.0 + 2 / 3 * torch.log(torch.tensor(11.0)))).item()
    assert (draws > 0).float().mean().item() == pytest.approx(open_share, abs=0.01)


def test_the_lagrangian_leads_the_masks_to_the_target(clip, batch):
    torch.manual_seed(0)
    thin = MaskedClip(clip.clip, 0.4).train()
    odds, multipliers = thin.mask_parameters()
    optimizer = torch.optim.Adam([{"params": odds, "lr": 0.1}, {"params": [multipliers], "lr": 0.1, "maximize": True}])
    for step in range(250):
        thin.draw()
        spread = embed_pixels(thin.clip, batch[0]).var(dim=0).sum()
        loss = -spread + thin.sparsity_loss(min(1, step / 150))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert thin.expected_share().item() == pytest.approx(0.4, abs=0.05)
    thin.settle()
    assert parameters(thin.compress()) / thin.total == pytest.approx(0.4, abs=0.05)
