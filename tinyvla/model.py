"""TinyVLA (arXiv 2409.12514): a multimodal backbone whose features condition a generative action decoder."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .backbones import BackboneConfig, Features
from .decoders import DecoderConfig, Known


class TinyVLA(nn.Module):
    """Backbone and decoder behind `loss` and `sample`. The backbone runs once per chunk, not once per denoising step.

    Args:
        token_sizes: widths by name of further tokens that the decoder reads beside the backbone's, such as a
            front-end's tokens of the objects in the instruction.
        waypoints: number of later states of a demonstration that are predicted from the features, for training only;
            see `loss`.
    """

    def __init__(
        self,
        backbone: BackboneConfig,
        decoder: DecoderConfig,
        state_dim: int,
        action_dim: int,
        chunk_size: int,
        token_sizes: Mapping[str, int] | None = None,
        waypoints: int = 0,
    ):
        super().__init__()
        self.chunk_shape = (chunk_size, action_dim)
        self.backbone = backbone.build()
        self.decoder = decoder.build(self.backbone.hidden_size, state_dim, action_dim, chunk_size)
        self.adapters = nn.ModuleDict(
            {name: nn.Linear(size, self.backbone.hidden_size) for name, size in (token_sizes or {}).items()}
        )
        self.waypoint_head = nn.Linear(self.backbone.hidden_size, waypoints * state_dim) if waypoints else None

    def loss(
        self,
        images: Tensor,
        instructions: list[str],
        state: Tensor,
        actions: Tensor,
        is_pad: Tensor,
        tokens: Mapping[str, Tensor] | None = None,
        waypoints: Tensor | None = None,
        waypoint_weight: float = 0.0,
    ) -> Tensor:
        """Scalar loss of B samples: images (B, C, 3, H, W), state (B, S), actions (B, H, A), is_pad (B, H) bool.

        Args:
            tokens: (B, K, width) by name, for every name in `token_sizes`.
            waypoints: (B, W, S), standardised states that the demonstration reaches later. Predicted from images and
                instruction alone, without the present state, they teach the vision towers where the hand has to go.
            waypoint_weight: of their mean squared error in the loss.
        """
        features = self._features(images, instructions, tokens)
        loss = self.decoder.loss(features, state, actions, is_pad)
        if self.waypoint_head is None or waypoints is None:
            return loss
        error = self.waypoint_head(features.mean()).float() - waypoints.flatten(1).float()
        # Weighted as the action loss is, so that processes that share a batch compute the same as one process.
        steps = (~is_pad).sum(1).clamp(min=1)
        return loss + waypoint_weight * (error.square().mean(1) * steps).sum() / steps.sum()

    def sample(
        self,
        images: Tensor,
        instructions: list[str],
        state: Tensor,
        noise: Tensor | None = None,
        known: Known | None = None,
        tokens: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Action chunks (B, H, A) for B observations, from `noise` (B, H, A) or a random draw; see `ActionDecoder`."""
        if noise is None:
            noise = torch.randn(len(state), *self.chunk_shape, device=state.device, dtype=state.dtype)
        return self.decoder.sample(self._features(images, instructions, tokens), state, noise, known)

    def _features(self, images: Tensor, instructions: list[str], tokens: Mapping[str, Tensor] | None) -> Features:
        features = self.backbone(images, instructions)
        if not self.adapters:
            return features
        added = torch.cat([adapt((tokens or {})[name]) for name, adapt in self.adapters.items()], dim=1)
        mask = torch.cat([features.mask, features.mask.new_ones(added.shape[:2])], dim=1)
        return Features(torch.cat([features.tokens, added.to(features.tokens)], dim=1), mask)
