"""The action head of a released TinyVLA policy: its U-Net's names and sizes as those of the decoder here."""

import re
from collections.abc import Mapping

from torch import Tensor

from ..errors import UserError
from .diffusion import DiffusionConfig
from .unet1d import UNet1dConfig

# Beginnings of the authors' names (without `embed_out.`) -> names in `DiffusionDecoder`, applied one after the other.
_RULES = [
    (r"^norm_after_pool\.", "condition.norm."),
    (r"^combine\.", "condition.combine."),
    (r"^diffusion_step_encoder\.", "network.step_embedding."),
    (r"^down_modules\.(\d+)\.2\.conv\.", r"network.shrink.\1."),
    (r"^up_modules\.(\d+)\.2\.conv\.", r"network.grow.\1."),
    (r"^(down|up)_modules\.", r"network.\1."),
    (r"^mid_modules\.", "network.middle."),
    (r"^final_conv\.0\.block\.", "network.final.0."),
    (r"^final_conv\.1\.", "network.final.1."),
    (r"\.blocks\.0\.block\.", ".first."),
    (r"\.blocks\.1\.block\.", ".second."),
    (r"\.cond_encoder\.1\.", ".film."),
    (r"\.residual_conv\.", ".skip."),
]
_WIDTH = "down_modules.{}.0.blocks.0.block.0.weight"


def decoder_config(head: Mapping[str, Tensor]) -> DiffusionConfig:
    """Options of the decoder that an action head's tensors belong to, as released: epsilon, DDIM in 10 of 100 steps.

    Raises UserError if there is no U-Net among them.
    """
    try:
        convolutions: list[Tensor] = []
        while (name := _WIDTH.format(len(convolutions))) in head:
            convolutions.append(head[name])
        network = UNet1dConfig(
            widths=[convolution.shape[0] for convolution in convolutions],
            kernel_size=convolutions[0].shape[2],
            step_embedding=head["diffusion_step_encoder.1.weight"].shape[1],
            bfloat16_steps=True,
            identity_film=False,
        )
        return DiffusionConfig(network=network, prediction_type="epsilon")
    except (IndexError, KeyError, ValueError) as error:
        raise UserError(f"the action head is not the released U-Net ({error}); get a policy with that head") from error


def decoder_weights(head: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An action head's tensors under the names of `DiffusionDecoder`; names without a rule are returned unchanged."""
    return {rename(name): tensor for name, tensor in head.items()}


def rename(name: str) -> str:
    """Name of a tensor in `DiffusionDecoder`, from the authors' name without `embed_out.`."""
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return name
