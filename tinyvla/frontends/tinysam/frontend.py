"""TinySAM as a front-end: usable alone, and as a plug-in of a policy."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from ...errors import UserError
from ..base import Feature, Findings, Frontend, load_frontend
from ..images import MIN_SIDE, Picture, check_image
from .everything import Everything, segment_everything
from .model import Segmenter, TinySAMConfig
from .prompts import Encoded, Masks, encode_picture, segment_box, segment_points

GIVES = ("tokens", "mask")
PICKER = "picker"  # folder of a TinySAM's, with the TinyCLIP that it has
BACKGROUND = 0.5  # share of a picture from which a mask is no object


class TinySAM(Frontend):
    """Cuts out objects. To a policy it adds what it finds in every camera's picture by itself, best first:

    `tokens`: `objects` (objects, 5 + C): box as shares of the picture's sides, predicted IoU, and the embedding's mean
    within the mask; zeros where there are fewer. `mask`: a picture that is white on those objects.

    Args:
        model: fields of `TinySAMConfig`.
        everything: fields of `Everything`, the settings that suit the model's own scores.
        gives: one of GIVES.
        objects: how many, at most.
        points_per_side: of the grid by which a policy's pictures are searched, when it acts and for every frame that it
            trains on; None: as `everything` says.
        picker: folder of a TinyCLIP, which then ranks the objects by how well they fit the instruction.
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
            raise UserError(f"TinySAM gives {' or '.join(GIVES)} of at least one object; mend gives or objects")
        self.options = {"model": model, "everything": everything or {}, "gives": gives, "objects": objects}
        self.options["points_per_side"] = points_per_side
        self.options["picker"] = PICKER if picker else None  # where `save` puts it
        self.model = Segmenter(TinySAMConfig(**model))
        self.everything = Everything(**self.options["everything"])
        self._search = self.everything
        if points_per_side is not None:
            self._search = replace(self.everything, points_per_side=points_per_side)
        self._picker = [load_frontend(picker)] if picker else []  # a list: its weights are no part of these

    @classmethod
    def of(cls, segmenter: Segmenter, everything: Everything) -> Self:
        """A front-end around a segmenter."""
        made = cls(json.loads(json.dumps(asdict(segmenter.config))), asdict(everything))
        made.model = segmenter
        return made

    def save(self, folder: Path) -> None:
        for picker in self._picker:
            picker.save(folder / PICKER)
        super().save(folder)

    @classmethod
    def load(cls, folder: Path, options: Mapping[str, Any]) -> Self:
        own = {"picker": str(folder / PICKER)} if options.get("picker") == PICKER else {}
        return super().load(folder, {**options, **own})

    def adds(self, image_size: tuple[int, int]) -> dict[str, Feature]:
        if self.options["gives"] == "mask":
            return {"mask": Feature((3, *image_size))}
        return {"objects": Feature((self.options["objects"], 5 + self.model.config.hidden_size))}

    def see(self, images: Tensor, instructions: list[str]) -> dict[str, Tensor]:
        pictures = (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        seen = []
        for picture, instruction in zip(pictures, instructions, strict=True):
            encoded = encode_picture(self.model, picture)
            masks = self._objects(picture, encoded, instruction, self._search)
            if self.options["gives"] == "mask":
                seen.append(masks.masks.any(0).float().expand(3, -1, -1))
            else:
                seen.append(self._tokens(encoded, masks))
        name = "mask" if self.options["gives"] == "mask" else "objects"
        return {name: torch.stack(seen).to(images.device)}

    def _objects(self, picture: Picture, encoded: Encoded, text: str, how: Everything) -> Masks:
        """Of everything in a picture the best objects, as the text asks for them if there is a picker."""
        masks = segment_everything(self.model, encoded, how)
        order = (masks.masks.flatten(1).float().mean(1) < BACKGROUND).nonzero().flatten()
        if self._picker and len(order):
            crops = [_crop(picture, box) for box in masks.boxes[order].long().tolist()]
            picker: Any = self._picker[0]
            order = order[picker.score(crops, [text])[:, 0].argsort(descending=True).to(order)]
        order = order[: self.options["objects"]]
        return Masks(masks.masks[order], masks.scores[order])

    def _tokens(self, encoded: Encoded, masks: Masks) -> Tensor:
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

    def find(self, image: Picture, **request: Any) -> Findings:
        """Masks of a picture, as COCO's records; `request` is empty for everything, or has

        points: [[x, y], ...] of one object, and labels: [1, 0, ...], 0 for a point beside it; or box: [x0, y0, x1, y1];
        or text, if there is a picker; or fields of `Everything`.
        """
        image = check_image(image)
        masks = self._ask(image, request)
        return Findings(draw_masks(image, masks), masks.to_coco())

    def _ask(self, image: Picture, request: dict[str, Any]) -> Masks:
        encoded = encode_picture(self.model, image)
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
        return segment_everything(self.model, encoded, replace(self.everything, **request))


def _crop(picture: Picture, box: list[int]) -> Picture:
    """The part in a box, moved and widened to the least side of a picture."""
    x0, y0 = min(box[0], picture.shape[1] - MIN_SIDE), min(box[1], picture.shape[0] - MIN_SIDE)
    return picture[y0 : max(box[3], y0 + MIN_SIDE), x0 : max(box[2], x0 + MIN_SIDE)]


def draw_masks(image: Picture, masks: Masks) -> Picture:
    """A copy with every mask tinted in a colour of its own and its box drawn; the best on top."""
    drawn = image.astype(np.float32)
    hues = np.random.default_rng(0).permutation(256)
    colours: list[Any] = [Image.new("HSV", (1, 1), (int(h), 200, 255)).convert("RGB").getpixel((0, 0)) for h in hues]
    for index in reversed(range(len(masks))):
        inside = masks.masks[index].numpy()
        drawn[inside] = 0.5 * drawn[inside] + 0.5 * np.array(colours[index % len(colours)], np.float32)
    picture = Image.fromarray(drawn.astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for index, (x0, y0, x1, y1) in enumerate(masks.boxes.tolist()):
        pen.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colours[index % len(colours)])
    return np.asarray(picture)
