"""Training in phases: VQ-BeT's.

VQ-BeT (arXiv 2403.03181, section 3.2) first learns a code of actions, then freezes the code and learns to predict it.
LeRobot's VQ-BeT switches on its own; every other policy has one phase.
"""

from typing import Any

import torch
from lerobot.policies import PreTrainedPolicy
from lerobot.policies.vqbet.vqbet_utils import EuclideanCodebook
from torch import nn


def training_phase(policy: PreTrainedPolicy) -> int:
    """Phase of the policy's next step: 0, or 1 after VQ-BeT's action code is frozen."""
    coder = _action_coder(policy)
    return int(coder is not None and coder.discretized.item())


def resume_phase(policy: PreTrainedPolicy, step: int) -> None:
    """Restore the phase of a policy whose weights of step `step` have just been loaded."""
    if (coder := _action_coder(policy)) is not None:
        coder.optimized_steps = step  # a plain number, which is not in LeRobot's checkpoints
        coder.train(not coder.discretized.item())


def keep_codebooks_precise(policy: PreTrainedPolicy, device_type: str) -> None:
    """Compute VQ-BeT's codebooks without autocast on every device: they are float32, and LeRobot does so on CUDA only.

    In training only: prediction looks codes up.
    """
    coder = _action_coder(policy)
    for module in coder.modules() if coder is not None else ():
        if isinstance(module, EuclideanCodebook):
            module.forward = torch.autocast(device_type, enabled=False)(module.forward)


def averaged_parameters(policy: PreTrainedPolicy) -> dict[str, nn.Parameter]:
    """Trainable parameters by name that may be replaced by their running averages.

    Not VQ-BeT's action coder: its codebooks are not parameters, and an averaged decoder would not fit them.
    """
    coder = _action_coder(policy)
    excluded = {id(parameter) for parameter in coder.parameters()} if coder is not None else set()
    return {name: p for name, p in policy.named_parameters() if p.requires_grad and id(p) not in excluded}


def _action_coder(policy: PreTrainedPolicy) -> Any:
    """VQ-BeT's residual VQ-VAE, None for other policies."""
    model: Any = policy
    return model.vqbet.action_head.vqvae_model if policy.config.type == "vqbet" else None
