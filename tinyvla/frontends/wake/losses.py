"""Loss of the person detector."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from .frontend import Wake


class WakeLoss(nn.Module):
    """Binary cross-entropy on a batch of `images` (B, 3, S, S) and `person` (B,), and the accuracy."""

    def __init__(self, wake: Wake):
        super().__init__()
        self.wake = wake

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        logits = self.wake(batch["images"])
        loss = F.binary_cross_entropy_with_logits(logits, batch["person"])
        return loss, {"accuracy": float(((logits > 0) == (batch["person"] > 0)).float().mean())}
