"""What LeRobot's policies are built from: weights of torchvision, models of the hub or small ones made offline.

A checkpoint carries the architecture and the tokenizer of the models it is built from, so that it loads anywhere; their
weights are among the policy's own.
"""

from pathlib import Path
from typing import Any

from lerobot.configs import PreTrainedConfig
from lerobot.policies import PreTrainedPolicy
from lerobot.processor import TokenizerProcessorStep
from torchvision.models import get_model_weights
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, CLIPTextModel, CLIPVisionModel

from tinyvla.errors import UserError

from .offline_models import PREFIX, offline_model, write_model

FOLDER = "models"  # of a checkpoint

# By policy: the fields of its configuration that name a model, and what that is called in a checkpoint. The last one
# has the tokenizer. LeRobot wants "clip" in the name of a CLIP.
_MODELS = {
    "smolvla": {"vlm_model_name": "smolvlm"},
    "multi_task_dit": {"vision_encoder_name": "clip_vision", "text_encoder_name": "clip_text"},
}


def resolve_models(config: PreTrainedConfig) -> None:
    """Make the `offline/...` models that a policy's configuration names, once, and name their folders instead.

    Raises UserError for one that there is not.
    """
    for field in _MODELS.get(config.type, ()):
        name = getattr(config, field)
        if name.startswith(PREFIX):
            setattr(config, field, str(offline_model(name)))


def save_models(policy: PreTrainedPolicy, preprocessor: Any, directory: Path) -> None:
    """Add to a checkpoint what rebuilds the models that the policy is built around; nothing for most policies."""
    model: Any = policy
    if policy.config.type == "smolvla":
        vlm = model.model.vlm_with_expert
        write_model(directory / FOLDER / "smolvlm", vlm.config, vlm.processor)
    elif policy.config.type == "multi_task_dit":
        encoder = model.observation_encoder
        vision = encoder.vision_encoder or encoder.vision_encoders[0]
        reading = next(step for step in preprocessor.steps if isinstance(step, TokenizerProcessorStep))
        write_model(directory / FOLDER / "clip_vision", vision.model.config)
        write_model(directory / FOLDER / "clip_text", encoder.text_encoder.text_encoder.config, reading.input_tokenizer)


def use_carried_models(config: PreTrainedConfig, directory: Path) -> dict[str, dict[str, Any]]:
    """Let a checkpoint's configuration ask for nothing but what the checkpoint carries.

    Returns what its pre-processor must then override.
    """
    if hasattr(config, "pretrained_backbone_weights"):
        config.pretrained_backbone_weights = None  # the policy's own weights follow
    overrides = {}
    for field, name in _MODELS.get(config.type, {}).items():
        folder = directory / FOLDER / name
        if folder.is_dir():
            setattr(config, field, str(folder))
            overrides = {"tokenizer_processor": {"tokenizer_name": str(folder)}}
    return overrides


def fetch_pretrained(config: PreTrainedConfig) -> None:
    """Fetch what a policy begins with, where it is not here yet. Raises UserError, with what to do, if that fails."""
    if weights := getattr(config, "pretrained_backbone_weights", None):
        try:
            get_model_weights(config.vision_backbone).verify(weights).get_state_dict(check_hash=True)
        except (KeyError, ValueError, TypeError) as error:
            raise UserError(
                f"torchvision has no weights '{weights}' for {config.vision_backbone}; use "
                "policy.pretrained_backbone_weights=DEFAULT or, for a start from scratch, =null"
            ) from error
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"torchvision's weights '{weights}' could not be fetched ({_reason(error)}); check the network, or "
                "start from scratch with policy.pretrained_backbone_weights=null, as preset=cpu does"
            ) from error
    for field in _MODELS.get(config.type, ()):
        name = getattr(config, field)
        try:
            for kind in _loaders(config, field):
                kind.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise UserError(
                f"the model '{name}' is no folder here and could not be fetched from the model hub ({_reason(error)}); "
                f"check its name and the network, set policy.{field} to a local folder, or use preset=cpu, which needs "
                "no download"
            ) from error


def _loaders(config: Any, field: str) -> list[Any]:
    """What LeRobot reads the model of a field with."""
    if field == "vlm_model_name":
        return [AutoProcessor, *([AutoModelForImageTextToText] if config.load_vlm_weights else [])]
    return [CLIPVisionModel] if field == "vision_encoder_name" else [AutoTokenizer, CLIPTextModel]


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
