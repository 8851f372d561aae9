"""Encoder of instructions for policies: a frozen CLIP text tower."""

from collections.abc import Sequence

from torch import Tensor, nn

from .frontend import TinyCLIP


class InstructionEncoder(nn.Module):
    """B instructions to unit vectors (B, D), without gradients and with a cache.

    Attributes:
        width: D.
    """

    def __init__(self, frontend: TinyCLIP):
        super().__init__()
        # A list keeps its weights out of the policy's.
        self._frontend = [frontend.eval()]
        self.width: int = frontend.clip.config.projection_dim

    def forward(self, instructions: Sequence[str]) -> Tensor:
        """Raises UserError for an empty instruction, or one over the token limit."""
        return self._frontend[0].read(instructions)
