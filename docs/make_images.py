"""Make the images of the README: python docs/make_images.py [tinysam=outputs/<run>] [report=outputs/<run>].

Without settings: the SO-101's cameras, the shifts and the generated scenes; they need no trained model. `tinysam` is a
run of `train.py task=perception/tinysam`, `report` a run of `train.py`, whose page Chromium opens.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from envs import decode_env, make_env
from envs.scenes import open_labelled_images
from envs.scenes.contact_sheet import draw_contact_sheet
from envs.shifts.examples import example_frames
from tinyvla.frontends import load_frontend
from tinyvla.frontends.tinysam.frontend import draw_masks
from tinyvla.frontends.tinysam.prompts import Masks, encode_image, segment_box
from tinyvla.masks import mask_to_box

FOLDER = Path(__file__).parent / "images"
SIDE, CAPTION, WIDTH = 220, 20, 660
SHIFTS = {"table_texture": 2, "lighting": 3, "camera_pose": 2, "distractors": 2, "object_colour": 3}


def tile(images: Iterable[tuple[np.ndarray, str]], columns: int) -> Image.Image:
    """Images of one size with their captions below, in rows."""
    tiles = list(images)
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * SIDE, rows * (SIDE + CAPTION)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (image, caption) in enumerate(tiles):
        x, y = number % columns * SIDE, number // columns * (SIDE + CAPTION)
        sheet.paste(Image.fromarray(np.asarray(image)).resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x, y))
        draw.text((x + 4, y + SIDE + 2), caption, fill="black", font=ImageFont.load_default(13))
    return sheet


def save(image: Image.Image, name: str) -> None:
    """Save with few colours: a few dozen kilobytes."""
    FOLDER.mkdir(exist_ok=True)
    image.quantize(128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(FOLDER / name, optimize=True)
    print(f"{FOLDER / name}: {(FOLDER / name).stat().st_size / 1000:.0f} kB")


def draw_twin() -> None:
    """The three cameras of the SO-101 while the expert lifts the cube."""
    section = {"name": "so101", "render": "faithful", "image_size": SIDE, "cameras": ["front", "wrist", "top"]}
    env: Any = make_env(decode_env(section), "pick-lift")
    env.reset(seed=3)
    success = False
    while not success:
        _, success, *_ = env.apply(env.expert_action())
    observation = env.observe()
    save(tile(((observation[f"observation.images.{name}"], name) for name in ("front", "wrist", "top")), 3), "twin.png")
    env.close()


def draw_shifts() -> None:
    """The first frame of one episode under several axes."""
    cfg = decode_env({"name": "metaworld", "render": "faithful"})
    frames: list[tuple[np.ndarray, str]] = []
    for axis, severity in SHIFTS.items():
        examples = example_frames(cfg, "drawer-open-v3", 7, [axis], [severity])
        if not frames:
            frames.append((examples["none", 0][0], "as in training"))
        frames.append((examples[axis, severity][0], f"{axis}, severity {severity}"))
    save(tile(frames, 3), "shifts.png")


def draw_scenes() -> None:
    """Generated tables and rooms with the labels that front-ends are trained on."""
    sheets = []
    for kind in ("table", "room"):
        scenes = open_labelled_images(kind, "test", 24, image_size=128, seed=5, data_dir=Path("outputs/image_data"))
        shown = [
            i for i, label in enumerate(scenes.labels) if label.get("distance") != "far" and label.get("person", 1)
        ]
        sheets.append(draw_contact_sheet(scenes, shown[:3], columns=3))
    sheet = Image.new("RGB", (sheets[0].width, sum(sheet.height for sheet in sheets)), "white")
    sheet.paste(sheets[0], (0, 0))
    sheet.paste(sheets[1], (0, sheets[0].height))
    save(sheet, "scenes.png")


def draw_segmentation(run_dir: str) -> None:
    """Masks that a trained TinySAM gives for the boxes of the objects, on generated tables of the test split."""
    frontend: Any = load_frontend(run_dir)
    scenes = open_labelled_images("table", "test", 3, seed=5)
    tiles = []
    for image, instances in zip(scenes.images, scenes.instances, strict=True):
        encoded = encode_image(frontend.model, np.array(image))
        boxes = [mask_to_box(instances == number) for number in np.unique(instances) if number > 0]
        best = [segment_box(frontend.model, encoded, box).best() for box in boxes]
        masks = Masks(torch.cat([mask.masks for mask in best]), torch.cat([mask.scores for mask in best]))
        tiles.append((draw_masks(np.array(image), masks), f"{len(boxes)} objects, one mask per box"))
    save(tile(tiles, 3), "tinysam.png")


def draw_report(run_dir: str) -> None:
    """The top of a run's page."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("error: no Chromium; install it (sudo apt install chromium)")
    raw = FOLDER / "report.raw.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1000,1000"]
    page = (Path(run_dir) / "report.html").resolve().as_uri()
    subprocess.run([browser, *options, f"--screenshot={raw}", page], check=True, capture_output=True, timeout=120)
    with Image.open(raw) as image:
        save(image.convert("RGB").resize((WIDTH, WIDTH), Image.Resampling.LANCZOS), "report.png")
    raw.unlink()


if __name__ == "__main__":
    settings = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
    if unknown := settings.keys() - {"tinysam", "report"}:
        sys.exit(f"error: there is no setting {unknown.pop()}; use tinysam=outputs/<run>, report=outputs/<run>")
    if "tinysam" in settings:
        draw_segmentation(settings["tinysam"])
    if "report" in settings:
        draw_report(settings["report"])
    if not settings:
        draw_twin()
        draw_shifts()
        draw_scenes()
