"""Warning about networks that a run would leave at their random initial weights.

Pretrained vision-language models are usually frozen, or adapted by LoRA. Without their weights the rest of a policy
would be trained on the features of a network that never learns.
"""

from typing import Any

from lerobot.configs import PreTrainedConfig

from tinyvla.backbones.pretrained import PretrainedBackboneConfig
from tinyvla.files import finished_checkpoints

from ..tinyvla import TinyVLAConfig
from .settings import RunSettings

_OFFLINE = "offline/"  # beginning of the names of models that are made here, with random weights


def warn_of_frozen_networks(settings: RunSettings) -> str | None:
    """One line about the networks of a new run that are random and frozen, with the fix; None: there are none.

    A run that takes its weights from a checkpoint (`init_from`, or an earlier part of it) has none.
    """
    if settings.init_from or finished_checkpoints(settings.run_dir):
        return None
    return frozen_random_network(settings.policy)


def frozen_random_network(config: PreTrainedConfig) -> str | None:
    """One line about the networks of a fresh policy that are random and frozen, with the fix; None: there are none."""
    if isinstance(config, TinyVLAConfig):
        return _of_backbone(config.backbone)
    find = {"smolvla": _of_smolvla, "multi_task_dit": _of_multi_task_dit}.get(config.type)
    return None if find is None else find(config)


def _of_backbone(backbone: Any) -> str | None:
    if not isinstance(backbone, PretrainedBackboneConfig) or backbone.pretrained is not None:
        return None
    released = "add backbone.pretrained=released"
    if backbone.lora.r:
        fix = f"{released}, or train them in full with backbone.lora.r=0 backbone.freeze_vision=false"
        return _warning("the vision tower and the language model of the backbone are", fix)
    if backbone.freeze_vision:
        return _warning("the vision tower of the backbone is", f"{released}, or backbone.freeze_vision=false")
    return None


def _of_smolvla(config: Any) -> str | None:
    has_weights = config.load_vlm_weights and not config.vlm_model_name.startswith(_OFFLINE)
    if has_weights or not (config.train_expert_only or config.freeze_vision_encoder):
        return None
    network = "vision-language model" if config.train_expert_only else "vision encoder"
    train_it = "policy.train_expert_only=false policy.freeze_vision_encoder=false"
    released = f"add policy.load_vlm_weights=true, or train it with {train_it}"
    return _warning(
        f"the {network} of policy=smolvla is",
        f"add {train_it}" if config.vlm_model_name.startswith(_OFFLINE) else released,
    )


def _of_multi_task_dit(config: Any) -> str | None:
    if not config.text_encoder_name.startswith(_OFFLINE):
        return None
    return _warning(
        "the text encoder of policy=multi_task_dit is",
        "LeRobot always freezes it, so where there is a model hub add "
        "policy.text_encoder_name=openai/clip-vit-base-patch16 policy.tokenizer_max_length=77",
    )


def _warning(network: str, fix: str) -> str:
    return f"{network} random and frozen: the rest of the policy learns on features that never do; {fix}"
