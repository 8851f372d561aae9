"""SmolVLM2 (arXiv 2504.05299) as a backbone: SigLIP, pixel shuffle and a linear connector, SmolLM2."""

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .base import BackboneConfig
from .pretrained import PretrainedBackbone, PretrainedBackboneConfig

# Layers, width, feed-forward width, heads and key-value heads of SmolLM2-135M and -360M.
TEXT_SHAPES = {"256M": (30, 576, 1536, 9, 3), "500M": (32, 960, 2560, 15, 5)}


@BackboneConfig.register_subclass("smolvlm")
@dataclass
class SmolVLMConfig(PretrainedBackboneConfig):
    """Options of the SmolVLM2 backbone, beside those that every pretrained one has.

    Args:
        size: `256M` or `500M`.
        num_layers: number of text layers, the first ones (SmolVLA uses half, arXiv 2506.01844); None: all.
    """

    size: str = "256M"
    num_layers: int | None = None

    def build(self) -> "SmolVLMBackbone":
        return SmolVLMBackbone(self)


class SmolVLMBackbone(PretrainedBackbone):
    """SmolVLM2; every camera's image is one tile of 64 tokens, never split into sub-images."""

    MODEL_TYPE = "smolvlm"
    HUB_IDS: ClassVar = {
        "256M": "HuggingFaceTB/SmolVLM2-256M-Video-Instruct",
        "500M": "HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
    }
    PROMPT = ("<|im_start|>User:", "{instruction}<end_of_utterance>\nAssistant:")
    UNUSED_PARTS = "the language head, and text layers after backbone.num_layers"
    IMAGE_MARKS = ("<fake_token_around_image><global-img>", "<fake_token_around_image>")  # around a camera's tokens

    @staticmethod
    def released_architecture(size: str) -> dict[str, Any]:
        layers, width, intermediate, heads, key_value_heads = TEXT_SHAPES[size]
        return {
            "model_type": "smolvlm",
            "scale_factor": 4,
            "vision_config": {
                "model_type": "smolvlm_vision",
                "hidden_size": 768,
                "intermediate_size": 3072,
                "num_hidden_layers": 12,
                "num_attention_heads": 12,
                "image_size": 512,
                "patch_size": 16,
            },
            "text_config": {
                "model_type": "llama",
                "vocab_size": 49280,
                "hidden_size": width,
                "intermediate_size": intermediate,
                "num_hidden_layers": layers,
                "num_attention_heads": heads,
                "num_key_value_heads": key_value_heads,
                "head_dim": 64,
                "rms_norm_eps": 1e-5,
                "rope_theta": 100_000,
                "max_position_embeddings": 8192,
            },
        }

    def _build(self, config: SmolVLMConfig, architecture: dict[str, Any]) -> None:
        from transformers import SmolVLMConfig as Architecture
        from transformers import SmolVLMModel

        fields = copy.deepcopy(architecture)
        if config.num_layers is not None:
            fields["text_config"]["num_hidden_layers"] = config.num_layers
        # transformers creates the modules in the dtype that config.json names for storage.
        model = SmolVLMModel(Architecture.from_dict(fields)).to(torch.get_default_dtype())
        self.vision_tower, self.connector, self.language_model = model.vision_model, model.connector, model.text_model
        self.image_size = self.vision_tower.config.image_size
        self.colours = ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])

    def _rename(self, name: str) -> str | None:
        module, _, rest = name.removeprefix("model.").partition(".")
        if module == "lm_head":
            return None
        if module == "text_model" and rest.startswith("layers."):
            layer = int(rest.split(".")[1])
            if layer >= self.language_model.config.num_hidden_layers:
                return None
        names = {"vision_model": "vision_tower", "text_model": "language_model"}
        return f"{names.get(module, module)}.{rest}"

    def _patch_features(self, pixels: Tensor) -> Tensor:
        return self.vision_tower(pixels).last_hidden_state

    def _project(self, features: Tensor) -> Tensor:
        tiles = self.connector(features)
        marks = (self.embed_texts([mark]).embedded for mark in self.IMAGE_MARKS)
        before, after = (mark.expand(len(tiles), -1, -1).to(tiles.dtype) for mark in marks)
        return torch.cat([before, tiles, after], dim=1)
