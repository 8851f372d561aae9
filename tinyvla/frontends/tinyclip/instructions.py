"""Instructions for policies, read by a frozen CLIP text tower."""

from collections.abc import Sequence

from torch import Tensor, nn

from .frontend import TinyCLIP


class InstructionEncoder(nn.Module):
    """B instructions to (B, D) unit vectors, without gradients; what was read before is remembered.

    Attributes:
        width: D.
    """

    def __init__(self, frontend: TinyCLIP):
        super().__init__()
        # In a list, so that its weights are neither trained nor saved with the policy's.
        self._frontend = [frontend.eval()]
        self.width: int = frontend.clip.config.projection_dim

    def forward(self, instructions: Sequence[str]) -> Tensor:
        """Raises UserError for an empty instruction, or one over the token limit."""
        return self._frontend[0].read(instructions)
