"""Base of the backbones that are pretrained vision-language models: options, prompt, images, assets, LoRA."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from ..errors import UserError, one_line
from ..hub_files import check_model_options, check_tokens
from ..network_size import bounded_network
from ..untrusted import check_values
from .base import Backbone, BackboneConfig, Features, Words
from .checkpoint import (
    FileTokenizer,
    fetch_checkpoint,
    place_weights,
    read_colours,
    read_json,
    read_weights,
    weight_files,
)
from .lora import LoRAConfig, add_lora
from .tokenizer import HashTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class PretrainedBackboneConfig(BackboneConfig):
    """Options that every pretrained backbone has.

    Args:
        size: one of the released sizes.
        pretrained: `released` for the hub id of that size, another hub id or a local folder (either of which sets the
            architecture in place of `size`), or None for random weights in the released shape.
        assets: folder that `save_assets` wrote: the architecture without weights. Set when a checkpoint is loaded.
        lora: low-rank adaptation of vision tower and language model; the layers between them are trained in full.
        gradient_checkpointing: recompute activations in the backward pass: less memory, about a third more time.
        freeze_vision: do not train the vision tower, and give it no LoRA.
        cache_features: compute the frozen tower's features once, keep them beside the dataset and train on them; needs
            freeze_vision, and images that are not augmented.
    """

    size: str = ""
    pretrained: str | None = "released"
    assets: str | None = None
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    gradient_checkpointing: bool = False
    freeze_vision: bool = False
    cache_features: bool = False  # type: ignore[assignment]  # a property of the base

    def __post_init__(self) -> None:
        if self.cache_features and not self.freeze_vision:
            raise ValueError(
                "cache_features needs a tower that does not learn: set backbone.freeze_vision=true as well"
            )

    def to_save(self) -> Self:
        return replace(self, assets=None)

    def for_checkpoint(self, assets: Path | None) -> Self:
        return replace(self, assets=str(assets)) if assets else self


class PretrainedBackbone(Backbone):
    """Vision tower, projector and causal language model, with the prompt that they were pretrained with.

    Tokens: the prompt's opening, every camera's image tokens, then the instruction and the prompt's end. The
    constructor raises UserError if the checkpoint cannot be downloaded, read or understood.

    Attributes:
        MODEL_TYPE: `model_type` of config.json.
        HUB_IDS: hub ids by size.
        PROMPT: text before the images, and text after them with {instruction}.
        UNUSED_PARTS: stored weights that the backbone has no place for, in words.
        image_size: side in pixels of the vision tower's images.
        colours: mean and standard deviation that images are normalised with.
    """

    MODEL_TYPE: str
    HUB_IDS: ClassVar[dict[str, str]]
    PROMPT: tuple[str, str]
    UNUSED_PARTS: str
    exportable = False  # `encode` embeds fixed texts

    vision_tower: "PreTrainedModel"
    language_model: "PreTrainedModel"
    image_size: int
    colours: tuple[list[float], list[float]]

    def __init__(self, config: Any):
        super().__init__()
        if config.size not in self.HUB_IDS:
            raise UserError(f"unknown backbone.size '{config.size}'; use one of {', '.join(self.HUB_IDS)}")
        folder = self._find(config)
        self.architecture = read_json(folder / "config.json") if folder else self.released_architecture(config.size)
        if (model_type := self.architecture.get("model_type")) != self.MODEL_TYPE:
            raise UserError(
                f"{folder} holds a model of type '{model_type}', not {self.MODEL_TYPE}; "
                "set backbone.pretrained to a checkpoint of that type or choose another backbone"
            )
        if folder:
            check_values(self.architecture, f"{folder}/config.json")
            check_model_options(folder)
            if not config.assets:  # which are checked with their checkpoint
                check_tokens(folder / FileTokenizer.FILE)
        weights_folder = None if config.assets else folder
        try:
            with _bounded(weights_folder):
                self._build(config, self.architecture)
        except KeyError as error:
            raise UserError(f"{folder}/config.json lacks {error}; download the checkpoint again") from error
        except (TypeError, ValueError, AttributeError, RuntimeError, StrictDataclassError) as error:
            if folder is None:
                raise
            reason = f"{type(error).__name__}: {one_line(error, 150)}"
            raise UserError(f"{folder}/config.json describes no network ({reason}); download it again") from error
        self.hidden_size = self.language_model.config.hidden_size

        self.tokenizer: FileTokenizer | HashTokenizer = HashTokenizer(self.language_model.config.vocab_size)
        if folder and (not config.assets or (folder / FileTokenizer.FILE).is_file()):
            self.tokenizer = FileTokenizer(folder)
        if folder and (colours := read_colours(folder)):
            self.colours = colours
        if weights_folder:
            self.place_weights(read_weights(weights_folder), weights_folder)

        if config.freeze_vision:
            self.vision_tower.requires_grad_(False)
        for tower in (self.language_model,) if config.freeze_vision else (self.vision_tower, self.language_model):
            add_lora(tower, config.lora)
            if config.gradient_checkpointing:
                tower.gradient_checkpointing_enable({"use_reentrant": False})

    @staticmethod
    def released_architecture(size: str) -> dict[str, Any]:
        """Architecture of a released size, as in its config.json."""
        raise NotImplementedError

    def _build(self, config: Any, architecture: dict[str, Any]) -> None:
        """Set `vision_tower`, `language_model`, the layers between them, `image_size` and `colours`."""
        raise NotImplementedError

    def _rename(self, name: str) -> str | None:
        """Name in this module of a checkpoint's tensor, None if it is not used."""
        raise NotImplementedError

    def place_weights(self, stored: Mapping[str, Tensor], source: Path | str) -> None:
        """Copy a checkpoint's tensors, by their stored names, into this backbone; see `checkpoint.place_weights`."""
        place_weights(self, stored, self._rename, source, self.UNUSED_PARTS)

    def _patch_features(self, pixels: Tensor) -> Tensor:
        """Features of the vision tower (N, P, V) for images (N, 3, S, S) from `square_images`."""
        raise NotImplementedError

    def _project(self, features: Tensor) -> Tensor:
        """Image tokens (N, T, D) for patch features (N, P, V)."""
        raise NotImplementedError

    @property
    def vision_settings(self) -> tuple[Any, ...]:
        return (self.image_size, self.colours)

    def vision_features(self, images: Tensor) -> Tensor:
        pixels = square_images(images, self.image_size, self.colours).to(self.vision_tower.dtype)
        return self._patch_features(pixels).unflatten(0, images.shape[:2]).unsqueeze(2)

    def encode_images(self, images: Tensor) -> Tensor:
        """Image tokens (B, N, D), camera after camera, for images (B, C, 3, H, W) or their `vision_features`."""
        features = self.vision_features(images) if images.shape[2] == 3 else images
        return self._project(features.flatten(0, 2)).unflatten(0, features.shape[:2]).flatten(1, 2)

    @classmethod
    def _find(cls, config: Any) -> Path | None:
        if config.assets:
            return Path(config.assets)
        if config.pretrained is None:
            return None
        return fetch_checkpoint(cls.HUB_IDS[config.size] if config.pretrained == "released" else config.pretrained)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.language_model.get_input_embeddings()

    def prompt(self, instruction: str) -> str:
        return self.PROMPT[1].format(instruction=instruction)

    def encode(self, images: Tensor, words: Words) -> Features:
        image_tokens = self.encode_images(images)
        opening = self.embed_texts([self.PROMPT[0]]).embedded.expand(len(images), -1, -1)
        before, after = (embedded.to(image_tokens.dtype) for embedded in (opening, words.embedded))
        tokens = torch.cat([before, image_tokens, after], dim=1)
        before_mask = words.mask.new_ones(len(tokens), tokens.shape[1] - after.shape[1])
        mask = torch.cat([before_mask, words.mask], dim=1)
        # Attention is causal and padding comes last, so no real token attends to padding: no mask is needed.
        hidden = self.language_model(inputs_embeds=tokens, use_cache=False).last_hidden_state
        return Features(hidden, mask)

    def save_assets(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        mean, std = self.colours
        for name, content in (
            ("config.json", self.architecture),
            ("preprocessor_config.json", {"image_mean": mean, "image_std": std}),
        ):
            (directory / name).write_text(json.dumps(content, indent=2))
        if isinstance(self.tokenizer, FileTokenizer):
            self.tokenizer.save(directory)


def _bounded(folder: Path | None) -> contextlib.AbstractContextManager[None]:
    """Bound on the network that is built, where weights follow from a folder."""
    return bounded_network(folder, weight_files(folder)) if folder else contextlib.nullcontext()


def square_images(images: Tensor, size: int, colours: tuple[list[float], list[float]]) -> Tensor:
    """Images for a vision tower: (B, C, 3, H, W) in [0, 1] -> (B * C, 3, size, size) float32, normalised.

    Padded to a square with the mean colour (the image is centred), then resized.
    """
    flat = images.flatten(0, 1).float()
    mean, std = (flat.new_tensor(values).view(1, 3, 1, 1) for values in colours)
    flat = (flat - mean) / std
    height, width = flat.shape[-2:]
    if height != width:
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        flat = F.pad(flat, (left, side - width - left, top, side - height - top))
    if flat.shape[-1] != size:
        flat = F.interpolate(flat, (size, size), mode="bicubic", antialias=True)
        # Bicubic filters overshoot at edges; an image has no values beyond black and white.
        flat = flat.maximum(-mean / std).minimum((1 - mean) / std)
    return flat
