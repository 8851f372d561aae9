"""TinyCLIP as a front-end: fit of images and texts, and embeddings of both for a policy."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, StrictDataclassError
from PIL import Image, ImageDraw
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPTokenizer
from transformers.utils import logging

from ...backbones.checkpoint import PICKLED, SAFETENSORS, weight_files
from ...errors import UserError, one_line
from ...files import model_in, write_whole
from ...hub_files import check_model_folder, check_model_options
from ...network_size import bounded_network
from ...tensor_files import warn_unused
from ...untrusted import inside, read_json_object
from ..base import CONFIG, NAME_KEY, WEIGHTS, Feature, Findings, Frontend
from ..images import RgbImage, check_image
from .model import ShapedClip, embed_ids, embed_pixels
from .released import load_authors_clip
from .tokenizer import train_tokenizer

_FAULTS = (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, RuntimeError)
ImageBatch = Sequence[np.ndarray] | np.ndarray | Tensor


class TinyCLIP(Frontend):
    """A CLIP of any size with its tokenizer: unit vectors of images and texts, close to each other where they fit.

    To a policy it adds two tokens (2, D) per camera: the embeddings of the image and of the instruction.

    Attributes:
        clip: the two towers.
        tokenizer: of texts, with at most `max_tokens` tokens including the two marks.
        processor: resizes the shorter side of an image, crops the middle and normalises, as in CLIP.
    """

    name = "tinyclip"
    REMEMBERED = 1024  # instructions

    def __init__(self, clip: ShapedClip, tokenizer: CLIPTokenizer, processor: CLIPImageProcessor):
        super().__init__()
        self.options: dict[str, Any] = {}  # the config of the towers holds everything
        self.clip, self.tokenizer, self.processor = clip, tokenizer, processor
        self.max_tokens: int = clip.config.text_config.max_position_embeddings
        self._known: dict[str, Tensor] = {}

    @classmethod
    def new(
        cls,
        captions: Iterable[str],
        vision: Mapping[str, int],
        text: Mapping[str, int],
        image_size: int = 64,
        patch_size: int = 8,
        width: int = 128,
        vocab_size: int = 1024,
        max_tokens: int = 77,
    ) -> Self:
        """New model with a vocabulary learnt from `captions`; needs no download.

        Args:
            captions: texts of the kind that it will read.
            vision, text: sizes of each tower: `layers`, `width`, `heads` and FFN `units`.
            image_size, patch_size: of the vision tower, in pixels.
            width: D, of the common embedding space.
            vocab_size: largest number of token ids, 514 of them for bytes and marks.
            max_tokens: per text, including its two marks.
        """
        tokenizer = train_tokenizer(captions, vocab_size, max_tokens)
        marks = {
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        config = CLIPConfig(
            vision_config=_tower(vision) | {"image_size": image_size, "patch_size": patch_size},
            text_config=_tower(text) | marks | {"vocab_size": len(tokenizer), "max_position_embeddings": max_tokens},
            projection_dim=width,
        )
        side = {"height": image_size, "width": image_size}
        processor = CLIPImageProcessor(size={"shortest_edge": image_size}, crop_size=side)
        return cls(ShapedClip(config), tokenizer, processor)

    @classmethod
    def from_pretrained(cls, name: str | Path) -> Self:
        """Model from a checkpoint in the layout of transformers' CLIP, or from a file of the authors.

        Args:
            name: a hub id such as `RELEASED`, a folder, a run, or a `.pt` file; see `released.py`.

        Raises UserError if there is none, it cannot be fetched, or it is of another kind or incomplete.
        """
        if Path(name).expanduser().is_file():
            return cls(*load_authors_clip(Path(name).expanduser())).eval()
        logging.disable_progress_bar()  # reading the weights is fast
        try:
            place = _find_clip(name)
            with bounded_network(place, weight_files(place)):
                clip, report = ShapedClip.from_pretrained(place, output_loading_info=True, dtype=torch.float32)
            tokenizer = CLIPTokenizer.from_pretrained(place)
            processor = CLIPImageProcessor.from_pretrained(place)
        except UserError as error:
            raise UserError(
                f"no CLIP could be loaded from '{name}': {error}; or give a complete folder: config.json, weights, "
                "tokenizer.json, preprocessor_config.json"
            ) from error
        except (*_FAULTS, SafetensorError, HfHubHTTPError, StrictDataclassError) as error:
            reason = f"{type(error).__name__}: {one_line(error, 150)}"
            raise UserError(
                f"no CLIP could be loaded from '{name}' ({reason}); check the name and the network, or give a complete "
                "folder: config.json, weights, tokenizer.json, preprocessor_config.json"
            ) from error
        if lacking := sorted(report["missing_keys"]):
            raise UserError(
                f"the checkpoint '{name}' lacks {len(lacking)} of its tensors, such as {lacking[0]}; fetch it again"
            )
        warn_unused(name, report["unexpected_keys"])
        return cls(clip.eval(), tokenizer, processor).eval()

    @classmethod
    def load(cls, folder: Path, options: Mapping[str, Any]) -> Self:
        return cls.from_pretrained(folder)

    def save(self, folder: Path) -> None:
        """Write a checkpoint of transformers' CLIP, with tokenizer and image processor; `from_pretrained` reads it."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {key: value.contiguous() for key, value in self.clip.state_dict().items()}
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        self.tokenizer.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        config = json.loads(self.clip.config.to_json_string()) | {"architectures": ["CLIPModel"]}
        config |= {NAME_KEY: self.name, "options": self.options}
        write_whole(folder / CONFIG, json.dumps(config, indent=1))

    @property
    def device(self) -> torch.device:
        return self.clip.logit_scale.device

    def pixels(self, images: ImageBatch) -> Tensor:
        """Input of the vision tower, (N, 3, S, S).

        images: N images as `check_image` takes them, or a tensor (N, 3, H, W), float in [0, 1].

        Raises UserError for no image, and for an array that is not an image.
        """
        if not len(images):
            raise UserError("there is no image to embed; give at least one")
        if isinstance(images, Tensor):
            scaled, tensors = False, list(images)
        else:
            checked = (check_image(image, f"image {i + 1}") for i, image in enumerate(images))
            scaled, tensors = True, [torch.tensor(image).permute(2, 0, 1) for image in checked]
        return self.processor(tensors, do_rescale=scaled, return_tensors="pt")["pixel_values"].to(self.device)

    def ids(self, texts: Sequence[str]) -> Tensor:
        """Token ids (N, L) of texts, padded on the right. Raises UserError for a text that is empty or too long."""
        if isinstance(texts, str) or not len(texts):
            raise UserError("texts must be a list with at least one text; give [text]")
        if empty := [i + 1 for i, text in enumerate(texts) if not text.strip()]:
            raise UserError(f"text {empty[0]} of {len(texts)} is empty; describe what to look for")
        rows = self.tokenizer(list(texts))["input_ids"]
        longest = max(rows, key=len)
        if len(longest) > self.max_tokens:
            raise UserError(
                f"the text '{texts[rows.index(longest)][:40]}...' has {len(longest)} tokens and the model reads "
                f"{self.max_tokens}, two of them marks; shorten it"
            )
        padded = self.tokenizer.pad({"input_ids": rows}, return_tensors="pt")
        return padded["input_ids"].to(self.device)

    @torch.no_grad()
    def embed_images(self, images: ImageBatch) -> Tensor:
        """Unit vectors (N, D) of N images, see `pixels`."""
        return embed_pixels(self.clip, self.pixels(images))

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (N, D) of N texts, see `ids`."""
        return embed_ids(self.clip, self.ids(texts))

    @torch.no_grad()
    def score(self, images: ImageBatch, texts: Sequence[str]) -> Tensor:
        """Fit of N images and M texts, (N, M): cosines over the temperature, the logits of a softmax over each row."""
        return self.clip.logit_scale.exp() * self.embed_images(images) @ self.embed_texts(texts).T

    def read(self, instructions: Sequence[str]) -> Tensor:
        """`embed_texts` with a cache; for weights that do not change."""
        if new := [text for text in dict.fromkeys(instructions) if text not in self._known]:
            if len(self._known) + len(new) > self.REMEMBERED:
                self._known.clear()
                new = list(dict.fromkeys(instructions))
            self._known |= zip(new, self.embed_texts(new), strict=True)
        return torch.stack([self._known[text] for text in instructions]).to(self.device)

    def adds(self, image_size: tuple[int, int]) -> dict[str, Feature]:
        return {"match": Feature((2, self.clip.config.projection_dim))}

    def see(self, images: Tensor, instructions: list[str]) -> dict[str, Tensor]:
        return {"match": torch.stack([self.embed_images(images), self.read(instructions)], dim=1)}

    def find(self, image: RgbImage, **request: Any) -> Findings:
        """Texts of the request, best fit first; request: `texts`, a list."""
        texts = list(request.get("texts") or ())
        if not texts:
            raise UserError("tinyclip compares an image with texts; add 'texts=[a red mug, a blue mug]'")
        scores = self.score([image], texts)[0]
        shares = scores.softmax(dim=0).tolist()
        records = [
            {"text": text, "score": score, "share": share}
            for text, score, share in zip(texts, scores.tolist(), shares, strict=True)
        ]
        records.sort(key=lambda record: -record["share"])
        drawn = Image.fromarray(image.copy())
        lines = "\n".join(f"{record['share']:4.0%} {record['text']}" for record in records[:5])
        ImageDraw.Draw(drawn).multiline_text((2, 2), lines, fill="white", stroke_width=1, stroke_fill="black")
        return Findings(np.asarray(drawn), records)


def _find_clip(name: str | Path) -> Path:
    """Folder of a CLIP on this disk, or of the hub's model, downloaded, checked to hold nothing that would be run."""
    folder = Path(name).expanduser()
    if checkpoint := model_in(folder):
        inside(folder, str(checkpoint.relative_to(folder)))  # not through a link that leaves the run
        _check_kind(checkpoint, name)
        check_model_folder(checkpoint)
        return checkpoint
    place = Path(snapshot_download(str(name), allow_patterns=["*.json", "*.txt", SAFETENSORS]))
    if not any(place.glob(SAFETENSORS)):
        place = Path(snapshot_download(str(name), allow_patterns=["*.json", "*.txt", PICKLED]))
    _check_kind(place, name)
    check_model_options(place)
    return place


def _check_kind(folder: Path, name: str | Path) -> None:
    if (kind := read_json_object(inside(folder, CONFIG)).get("model_type")) != "clip":
        raise UserError(f"{name} holds a model of type '{kind}', not CLIP; give a TinyCLIP or CLIP checkpoint")


def _tower(sizes: Mapping[str, int]) -> dict[str, int]:
    if unknown := {"layers", "width", "heads", "units"} ^ {*sizes}:
        raise UserError(f"a tower is config by layers, width, heads and units; see {', '.join(sorted(unknown))}")
    if sizes["width"] % sizes["heads"]:
        raise UserError(f"a width of {sizes['width']} cannot be shared by {sizes['heads']} heads; use a multiple")
    return {
        "hidden_size": sizes["width"],
        "intermediate_size": sizes["units"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
    }
