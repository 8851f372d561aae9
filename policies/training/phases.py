"""What a policy that is trained in phases needs of the trainer.

VQ-BeT (arXiv 2403.03181, section 3.2) first learns to code actions, then freezes the code and learns to predict it.
LeRobot switches by itself; every other policy has one phase.
"""

from typing import Any

import torch
from lerobot.policies import PreTrainedPolicy
from lerobot.policies.vqbet.vqbet_utils import EuclideanCodebook
from torch import nn


def training_phase(policy: PreTrainedPolicy) -> int:
    """Which of its losses the policy's next step is about: 0, or 1 once VQ-BeT's action code is frozen."""
    coder = _action_coder(policy)
    return int(coder is not None and coder.discretized.item())


def resume_phase(policy: PreTrainedPolicy, step: int) -> None:
    """Put a policy whose weights of step `step` have just been loaded in the phase that it was in."""
    if (coder := _action_coder(policy)) is not None:
        coder.optimized_steps = step  # a plain number, which no checkpoint of LeRobot's holds
        coder.train(not coder.discretized.item())


def keep_codebooks_precise(policy: PreTrainedPolicy, device_type: str) -> None:
    """Take VQ-BeT's codebooks out of autocast, on whatever device: LeRobot does so on CUDA alone, and they are float32.

    Only while training: what a policy predicts looks codes up.
    """
    coder = _action_coder(policy)
    for module in coder.modules() if coder is not None else ():
        if isinstance(module, EuclideanCodebook):
            module.forward = torch.autocast(device_type, enabled=False)(module.forward)


def averaged_parameters(policy: PreTrainedPolicy) -> dict[str, nn.Parameter]:
    """By name, the trainable parameters that may be replaced by their running averages.

    Not VQ-BeT's action coder: its codebooks are no parameters, and an averaged decoder would not fit them.
    """
    coder = _action_coder(policy)
    kept = {id(parameter) for parameter in coder.parameters()} if coder is not None else set()
    return {name: p for name, p in policy.named_parameters() if p.requires_grad and id(p) not in kept}


def _action_coder(policy: PreTrainedPolicy) -> Any:
    """VQ-BeT's residual VQ-VAE, None for other policies."""
    model: Any = policy
    return model.vqbet.action_head.vqvae_model if policy.config.type == "vqbet" else None
