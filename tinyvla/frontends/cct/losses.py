"""Loss of a classifier that learns from labels."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..classifier import Classifier


class ClassifierLoss(nn.Module):
    """Cross-entropy on a batch of `images` (B, 3, S, S) in [0, 1] and `labels` (B,) long, and the accuracy."""

    def __init__(self, classifier: Classifier, label_smoothing: float = 0.0):
        super().__init__()
        self.classifier, self.label_smoothing = classifier, label_smoothing

    def forward(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, float] | None]:
        loss, logits = self.loss(batch)
        return loss, {"accuracy": (logits.argmax(-1) == batch["labels"]).float().mean().item()}

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Scalar loss and logits (B, classes)."""
        logits = self.classifier(batch["images"])
        return F.cross_entropy(logits.float(), batch["labels"], label_smoothing=self.label_smoothing), logits
