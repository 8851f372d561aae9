"""TinySAM as a front-end: objects in an image, alone or beside a policy."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from ...decoding import decode_section
from ...errors import UserError
from ...untrusted import inside
from ..base import Feature, Findings, Frontend
from ..images import MIN_SIDE, RgbImage, check_image
from ..registry import load_frontend
from .everything import MAX_POINTS, EverythingSettings, segment_everything
from .model import Segmenter, TinySAMConfig
from .prompts import EncodedImage, Masks, encode_image, segment_box, segment_points

GIVES = ("tokens", "mask")
MAX_OBJECTS = 1024  # per image, of a stored front-end
PICKER = "picker"  # folder in a TinySAM's folder, with its TinyCLIP
BACKGROUND = 0.5  # share of the image from which a mask is background


class TinySAM(Frontend):
    """Segmentation of objects. To a policy it adds the objects of every camera image, best first, in one of two forms:

    `tokens`: `objects` (objects, 5 + C): box relative to the image, predicted IoU, and mean embedding within the mask;
    zeros for missing objects. `mask`: an image that is white on the objects.

    Args:
        model: fields of `TinySAMConfig`.
        everything: fields of `EverythingSettings` that suit the model's scores.
        gives: one of GIVES.
        objects: largest number of objects.
        points_per_side: of the grid for a policy's images, in training and when it acts; None: that of `everything`.
        picker: folder of a TinyCLIP, which then ranks the objects by their fit to the instruction.
    """

    name = "tinysam"

    def __init__(
        self,
        model: Mapping[str, Any],
        everything: Mapping[str, Any] | None = None,
        gives: str = "tokens",
        objects: int = 8,
        points_per_side: int | None = None,
        picker: str | None = None,
    ):
        super().__init__()
        if gives not in GIVES or objects < 1:
            raise UserError(f"TinySAM gives {' or '.join(GIVES)} of at least one object; fix gives or objects")
        self.options = {"model": model, "everything": everything or {}, "gives": gives, "objects": objects}
        self.options["points_per_side"] = points_per_side
        self.options["picker"] = PICKER if picker else None  # the folder that `save` writes
        self.model = Segmenter(TinySAMConfig(**model))
        self.everything = decode_section(EverythingSettings, self.options["everything"], "everything")
        self._search = self.everything
        if points_per_side is not None:
            self._search = self._with(points_per_side=points_per_side)
        self._picker = [load_frontend(picker)] if picker else []  # a list keeps its weights out of this module's

    def _with(self, **changes: Any) -> EverythingSettings:
        return decode_section(EverythingSettings, asdict(self.everything) | changes)

    @classmethod
    def of(cls, segmenter: Segmenter, everything: EverythingSettings) -> Self:
        """Front-end with a given segmenter."""
        frontend = cls(json.loads(json.dumps(asdict(segmenter.config))), asdict(everything))
        frontend.model = segmenter
        return frontend

    def save(self, folder: Path) -> None:
        for picker in self._picker:
            picker.save(folder / PICKER)
        super().save(folder)

    @classmethod
    def check_stored(cls, options: Mapping[str, Any]) -> None:
        if options.get("picker") not in (None, PICKER):
            raise UserError(
                f"the stored picker of a TinySAM is {str(options['picker'])[:80]!r}, not its own folder '{PICKER}'; "
                "get the original config.json"
            )
        for name, limit in (("objects", MAX_OBJECTS), ("points_per_side", MAX_POINTS)):
            if (value := options.get(name)) is not None and (type(value) is not int or not 1 <= value <= limit):
                raise UserError(f"the stored {name} of a TinySAM is {str(value)[:40]!r}, not from 1 to {limit}")

    @classmethod
    def load(cls, folder: Path, options: Mapping[str, Any]) -> Self:
        if options.get("picker") == PICKER:
            options = {**options, "picker": str(inside(folder, PICKER))}
        return super().load(folder, options)

    def adds(self, image_size: tuple[int, int]) -> dict[str, Feature]:
        if self.options["gives"] == "mask":
            return {"mask": Feature((3, *image_size))}
        return {"objects": Feature((self.options["objects"], 5 + self.model.config.hidden_size))}

    def see(self, images: Tensor, instructions: list[str]) -> dict[str, Tensor]:
        arrays = (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        features = []
        for image, instruction in zip(arrays, instructions, strict=True):
            encoded = encode_image(self.model, image)
            masks = self._objects(image, encoded, instruction, self._search)
            if self.options["gives"] == "mask":
                features.append(masks.masks.any(0).float().expand(3, -1, -1))
            else:
                features.append(self._tokens(encoded, masks))
        name = "mask" if self.options["gives"] == "mask" else "objects"
        return {name: torch.stack(features).to(images.device)}

    def _objects(self, image: RgbImage, encoded: EncodedImage, text: str, settings: EverythingSettings) -> Masks:
        """Best objects of an image; with a picker, those that fit the text."""
        masks = segment_everything(self.model, encoded, settings)
        order = (masks.masks.flatten(1).float().mean(1) < BACKGROUND).nonzero().flatten()
        if self._picker and len(order):
            crops = [_crop(image, box) for box in masks.boxes[order].long().tolist()]
            picker: Any = self._picker[0]
            order = order[picker.score(crops, [text])[:, 0].argsort(descending=True).to(order)]
        order = order[: self.options["objects"]]
        return Masks(masks.masks[order], masks.scores[order])

    def _tokens(self, encoded: EncodedImage, masks: Masks) -> Tensor:
        embedding = encoded.embedding[0]
        tokens = embedding.new_zeros(self.options["objects"], 5 + len(embedding))
        if len(masks) == 0:
            return tokens
        height, width = encoded.size
        side = self.model.config.image_size
        square = embedding.new_zeros(len(masks), side, side)
        rows, columns = encoded.fitted
        square[:, :rows, :columns] = F.interpolate(masks.masks[None].to(embedding), (rows, columns))[0]
        shares = F.adaptive_avg_pool2d(square, self.model.config.embedding_side).flatten(1)
        pooled = shares @ embedding.flatten(1).T / shares.sum(1, keepdim=True).clamp(min=1e-6)
        boxes = masks.boxes.to(embedding) / embedding.new_tensor([width, height, width, height])
        tokens[: len(masks)] = torch.cat([boxes, masks.scores[:, None].to(embedding), pooled], dim=1)
        return tokens

    def find(self, image: RgbImage, **request: Any) -> Findings:
        """Masks of an image as COCO records.

        Args:
            image: the image.
            request: empty for everything; or `points` [[x, y], ...] of one object with `labels` [1, 0, ...], 0 for a
                point beside it; or `box` [x0, y0, x1, y1]; or `text`, with a picker; or fields of `EverythingSettings`.
        """
        image = check_image(image)
        masks = self._segment(image, request)
        return Findings(draw_masks(image, masks), masks.to_coco())

    def _segment(self, image: RgbImage, request: dict[str, Any]) -> Masks:
        encoded = encode_image(self.model, image)
        if request.keys() - {"labels"} == {"points"}:
            return segment_points(self.model, encoded, request["points"], request.get("labels")).best()
        if request.keys() == {"box"}:
            return segment_box(self.model, encoded, request["box"]).best()
        if request.keys() == {"text"}:
            if not self._picker:
                raise UserError(
                    "TinySAM does not read; add frontend.tinysam.picker=<folder of a TinyCLIP>, or use points"
                )
            return self._objects(image, encoded, str(request["text"]), self.everything).best()
        settings = asdict(self.everything)
        if unknown := request.keys() - settings.keys():
            raise UserError(
                f"TinySAM takes points (with labels), or a box, or a text, or settings of everything, and not "
                f"{', '.join(sorted(request))} together (here {', '.join(sorted(unknown))}); "
                f"the settings are {', '.join(settings)}"
            )
        return segment_everything(self.model, encoded, self._with(**request))


def _crop(image: RgbImage, box: list[int]) -> RgbImage:
    """Part of an image in a box, moved and widened to the smallest side of an image."""
    x0, y0 = min(box[0], image.shape[1] - MIN_SIDE), min(box[1], image.shape[0] - MIN_SIDE)
    return image[y0 : max(box[3], y0 + MIN_SIDE), x0 : max(box[2], x0 + MIN_SIDE)]


def draw_masks(image: RgbImage, masks: Masks) -> RgbImage:
    """Copy with every mask tinted in its own colour and its box drawn, the best on top."""
    drawn = image.astype(np.float32)
    hues = np.random.default_rng(0).permutation(256)
    colours: list[Any] = [Image.new("HSV", (1, 1), (int(h), 200, 255)).convert("RGB").getpixel((0, 0)) for h in hues]
    for index in reversed(range(len(masks))):
        inside = masks.masks[index].numpy()
        drawn[inside] = 0.5 * drawn[inside] + 0.5 * np.array(colours[index % len(colours)], np.float32)
    canvas = Image.fromarray(drawn.astype(np.uint8))
    pen = ImageDraw.Draw(canvas)
    for index, (x0, y0, x1, y1) in enumerate(masks.boxes.tolist()):
        pen.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colours[index % len(colours)])
    return np.asarray(canvas)
