"""How a segmenter is trained: hard prompts, sampled where it errs, and a teacher at every stage (arXiv 2312.13789)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import UserError
from .losses import answer, hardness, mask_loss, shrink_masks
from .model import Segmenter


class SegmenterTraining(nn.Module):
    """A segmenter with its losses. Called with a batch it returns the loss and, by name, what it consists of.

    A batch has `images` (B, 3, S, S) in [0, 1]; for each picture P objects: `masks` (B, P, S, S) bool and `boxes`
    (B, P, 4), jittered; and `rounds` (), how many further points are asked for. The first half of the objects are
    prompted with points, the others with their boxes.

    Args:
        model: what is trained.
        teacher: a segmenter of the same embedding, which is not trained nor kept with the module; None: labels alone.
        weights: of the distillation losses: `embedding`, `token`, `output` (alpha, beta, gamma of equation 4).
        hard_prompts: sample further points where the prediction is wrong; else anywhere on the object.

    Raises UserError for a teacher whose embedding or masks have another shape.
    """

    def __init__(
        self, model: Segmenter, teacher: Segmenter | None, weights: Mapping[str, float], hard_prompts: bool = True
    ):
        super().__init__()
        self.model, self.weights, self.hard_prompts = model, weights, hard_prompts
        self.teachers = [] if teacher is None else [teacher.eval().requires_grad_(False)]  # a list hides it from torch
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
        taught = None
        if self.teachers:
            self.teachers[0].to(batch["images"].device)
            with torch.no_grad():
                taught = self.teachers[0].encode(batch["images"])
            losses["embedding"] = self.weights["embedding"] * F.l1_loss(embedding, taught)
        for prompt, wanted in prompts:
            if wanted.shape[1] == 0:
                continue
            for name, loss in self._losses(embedding, taught, prompt, wanted).items():
                losses[name] = losses.get(name, 0) + loss * wanted.shape[1] / targets.shape[1]
        return torch.stack(list(losses.values())).sum(), {name: loss.item() for name, loss in losses.items()}

    def _losses(
        self, embedding: Tensor, taught: Tensor | None, prompt: dict[str, Tensor], targets: Tensor
    ) -> dict[str, Tensor]:
        with record_tokens(self.model) as tokens:
            logits, scores = self.model.decode(embedding, **prompt)
        masks, qualities = mask_loss(logits, scores, targets)
        losses = {"mask": masks, "iou": qualities}
        if taught is not None:
            teacher = self.teachers[0]
            with torch.no_grad(), record_tokens(teacher) as right:
                right_logits, right_scores = teacher.decode(taught, **prompt)
                weight = hardness(answer(right_logits, right_scores) > 0, answer(logits, scores.detach()) > 0, targets)
            output = (logits - right_logits).abs().mean((-3, -2, -1))
            losses["token"] = self.weights["token"] * F.l1_loss(tokens[0], right[0])
            losses["output"] = self.weights["output"] * (weight * output).mean()
        return losses

    @torch.no_grad()
    def draw_points(self, embedding: Tensor, targets: Tensor, rounds: int) -> dict[str, Tensor]:
        """Points and labels, (B, P, K, 2) and (B, P, K), for masks (B, P, h, w).

        The first point lies anywhere on the object. In every round the model answers what has been asked so far, and
        the next point lies where that is wrong: where the object was missed, or, with the label 0, where something
        else was taken for it (SAM's interactive prompts). Half of the times only the last point is kept instead, and
        the object is asked for by a single point that lies where it is missed (TinySAM, equation 8).
        """
        wanted = targets > 0.5
        cell = self.model.config.image_size / targets.shape[-1]
        moving = bool(torch.rand(()) < 0.5)
        points = draw_cells(wanted)[:, :, None]
        labels = points.new_ones(points.shape[:3])
        for _ in range(rounds):
            asked, marks = (points[:, :, -1:], labels[:, :, -1:]) if moving else (points, labels)
            wrong = wanted
            if self.hard_prompts:
                given = answer(*self.model.decode(embedding, (asked + 0.5) * cell - 0.5, marks)) > 0
                wrong = wanted & ~given if moving else wanted ^ given
                wrong = torch.where(
                    wrong.flatten(2).any(2)[..., None, None], wrong, wanted
                )  # all right: anywhere on it
            cells = draw_cells(wrong)
            on_object = wanted.flatten(2).gather(2, (cells[..., 1:] * targets.shape[-1] + cells[..., :1]).long())
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
    """Within the block `decode` puts what its transformer makes of the output tokens in the list, (B, P, 1 + M', C)."""
    recorded: list[Tensor] = []
    count = 1 + model.mask_decoder.num_mask_tokens  # the quality's token and the masks', before the prompt's
    hook = model.mask_decoder.transformer.register_forward_hook(
        lambda module, inputs, outputs: recorded.append(outputs[0][:, :, :count])
    )
    try:
        yield recorded
    finally:
        hook.remove()


def check_teacher(student: Segmenter, teacher: Segmenter) -> None:
    """Raise UserError unless both have pictures, embeddings and masks of the same shapes."""
    for name in ("image_size", "hidden_size", "embedding_side"):
        mine, theirs = getattr(student.config, name), getattr(teacher.config, name)
        if mine != theirs:
            raise UserError(
                f"the teacher has {name} {theirs} and the student {mine}; distillation compares them cell by cell: "
                "choose a teacher of the same size of pictures and embedding"
            )
    masks = [model.mask_decoder.num_mask_tokens for model in (student, teacher)]
    if masks[0] != masks[1]:
        raise UserError(
            f"the teacher answers with {masks[1] - 1} masks and the student with {masks[0] - 1}; use the same"
        )


def inherit_decoder(student: Segmenter, teacher: Segmenter) -> None:
    """Begin with the teacher's prompt encoder and decoder, as TinySAM does with SAM's: only the encoder is new.

    Raises UserError where their sizes differ.
    """
    try:
        student.prompt_encoder.load_state_dict(teacher.prompt_encoder.state_dict())
        student.mask_decoder.load_state_dict(teacher.mask_decoder.state_dict())
    except RuntimeError as error:
        raise UserError("the teacher's decoder has other sizes than the student's; use the same decoder") from error
