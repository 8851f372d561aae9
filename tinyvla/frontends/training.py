"""Training of a vision model on labelled images: `train.py task=perception/<name>`."""

import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import imageio.v3 as imageio
import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from ..augment import Part
from ..decoding import decode_section
from ..errors import UserError
from ..files import model_in, write_whole
from ..intervals import wilson_interval
from ..ranges import RangeError, check_range
from ..training.device import device_of
from ..training.loop import fit
from ..training.settings import TrainerConfig
from ..training.tracking import Tracker
from ..training.trainable import Trainable
from .base import EXAMPLES
from .images import RgbImage
from .registry import TRAINABLES

SCENE_KINDS, SCENE_SIDES = ("table", "room"), (32, 1024)  # of generated images; sides in pixels


class ImageSplit(Protocol):
    """Labelled images of one split: images uint8 (N, S, S, 3) and a dict of labels per image."""

    images: np.ndarray
    labels: list[dict[str, Any]]

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class SceneSettings:
    """Section `scenes` of a task: generated images.

    Args:
        kind: of scene, "table" or "room".
        image_size: side in pixels.
        train, validation, test: number of images per split.
    """

    kind: str
    image_size: int
    train: int
    validation: int
    test: int

    def __post_init__(self) -> None:
        if self.kind not in SCENE_KINDS:
            raise RangeError("kind", self.kind, f"use {' or '.join(SCENE_KINDS)}")
        check_range(self, "image_size", low=SCENE_SIDES[0], high=SCENE_SIDES[1])
        check_range(self, "train", "validation", "test", low=1)


@dataclass(frozen=True)
class VisionTask:
    """Settings that every vision task has; subclasses add their own.

    Args:
        name: of the task, as in TRAINABLES.
        scenes: generated images; None: other data.
    """

    name: str
    scenes: SceneSettings | None


class Metric(NamedTuple):
    """A measured value, the number of samples, and the 95% interval where it is known."""

    value: float
    n: int
    ci95: tuple[float, float] | None = None


def share(hits: int, n: int) -> Metric:
    """Share hits / n with Wilson's 95% interval."""
    return Metric(hits / n, n, wilson_interval(hits, n))


class VisionTrainable[Task: VisionTask](Trainable):
    """A vision model, trained on images of the splits train, validation and test.

    Args:
        task: settings.
        data: labelled images by split; tasks with other data need none.
        trainer: settings of the training loop, of which the batch size and the number of steps matter here.
        seed: of all random draws.
        part: (index, of) of the processes that share a run; each has batches of `trainer.batch_size`.
        device: on which a teacher computes before the training starts.

    Attributes:
        settings: dataclass of `task`.
        score: name of the metric that `evaluate` returns as `score`.
    """

    settings: ClassVar[type[VisionTask]]
    score: ClassVar[str]

    def __init__(
        self,
        task: Task,
        data: Mapping[str, Any],
        trainer: TrainerConfig,
        seed: int = 0,
        part: Part = (0, 1),
        device: str = "cpu",
    ):
        self.task, self.data, self.trainer, self.seed, self.device = task, data, trainer, seed, device
        self.index, self.of = part
        torch.manual_seed(seed)
        self.build()

    def build(self) -> None:
        """Make `module`, with its first weights drawn from torch's generator, and the sources of the batches."""
        raise NotImplementedError

    @property
    def part(self) -> Part:
        return self.index, self.of

    def evaluate(self) -> dict[str, float]:
        """Metrics on the validation images; `score` selects the best checkpoint."""
        raise NotImplementedError

    def test(self) -> dict[str, Metric]:
        """Metrics on the test images; the first is the score."""
        raise NotImplementedError

    def examples(self) -> dict[str, RgbImage]:
        """Test images with the model's findings drawn into them, by caption. Default: none."""
        return {}

    def restore(self, folder: Path) -> None:
        """Load the weights that `save` wrote to a folder. Default: the module's, from model.safetensors."""
        self.module.load_state_dict(load_file(folder / "model.safetensors"))


def decode_task(task: Mapping[str, Any]) -> VisionTask:
    """Typed settings of the section `task`. Raises UserError for an unknown task or setting."""
    return decode_section(TRAINABLES.load(task["name"]).settings, task, "task")


def make_trainable(
    task: VisionTask,
    data: Mapping[str, ImageSplit],
    trainer: TrainerConfig,
    seed: int = 0,
    part: Part = (0, 1),
    device: str = "cpu",
) -> VisionTrainable:
    """Trainable of a task, see `VisionTrainable`."""
    return TRAINABLES.load(task.name)(task, data, trainer, seed, part, device)


def train_vision_model(
    config: Mapping[str, Any],
    accelerator: Accelerator,
    open_images: Callable[[SceneSettings], Mapping[str, ImageSplit]],
    write_card: Callable[[Path, Mapping[str, Any], Mapping[str, Any]], object],
) -> dict[str, Any] | None:
    """Train, test, and write eval.json and example images to the run's folder. An existing run is continued.

    Args:
        config: configuration of the run: task, trainer, seed, run_dir and wandb.
        accelerator: devices and processes.
        open_images: labelled images by split.
        write_card: writes the model card of a checkpoint, from `config` and the content of eval.json.

    Returns the content of eval.json in the first process, None in the others.
    """
    task = decode_task(config["task"])
    trainer = decode_section(TrainerConfig, config["trainer"], "trainer")
    run_dir, seed = Path(config["run_dir"]), config["seed"]
    with accelerator.main_process_first():  # it generates the images; the others map the same files
        images = open_images(task.scenes) if task.scenes else {}
    part = (accelerator.process_index, accelerator.num_processes)
    trainable = make_trainable(task, images, trainer, seed, part, device_of(accelerator))
    with Tracker(run_dir, config, enabled=accelerator.is_main_process) as tracker:
        fit(trainable, trainer, run_dir, seed, accelerator, tracker, lambda _: trainable.evaluate())
        if not accelerator.is_main_process:
            return None
        best = model_in(run_dir)
        if best is None:
            raise UserError(f"{run_dir} holds no checkpoint; set trainer.steps to at least 1")
        trainable.restore(best)
        result = {"kind": "frontend", "task": task.name, "checkpoint": str(best), "machine": platform.machine()}
        result |= test(trainable)
        write_whole(run_dir / "eval.json", json.dumps(result, indent=1))
        write_card(best, config, result)
        write_examples(trainable, run_dir / EXAMPLES)
        tracker.log_result({"score": result["score"]}, [], best)
    return result


@torch.inference_mode()
def test(trainable: VisionTrainable) -> dict[str, Any]:
    """Metrics of a trained model on the test images, as in eval.json."""
    metrics = {name: metric._asdict() for name, metric in trainable.test().items()}
    return {"measure": trainable.score, "score": next(iter(metrics.values()))["value"], "figures": metrics}


def write_examples(trainable: VisionTrainable, folder: Path) -> None:
    """Write the example images as <caption>.png."""
    for caption, image in trainable.examples().items():
        write_whole(folder / f"{caption.replace(' ', '-')}.png", imageio.imwrite("<bytes>", image, extension=".png"))
