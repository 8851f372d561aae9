"""Pretrained models inside LeRobot's policies: weights of torchvision, models of the hub or small ones made offline.

A checkpoint holds the architecture and the tokenizer of these models, so that it loads on any machine; their weights
are among the policy's own.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lerobot.configs import PreTrainedConfig

from tinyvla.errors import UserError, one_line
from tinyvla.hub_files import check_model_folder, check_model_options, is_hub_id
from tinyvla.untrusted import inside

if TYPE_CHECKING:
    from lerobot.policies import PreTrainedPolicy

FOLDER = "models"  # of a checkpoint

# By policy: the fields of its configuration that name a model, and the model's folder in a checkpoint. The last one has
# the tokenizer. LeRobot needs "clip" in the name of a CLIP.
MODELS = {
    "smolvla": {"vlm_model_name": "smolvlm"},
    "multi_task_dit": {"vision_encoder_name": "clip_vision", "text_encoder_name": "clip_text"},
}


_MODEL_TYPES = {
    "vlm_model_name": {"smolvlm"},
    "vision_encoder_name": {"clip", "clip_vision_model"},
    "text_encoder_name": {"clip", "clip_text_model"},
}


def resolve_models(config: PreTrainedConfig) -> None:
    """Replace the `offline/...` models in a policy's configuration by their folders; makes the models if needed.

    Raises UserError for an unknown one.
    """
    for field in MODELS.get(config.type, ()):
        from .offline_models import PREFIX, offline_model  # imports transformers, and most policies need none

        name = getattr(config, field)
        if name.startswith(PREFIX):
            setattr(config, field, str(offline_model(name)))


def save_models(policy: "PreTrainedPolicy", preprocessor: Any, directory: Path) -> None:
    """Add the architectures and tokenizers of a policy's pretrained models to a checkpoint; most policies have none."""
    from .offline_models import write_model

    model: Any = policy
    if policy.config.type == "smolvla":
        vlm = model.model.vlm_with_expert
        write_model(directory / FOLDER / "smolvlm", vlm.config, vlm.processor)
    elif policy.config.type == "multi_task_dit":
        from lerobot.processor import TokenizerProcessorStep

        encoder = model.observation_encoder
        vision = encoder.vision_encoder or encoder.vision_encoders[0]
        tokenizer_step = next(step for step in preprocessor.steps if isinstance(step, TokenizerProcessorStep))
        write_model(directory / FOLDER / "clip_vision", vision.model.config)
        write_model(
            directory / FOLDER / "clip_text", encoder.text_encoder.text_encoder.config, tokenizer_step.input_tokenizer
        )


def use_checkpoint_models(config: PreTrainedConfig, directory: Path) -> dict[str, dict[str, Any]]:
    """Make a checkpoint's configuration use the models in the checkpoint itself, or those of the hub that it names.

    Returns the overrides of its pre-processor. Raises UserError for a model that is neither, or that would run code.
    """
    if hasattr(config, "pretrained_backbone_weights"):
        config.pretrained_backbone_weights = None  # the policy's own weights follow
    overrides = {}
    for field, name in MODELS.get(config.type, {}).items():
        folder = inside(directory, f"{FOLDER}/{name}")
        if folder.is_dir():
            check_model_folder(folder, _MODEL_TYPES[field])
            setattr(config, field, str(folder))
        else:
            _check_hub_model(getattr(config, field), field)
        overrides = {"tokenizer_processor": {"tokenizer_name": getattr(config, field)}}
    return overrides


def _check_hub_model(name: Any, field: str) -> None:
    """Raise UserError unless `name` is a model of the hub whose options run no code."""
    if not is_hub_id(name):
        raise UserError(
            f"config.json: {field} is {str(name)[:80]!r}, neither an id of the model hub nor a model in the "
            f"checkpoint; get a checkpoint with its folder '{FOLDER}'"
        )
    from huggingface_hub.errors import HfHubHTTPError

    try:
        check_model(name, field)
    except (OSError, HfHubHTTPError) as error:
        raise UserError(
            f"the model '{name}' could not be downloaded from the model hub ({_reason(error)}); check the network"
        ) from error


def check_model(name: str, field: str) -> None:
    """Raise UserError for a folder, or a model of the hub, that would run code. Raises OSError where it is neither."""
    from huggingface_hub import snapshot_download

    if Path(name).is_dir():
        check_model_folder(Path(name), _MODEL_TYPES[field])
    else:
        check_model_options(Path(snapshot_download(name, allow_patterns=["*.json", "*.txt"])))


def fetch_pretrained(config: PreTrainedConfig) -> None:
    """Download the pretrained weights of a policy that are not on this machine. Raises UserError if that fails."""
    if weights := getattr(config, "pretrained_backbone_weights", None):
        from torchvision.models import get_model_weights

        try:
            get_model_weights(config.vision_backbone).verify(weights).get_state_dict(check_hash=True)
        except (KeyError, ValueError, TypeError) as error:
            raise UserError(
                f"torchvision has no weights '{weights}' for {config.vision_backbone}; use "
                "policy.pretrained_backbone_weights=DEFAULT or, for a start from scratch, =null"
            ) from error
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"torchvision's weights '{weights}' could not be downloaded ({_reason(error)}); check the network, or "
                "start from scratch with policy.pretrained_backbone_weights=null, as preset=cpu does"
            ) from error
    from huggingface_hub.errors import HfHubHTTPError

    for field in MODELS.get(config.type, ()):
        name = getattr(config, field)
        try:
            check_model(name, field)
            for kind in _loaders(config, field):
                kind.from_pretrained(name)
        except (OSError, ValueError, HfHubHTTPError) as error:
            raise UserError(
                f"the model '{name}' is not a folder here and could not be downloaded from the model hub "
                f"({_reason(error)}); check its name and the network, set policy.{field} to a local folder, or use "
                "preset=cpu, which needs no download"
            ) from error


def _loaders(config: Any, field: str) -> list[Any]:
    """Classes that LeRobot loads the model of a field with."""
    from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, CLIPTextModel, CLIPVisionModel

    if field == "vlm_model_name":
        return [AutoProcessor, *([AutoModelForImageTextToText] if config.load_vlm_weights else [])]
    return [CLIPVisionModel] if field == "vision_encoder_name" else [AutoTokenizer, CLIPTextModel]


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error, 120)}"
