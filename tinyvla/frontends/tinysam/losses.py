"""Losses of a segmenter: masks and their scores (SAM, arXiv 2304.02643, appendix A), and distillation with hard prompts
(TinySAM, arXiv 2312.13789)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from ...errors import UserError
from ...ranges import check_range
from .model import Segmenter

FOCAL_WEIGHT = 20.0  # against dice and IoU, as in SAM


@dataclass(frozen=True)
class DistillationWeights:
    """Weights of the losses against a teacher (alpha, beta, gamma of equation 4)."""

    embedding: float = 1.0
    token: float = 0.5
    output: float = 0.1

    def __post_init__(self) -> None:
        check_range(self, "embedding", "token", "output", low=0)


class TinySamLoss(nn.Module):
    """Loss of a segmenter on a batch, and its terms by name.

    A batch has `images` (B, 3, S, S) in [0, 1]; for P objects per image `masks` (B, P, S, S) bool and jittered `boxes`
    (B, P, 4); and `rounds` (), the number of further points. The first half of the objects is prompted with points, the
    second half with boxes.

    Args:
        model: the segmenter to train.
        teacher: a segmenter with the same shape of embedding, neither trained nor saved; None: labels alone.
        weights: of the distillation losses `embedding`, `token` and `output` (alpha, beta, gamma of equation 4).
        hard_prompts: draw further points where the prediction is wrong; else anywhere on the object.

    Raises UserError for a teacher whose embedding or masks have another shape.
    """

    def __init__(
        self, model: Segmenter, teacher: Segmenter | None, weights: DistillationWeights, hard_prompts: bool = True
    ):
        super().__init__()
        self.model, self.weights, self.hard_prompts = model, weights, hard_prompts
        # A list keeps the teacher out of the module's parameters.
        self.teachers = [] if teacher is None else [teacher.eval().requires_grad_(False)]
        if teacher:
            check_teacher(model, teacher)

    def forward(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, float]]:
        embedding = self.model.encode(batch["images"])
        targets = shrink_masks(batch["masks"], 4 * self.model.config.embedding_side)
        half = (targets.shape[1] + 1) // 2
        prompts = [
            ({"boxes": batch["boxes"][:, half:]}, targets[:, half:]),
            (self.draw_points(embedding, targets[:, :half], int(batch["rounds"])), targets[:, :half]),
        ]
        losses: dict[str, Tensor] = {}
        teacher_embedding = None
        if self.teachers:
            self.teachers[0].to(batch["images"].device)
            with torch.no_grad():
                teacher_embedding = self.teachers[0].encode(batch["images"])
            losses["embedding"] = self.weights.embedding * F.l1_loss(embedding, teacher_embedding)
        for prompt, prompt_targets in prompts:
            if prompt_targets.shape[1] == 0:
                continue
            for name, loss in self._losses(embedding, teacher_embedding, prompt, prompt_targets).items():
                losses[name] = losses.get(name, 0) + loss * prompt_targets.shape[1] / targets.shape[1]
        return torch.stack(list(losses.values())).sum(), {name: loss.item() for name, loss in losses.items()}

    def _losses(
        self, embedding: Tensor, teacher_embedding: Tensor | None, prompt: dict[str, Tensor], targets: Tensor
    ) -> dict[str, Tensor]:
        with record_tokens(self.model) as tokens:
            logits, scores = self.model.decode(embedding, **prompt)
        masks, qualities = mask_loss(logits, scores, targets)
        losses = {"mask": masks, "iou": qualities}
        if teacher_embedding is not None:
            teacher = self.teachers[0]
            with torch.no_grad(), record_tokens(teacher) as teacher_tokens:
                teacher_logits, teacher_scores = teacher.decode(teacher_embedding, **prompt)
                teacher_mask = best_mask(teacher_logits, teacher_scores) > 0
                weight = hardness(teacher_mask, best_mask(logits, scores.detach()) > 0, targets)
            output = (logits - teacher_logits).abs().mean((-3, -2, -1))
            losses["token"] = self.weights.token * F.l1_loss(tokens[0], teacher_tokens[0])
            losses["output"] = self.weights.output * (weight * output).mean()
        return losses

    @torch.no_grad()
    def draw_points(self, embedding: Tensor, targets: Tensor, rounds: int) -> dict[str, Tensor]:
        """Points and labels, (B, P, K, 2) and (B, P, K), for masks (B, P, h, w).

        The first point lies anywhere on the object. In every round the model segments with the points so far, and the
        next point lies in the error: on a missed part of the object, or, with label 0, on a part that is wrongly added
        (SAM's interactive prompts). With probability 1/2 only the last point is used, so that a single point lies on a
        missed part (TinySAM, equation 8).
        """
        objects = targets > 0.5
        cell = self.model.config.image_size / targets.shape[-1]
        moving = bool(torch.rand(()) < 0.5)
        points = draw_cells(objects)[:, :, None]
        labels = points.new_ones(points.shape[:3])
        for _ in range(rounds):
            prompt = (points[:, :, -1:], labels[:, :, -1:]) if moving else (points, labels)
            errors = objects
            if self.hard_prompts:
                mask = best_mask(*self.model.decode(embedding, (prompt[0] + 0.5) * cell - 0.5, prompt[1])) > 0
                errors = objects & ~mask if moving else objects ^ mask
                # Without an error the point lies anywhere on the object.
                errors = torch.where(errors.flatten(2).any(2)[..., None, None], errors, objects)
            cells = draw_cells(errors)
            on_object = objects.flatten(2).gather(2, (cells[..., 1:] * targets.shape[-1] + cells[..., :1]).long())
            points = torch.cat([points, cells[:, :, None]], dim=2)
            labels = torch.cat([labels, on_object.float()], dim=2)
        if moving:
            points, labels = points[:, :, -1:], labels[:, :, -1:]
        return {"points": (points + 0.5) * cell - 0.5, "labels": labels}


def draw_cells(region: Tensor) -> Tensor:
    """A random cell of every region (B, P, h, w) bool: x and y, (B, P, 2) float. An empty region gives any cell."""
    chosen = (torch.rand(region.shape, device=region.device) + region).flatten(2).argmax(2)
    return torch.stack([chosen % region.shape[-1], chosen // region.shape[-1]], dim=-1).float()


@contextmanager
def record_tokens(model: Segmenter) -> Iterator[list[Tensor]]:
    """Context in which `decode` appends the transformer's output tokens (B, P, 1 + M', C) to the list."""
    recorded: list[Tensor] = []
    count = 1 + model.mask_decoder.num_mask_tokens  # tokens of the score and of the masks; those of the prompt follow
    hook = model.mask_decoder.transformer.register_forward_hook(
        lambda module, inputs, outputs: recorded.append(outputs[0][:, :, :count])
    )
    try:
        yield recorded
    finally:
        hook.remove()


def check_teacher(student: Segmenter, teacher: Segmenter) -> None:
    """Raise UserError unless both have images, embeddings and masks of the same shapes."""
    sizes = [
        {"image_size": c.image_size, "hidden_size": c.hidden_size, "embedding_side": c.embedding_side}
        for c in (student.config, teacher.config)
    ]
    for name, size in sizes[0].items():
        if size != sizes[1][name]:
            raise UserError(
                f"the teacher has {name} {sizes[1][name]} and the student {size}; distillation compares them cell by "
                "cell: choose a teacher of the same size of images and embedding"
            )
    masks = [model.mask_decoder.num_mask_tokens for model in (student, teacher)]
    if masks[0] != masks[1]:
        raise UserError(
            f"the teacher answers with {masks[1] - 1} masks and the student with {masks[0] - 1}; use the same"
        )


def inherit_decoder(student: Segmenter, teacher: Segmenter) -> None:
    """Copy the teacher's prompt encoder and decoder to the student, as TinySAM does; only the image encoder is new.

    Raises UserError where their sizes differ.
    """
    try:
        student.prompt_encoder.load_state_dict(teacher.prompt_encoder.state_dict())
        student.mask_decoder.load_state_dict(teacher.mask_decoder.state_dict())
    except RuntimeError as error:
        raise UserError("the teacher's decoder has other sizes than the student's; use the same decoder") from error


def shrink_masks(masks: Tensor, side: int) -> Tensor:
    """Masks (B, P, S, S) bool at the decoder's resolution (B, P, side, side), float 0 or 1.

    A cell belongs to the object if at least half of it does. An object that would vanish keeps all cells it touches.
    """
    shares = F.adaptive_avg_pool2d(masks.float(), side)
    half = (shares >= 0.5).float()
    return torch.where(half.flatten(2).any(2)[..., None, None], half, (shares > 0).float())


def mask_iou(one: Tensor, other: Tensor) -> Tensor:
    """IoU of bool masks (..., H, W), with broadcasting; 0 for two empty masks."""
    common, either = (one & other).sum((-2, -1)), (one | other).sum((-2, -1))
    return common / either.clamp(min=1)


def mask_loss(logits: Tensor, scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of the masks, and the mean squared error of the predicted IoUs.

    A prompt is ambiguous: only the mask with the lowest loss (20 focal + dice) of the M masks is trained, so that they
    differ; all M predicted IoUs are trained.

    Args:
        logits, scores: (B, P, M, h, w) and (B, P, M) of `Segmenter.decode`.
        targets: (B, P, h, w) of `shrink_masks`.
    """
    expanded = targets.unsqueeze(2).expand_as(logits)
    focal = sigmoid_focal_loss(logits, expanded).mean((-2, -1))
    shares = logits.sigmoid()
    overlap = 2 * (shares * expanded).sum((-2, -1)) + 1
    dice = 1 - overlap / (shares.sum((-2, -1)) + expanded.sum((-2, -1)) + 1)
    best = (FOCAL_WEIGHT * focal + dice).min(2).values
    actual = mask_iou(logits.detach() > 0, expanded > 0.5)
    return best.mean(), F.mse_loss(scores, actual)


def hardness(teacher: Tensor, student: Tensor, targets: Tensor) -> Tensor:
    """Weight of a prompt's output distillation (TinySAM, equation 6), (B, P) in (0, 1).

    High where the teacher's mask is right and the student's is wrong.

    Args:
        teacher, student: bool masks (B, P, h, w).
        targets: (B, P, h, w) of `shrink_masks`.
    """
    truth = targets > 0.5
    return torch.sigmoid(mask_iou(teacher, truth) / (mask_iou(student, truth) + 1e-3) - 1)


def best_mask(logits: Tensor, scores: Tensor) -> Tensor:
    """Mask with the highest predicted IoU of each prompt's M masks: (B, P, M, h, w) -> (B, P, h, w)."""
    best = scores.argmax(2)[..., None, None, None].expand(-1, -1, 1, *logits.shape[-2:])
    return logits.gather(2, best).squeeze(2)
