"""Good front-ends, classifiers and exported models, and the commands that read them; see `good_files`."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import torch

from tinyvla.encoders import Classifier
from tinyvla.frontends.tinyclip import TinyCLIP
from tinyvla.frontends.tinysam import TinySAM
from tinyvla.inference.exported import ExportedPolicy

from .good_files import (
    CAMERA,
    SIZE,
    Original,
    as_command,
    caches,
    checkpoints,
    datasets,
    entry_point,
    runs,
    train_a_step,
    write_checkpoint,
    write_dataset,
    write_wake,
)


def perceive(name: str, *settings: str) -> None:
    """perceive.py with the front-end in `checkpoint`, on an image."""
    entry_point("perceive", f"frontend={name}", f"frontend.{name}.checkpoint=checkpoint", "source=image.png", *settings)


def write_image() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    imageio.imwrite("image.png", pixels)


def write_frontend(name: str) -> None:
    """A front-end of few weights as `checkpoint`, and an image to look at."""
    write_image()
    torch.manual_seed(0)
    if name == "wake":
        write_wake(Path("checkpoint"))
    elif name == "tinyclip":
        tower = {"layers": 1, "width": 32, "heads": 2, "units": 32}
        texts = ["a red mug", "a blue bowl"]
        TinyCLIP.new(texts, tower, tower, 32, 8, 32, 530, 16).save(Path("checkpoint"))
    else:
        sizes = {"image_size": 64, "hidden_size": 32, "embed_dims": [16, 16, 32, 32], "depths": [1, 1, 1, 1]}
        sizes |= {"num_heads": [1, 1, 2, 2], "window_sizes": [4, 4, 4, 4], "decoder": DECODER, "prompts": {}}
        TinySAM(sizes, {"points_per_side": 4}).save(Path("checkpoint"))


DECODER = {"num_hidden_layers": 1, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 32}


def train_with_classifier(name: str) -> None:
    """A policy whose vision tower begins with the weights of the classifier in `checkpoint`."""
    train_a_step("backbone=nano", f"backbone.vision={name}", "backbone.vision_pretrained=checkpoint")


def write_classifier(name: str) -> None:
    write_dataset(Path("data/set"))
    Classifier(name, ["one", "two"], SIZE).save(Path("checkpoint"))


def frontends() -> Iterator[Original]:
    """Front-ends by themselves, and classifiers that an image encoder begins with."""
    for name, *request in (("wake",), ("tinyclip", "request.texts=[a red mug,a blue mug]"), ("tinysam",)):
        yield Original(name, partial(write_frontend, name), partial(perceive, name, *request), ("checkpoint",))
    for name in ("cct_2_3x2", "tinyvit_5m"):
        yield Original(name, partial(write_classifier, name), partial(train_with_classifier, name), ("checkpoint",))


def write_export() -> None:
    write_checkpoint("tinyvla")
    entry_point("export", "checkpoint=checkpoint", "export_dir=exported")


def run_exported(engine: str) -> None:
    """The first chunk of an exported policy, as a program computes it."""
    with as_command():
        policy = ExportedPolicy("exported", engine)
        image = np.zeros((SIZE, SIZE, 3), np.uint8)
        observation = {f"observation.images.{CAMERA}": image, "observation.state": np.zeros(4), "task": "open it"}
        policy.predict_chunk(observation, np.random.default_rng(0))


def exports() -> Iterator[Original]:
    """Folders of export.py, with ONNX Runtime; OpenVINO writes statistics of its own to the home folder."""
    yield Original("export", write_export, partial(run_exported, "onnx"), ("exported",))


KINDS: dict[str, Callable[[], Iterator[Original]]] = {
    "checkpoints": checkpoints,
    "datasets": datasets,
    "runs": runs,
    "caches": caches,
    "front-ends": frontends,
    "exports": exports,
}
