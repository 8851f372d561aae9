"""Contact sheet of labelled images, to inspect the generator.

uv run python -m envs.scenes.contact_sheet kind=room split=validation images=24 out=outputs/rooms.png
"""

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from tinyvla.errors import UserError

from .image_store import LabelledImages, open_labelled_images

_LINES, _LINE = 4, 11  # lines of text below an image, and pixels of one
_DEFAULTS = {"kind": "table", "split": "train", "images": "24", "image_size": "128", "seed": "0"}
_DEFAULTS |= {"data_dir": "data", "out": "outputs/scenes.png"}
_COLOURS = ("red", "lime", "deepskyblue", "yellow", "magenta")


def draw_contact_sheet(images: LabelledImages, indices: Sequence[int], columns: int = 8) -> Image.Image:
    """Sheet of images with boxes and labels, and the instances beside them."""
    size = images.images.shape[1]
    wide, high = 2 * size + 4, size + _LINES * _LINE + 4
    sheet = Image.new("RGB", (columns * wide, -(-len(indices) // columns) * high), "white")
    draw = ImageDraw.Draw(sheet)
    for place, index in enumerate(indices):
        x, y = place % columns * wide, place // columns * high
        sheet.paste(Image.fromarray(np.asarray(images.images[index])), (x, y))
        sheet.paste(_coloured(images.instances[index]), (x + size, y))
        for i, box in enumerate(_boxes(images.labels[index])):
            corners = (x + box[0], y + box[1], x + box[2] - 1, y + box[3] - 1)
            draw.rectangle(corners, outline=_COLOURS[i % len(_COLOURS)])
        lines = textwrap.wrap(_describe(images.labels[index]), 2 * size // 6)
        draw.multiline_text((x, y + size), "\n".join(lines[:_LINES]), fill="black", spacing=1, font_size=10)
    return sheet


def _boxes(label: dict[str, Any]) -> list[list[int]]:
    return [thing["box"] for thing in label["objects"]] if "objects" in label else [label["box"]] * label["person"]


def _describe(label: dict[str, Any]) -> str:
    if "caption" in label:
        return label["caption"]
    of_person = f"{label['distance']}, {label['build']}, {label['skin_tone']}" if label["person"] else "no person"
    return f"{of_person}; {label['lighting']}; depiction: {label['depiction']}"


def _coloured(instances: np.ndarray) -> Image.Image:
    image = Image.fromarray(np.asarray(instances), "P")
    image.putpalette([0, 0, 0, 255, 60, 60, 60, 220, 60, 60, 120, 255, 240, 220, 40, 230, 70, 230])
    return image.convert("RGB")


def main(settings: Sequence[str]) -> None:
    values = dict(setting.partition("=")[::2] for setting in settings)
    if "pictures" in values:  # the former name
        values["images"] = values.pop("pictures")
    if unknown := sorted(values.keys() - _DEFAULTS.keys()):
        raise UserError(f"there is no setting {unknown[0]}; use one of {', '.join(_DEFAULTS)}")
    chosen = _DEFAULTS | values
    for name in ("images", "image_size", "seed"):
        if not chosen[name].isdecimal():
            raise UserError(f"{name} is {chosen[name]!r}; give a number")
    count, size, seed = (int(chosen[name]) for name in ("images", "image_size", "seed"))
    images = open_labelled_images(chosen["kind"], chosen["split"], count, size, seed, Path(chosen["data_dir"]))
    Path(chosen["out"]).parent.mkdir(parents=True, exist_ok=True)
    draw_contact_sheet(images, range(count), columns=6).save(chosen["out"])
    print(chosen["out"])


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
