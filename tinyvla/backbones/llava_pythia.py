"""The released TinyVLA's backbone (arXiv 2409.12514, section 3.1): CLIP or SigLIP, MLP projector, Pythia.

Weights come from the hub ids below or from a folder in the same layout: a config.json of type `llava_pythia` (GPT-NeoX
fields, and `vision_config` with `vision_tower` and `mm_projector`), tensors under `gpt_neox.`, `gpt_neox.vision_tower.`
and `gpt_neox.mm_projector.`, and a tokenizer.json.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from ..errors import UserError
from ..hub_files import AUTHORS_HINT
from ..ranges import check_range
from .base import BackboneConfig
from .pretrained import PretrainedBackbone, PretrainedBackboneConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Layers, width and heads of Pythia-70M, -410M and -1B.
PYTHIA_SHAPES = {"s": (6, 512, 8), "b": (24, 1024, 16), "h": (16, 2048, 8)}
MAX_SPACES = 8

# Fields of config.json that describe the architecture; the others are about training and text generation.
VISION_FIELDS = {
    *("hidden_size", "intermediate_size", "num_attention_heads", "num_channels", "image_size", "patch_size"),
    *("hidden_act", "layer_norm_eps", "attention_dropout"),
}
LANGUAGE_FIELDS = {
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act"),
    *("layer_norm_eps", "max_position_embeddings", "rotary_pct", "rotary_emb_base", "rope_parameters"),
    *("use_parallel_residual", "attention_bias", "attention_dropout", "hidden_dropout"),
}

# The language head, the vision layers after the patch tokens, and buffers that older libraries stored.
UNUSED = re.compile(
    r"embed_out\.weight$|vision_tower\.vision_model\.(head|post_layernorm)\.|.*(rotary_emb\.|attention\.(masked_)?bias$|position_ids$)"
)


@BackboneConfig.register_subclass("llava_pythia")
@dataclass
class LlavaPythiaConfig(PretrainedBackboneConfig):
    """Options of the LLaVA-Pythia backbone, beside those that every pretrained one has.

    Args:
        size: `s`, `b` or `h`, about 0.4, 0.7 and 1.3 billion parameters.
        image_size: side in pixels that images are resized to after they are padded to a square (a multiple of the patch
            size); None: the vision tower's own. Position embeddings are interpolated to other sizes.
        training_spaces: spaces after `ASSISTANT:` in training. The released training has 2. A policy that acts
            has 1, as the released inference.
    """

    size: str = "s"
    image_size: int | None = None
    training_spaces: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "training_spaces", low=1, high=MAX_SPACES)

    def build(self) -> "LlavaPythiaBackbone":
        return LlavaPythiaBackbone(self)


class LlavaPythiaBackbone(PretrainedBackbone):
    """LLaVA-Pythia: CLIP or SigLIP patch tokens, a two-layer MLP, GPT-NeoX."""

    MODEL_TYPE = "llava_pythia"
    HUB_IDS: ClassVar = {
        "s": "lesjie/Llava-Pythia-400M",
        "b": "lesjie/Llava-Pythia-700M",
        "h": "lesjie/Llava-Pythia-1.3B",
    }
    PROMPT = (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. USER: ",
        "\n{instruction} ASSISTANT: <|endoftext|>",
    )
    UNUSED_PARTS = "the language head, and the vision tower after the layer whose patch tokens are read"

    @staticmethod
    def released_architecture(size: str) -> dict[str, Any]:
        layers, width, heads = PYTHIA_SHAPES[size]
        return {
            "model_type": "llava_pythia",
            "vocab_size": 50304,
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": 4 * width,
            "rotary_pct": 0.25,
            "vision_config": {
                "vision_tower": {
                    "vision_model_name_or_path": "openai/clip-vit-large-patch14-336",
                    "hidden_size": 1024,
                    "intermediate_size": 4096,
                    "num_hidden_layers": 24,
                    "num_attention_heads": 16,
                    "image_size": 336,
                    "patch_size": 14,
                    "mm_vision_select_layer": -2,
                },
                "mm_projector": {"mm_projector_type": "mlp2x_gelu", "mm_hidden_size": 1024, "hidden_size": width},
            },
        }

    def _build(self, config: LlavaPythiaConfig, architecture: dict[str, Any]) -> None:
        from transformers import GPTNeoXConfig, GPTNeoXModel

        vision = architecture["vision_config"]
        self.vision_tower, self.colours = _vision_tower(vision["vision_tower"])
        self.projector = _projector(vision["mm_projector"])
        fields = {key: value for key, value in architecture.items() if key in LANGUAGE_FIELDS}
        self.language_model = GPTNeoXModel(GPTNeoXConfig(**fields))
        self.training_spaces = config.training_spaces
        self.image_size = config.image_size or self.vision_tower.config.image_size
        if self.image_size % (patch := self.vision_tower.config.patch_size):
            raise UserError(f"backbone.image_size must be a multiple of {patch}, got {self.image_size}")

    def prompt(self, instruction: str) -> str:
        answer, end = super().prompt(instruction).rsplit(" ", 1)
        return answer + " " * (self.training_spaces if self.training else 1) + end

    def _rename(self, name: str) -> str | None:
        name = name.removeprefix("gpt_neox.")
        if UNUSED.match(name):
            return None
        if name.startswith("embed_out."):
            raise UserError(f"{name} is a tensor of an action head, not of a backbone; {AUTHORS_HINT}")
        if name.startswith("mm_projector."):
            return name.replace("mm_projector", "projector", 1)
        if not name.startswith("vision_tower."):
            return f"language_model.{name}"
        layer = re.match(r"vision_tower\.vision_model\.encoder\.layers\.(\d+)\.", name)
        if layer and int(layer[1]) >= self.vision_tower.config.num_hidden_layers:
            return None
        return name.replace("vision_model.", "", 1)

    def _patch_features(self, pixels: Tensor) -> Tensor:
        patches = self.vision_tower(pixels, interpolate_pos_encoding=True).last_hidden_state
        return patches[:, 1:] if self.vision_tower.config.model_type == "clip_vision_model" else patches  # class token

    def _project(self, features: Tensor) -> Tensor:
        return self.projector(features)


def _vision_tower(fields: dict[str, Any]) -> tuple["PreTrainedModel", tuple[list[float], list[float]]]:
    """The vision tower up to the layer whose patch tokens are used, and its default mean and standard deviation.

    Later layers are left out: they would cost time and memory and never learn.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

    name = fields["vision_model_name_or_path"].lower()
    options = {key: value for key, value in fields.items() if key in VISION_FIELDS}
    # There is one more hidden state than layers: -1 is the last layer's output and -2 the one before.
    options["num_hidden_layers"] = fields["num_hidden_layers"] + 1 + fields.get("mm_vision_select_layer", -2)
    tower: PreTrainedModel
    if "siglip" in name:
        tower = SiglipVisionModel(SiglipVisionConfig(**options, vision_use_head=False))
        colours = ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
    elif "clip" in name:
        tower = CLIPVisionModel(CLIPVisionConfig(**options))
        colours = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
    else:
        raise UserError(f"vision tower '{name}' is neither CLIP nor SigLIP; use a checkpoint with one of them")
    tower = getattr(tower, "vision_model", tower)  # some versions of transformers wrap it
    tower.post_layernorm = nn.Identity()
    return tower, colours


def _projector(fields: dict[str, Any]) -> nn.Sequential:
    if (kind := fields["mm_projector_type"]) != "mlp2x_gelu":
        raise UserError(f"projector '{kind}' is not mlp2x_gelu; use a checkpoint with that one")
    width = fields["hidden_size"]
    return nn.Sequential(nn.Linear(fields["mm_hidden_size"], width), nn.GELU(), nn.Linear(width, width))
