"""TinySAM as a front-end: usable alone, and as a plug-in of a policy."""

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ...errors import UserError
from ..frontend import Findings, FrontEnd
from ..images import Picture, check_image
from .everything import Everything, segment_everything
from .model import Segmenter, TinySAMConfig
from .prompts import Masks, encode_picture, segment_box, segment_points


class TinySAM(FrontEnd):
    """A segmenter with what a saved folder needs to make it again.

    Args:
        model: fields of `TinySAMConfig`.
        everything: fields of `Everything`, the settings that suit the model's own scores.
    """

    name = "tinysam"

    def __init__(self, model: dict[str, Any], everything: dict[str, Any] | None = None):
        super().__init__()
        self.options = {"model": model, "everything": everything or {}}
        self.model = Segmenter(TinySAMConfig(**model))
        self.everything = Everything(**self.options["everything"])

    @classmethod
    def of(cls, segmenter: Segmenter, everything: Everything) -> "TinySAM":
        """A front-end around a segmenter."""
        made = cls(json.loads(json.dumps(asdict(segmenter.config))), asdict(everything))
        made.model = segmenter
        return made

    def find(self, image: Picture, **request: Any) -> Findings:
        """Masks of a picture, as COCO's records; `request` is empty for everything, or has

        points: [[x, y], ...] of one object, and labels: [1, 0, ...], 0 for a point beside it; or box: [x0, y0, x1, y1];
        or fields of `Everything`.
        """
        image = check_image(image)
        masks = self._ask(image, request)
        return Findings(draw_masks(image, masks), masks.to_coco())

    def _ask(self, image: Picture, request: dict[str, Any]) -> Masks:
        picture = encode_picture(self.model, image)
        if request.keys() - {"labels"} == {"points"}:
            best = segment_points(self.model, picture, request["points"], request.get("labels"))
        elif request.keys() == {"box"}:
            best = segment_box(self.model, picture, request["box"])
        else:
            known = {key: value for key, value in request.items() if key in asdict(self.everything)}
            if unknown := request.keys() - known.keys():
                raise UserError(
                    f"TinySAM takes points (with labels), or box, or settings of everything, and not {sorted(unknown)} "
                    f"beside {sorted(known)}; settings are {', '.join(asdict(self.everything))}"
                )
            return segment_everything(self.model, picture, replace(self.everything, **known))
        return Masks(best.masks[:1], best.scores[:1])


def draw_masks(image: Picture, masks: Masks) -> Picture:
    """A copy with every mask tinted in a colour of its own and its box drawn; the best on top."""
    drawn = image.astype(np.float32)
    hues = np.random.default_rng(0).permutation(256)
    colours = [Image.new("HSV", (1, 1), (int(hue), 200, 255)).convert("RGB").getpixel((0, 0)) for hue in hues]
    for index in reversed(range(len(masks))):
        inside = masks.masks[index].cpu().numpy()
        drawn[inside] = 0.5 * drawn[inside] + 0.5 * np.array(colours[index % len(colours)], np.float32)
    picture = Image.fromarray(drawn.astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for index, (x0, y0, x1, y1) in enumerate(masks.boxes.tolist()):
        pen.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colours[index % len(colours)])
    return np.asarray(picture)
