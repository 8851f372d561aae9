"""TinySAM on generated tables: mean IoU for a point, a box and everything; hard prompts; distillation; int8; hierarchy.

    uv run python -m benchmarks.frontends.tinysam

trains a teacher and three small students (from scratch with random and with hard prompts, and distilled), all on images
whose objects, textures and seeds are not in the test images. Everything mode is also measured on images of 4:3 and
16:9, the middle rows of the square ones. Finished parts are kept in `work` and not repeated. Writes
results/tinysam.json and .md; the last line is one JSON object.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.frontends.vision_tasks import trainable_of
from benchmarks.machine import Machine, keep, markdown
from benchmarks.settings import as_values, setting, start
from configs.composing import as_dict, decode, load_config
from envs.scenes import open_labelled_images
from policies import find_checkpoint
from tinyvla.compression.quantisation import Quantised, quantise
from tinyvla.files import write_whole
from tinyvla.frontends import load_frontend
from tinyvla.frontends.tinysam import EverythingSettings, Segmenter, TinySAM, encode_image, segment_everything
from tinyvla.frontends.tinysam.metrics import best_ious, score_masks, summarise
from tinyvla.training import Tracker, TrainerConfig, fit, make_accelerator

# Models in the order of training, with their options.
RUNS: dict[str, dict[str, Any]] = {
    "teacher": {"size": "base"},
    "random prompts": {"hard_prompts": False},
    "hard prompts": {},
    "distilled": {"teacher": "teacher"},
}
PROMPTED = ("point", "random_point", "points", "box")
TITLES = {
    "model": "model",
    "parameters": "parameters (M)",
    "point": "a point in the middle",
    "random_point": "a point anywhere",
    "points": "three points",
    "box": "a box",
    "everything": "everything",
}
MODE_TITLES = {
    "shape": "shape",
    "mode": "mode",
    "points": "points decoded per image",
    "ms": "ms per image",
    "masks": "masks per image",
    "objects": "objects",
    "iou": "mean IoU",
}
SHAPES = {"1:1": (1, 1), "4:3": (4, 3), "16:9": (16, 9)}  # width to height
CALIBRATION = 8  # images


def compare(one: Sequence[np.ndarray], other: Sequence[np.ndarray], draws: int = 2000) -> dict[str, Any]:
    """Difference of the first mean IoU and the second on the same images, with a 95% bootstrap interval."""
    differences = [first - second for first, second in zip(one, other, strict=True)]
    summary = summarise(differences, draws)
    return {"difference": summary["mean_iou"], "ci95": summary["ci95"]}


def average(values: Sequence[float]) -> dict[str, Any]:
    """Mean of one value per image with its 95% bootstrap interval."""
    summary = summarise([np.array([value]) for value in values])
    return {"mean": summary["mean_iou"], "ci95": summary["ci95"]}


def cut(pixels: np.ndarray, shape: str) -> np.ndarray:
    """Middle rows (rows, S, ...) of a square image or its labels (S, S, ...) that have a shape of SHAPES."""
    width, height = SHAPES[shape]
    rows = round(len(pixels) * height / width)
    first = (len(pixels) - rows) // 2
    return pixels[first : first + rows]


@contextmanager
def counting_points(model: Segmenter) -> Iterator[list[int]]:
    """Numbers of points of every batch that the model decodes meanwhile."""
    counts: list[int] = []
    hook = model.mask_decoder.register_forward_hook(lambda _, __, outputs: counts.append(outputs[0].shape[1]))
    try:
        yield counts
    finally:
        hook.remove()


def segment_once(
    model: Segmenter, image: np.ndarray, truths: Sequence[np.ndarray], settings: EverythingSettings
) -> dict[str, Any]:
    """Time with the encoder, points, masks and IoUs of everything mode on one image."""
    with counting_points(model) as counts:
        started = time.perf_counter()
        predicted = segment_everything(model, encode_image(model, image), settings)
        ms = 1e3 * (time.perf_counter() - started)
    ious = np.array(best_ious(predicted, truths)) if truths else np.zeros(0)
    return {"ms": ms, "points": sum(counts), "masks": len(predicted), "ious": ious}


@dataclass
class Settings:
    """Settings of the command line."""

    steps: int = setting(800, "training steps of every model")
    batch_size: int = setting(8, "images per step")
    train: int = setting(3000, "training images")
    validation: int = setting(50, "validation images")
    test: int = setting(200, "test images")
    seed: int = setting(0, "seed of training")
    work: str = setting("outputs/benchmarks/tinysam", "folder of finished parts")
    data_dir: str = setting("data", "folder of generated images")
    name: str = setting("tinysam", "name of the files in benchmarks/results")


class Bench:
    """Images, settings and finished parts of this benchmark."""

    def __init__(self, settings: Settings):
        self.settings, self.work = settings, Path(settings.work)
        counts = {split: getattr(settings, split) for split in ("train", "validation", "test")}
        self.images = {
            split: open_labelled_images("table", split, count, 128, seed=0, data_dir=Path(settings.data_dir))
            for split, count in counts.items()
        }
        self.options = as_dict(load_config("train", ["task=perception/tinysam"]).task)

    def train(self, name: str) -> TinySAM:
        """Best checkpoint of a run; an unfinished run is resumed."""
        settings, run_dir = self.settings, self.work / name.replace(" ", "-")
        if not (run_dir / "seconds").exists():
            changes = dict(RUNS[name])
            if "teacher" in changes:
                changes["teacher"] = str(find_checkpoint(self.work / changes["teacher"]))
            trainer = {
                "steps": settings.steps,
                "batch_size": settings.batch_size,
                "validate_every": -(-settings.steps // 3),
            }
            cfg = load_config(
                "train",
                [
                    "task=perception/tinysam",
                    "preset=cpu",
                    "logger=none",
                    f"run_dir='{run_dir}'",
                    f"seed={settings.seed}",
                ]
                + [f"trainer.{key}={value}" for key, value in trainer.items()],
            )
            options = self.options | changes | {"trainer": trainer, "scored": settings.validation}
            trainable = trainable_of(options, self.images, settings.seed)
            started = time.perf_counter()
            with Tracker(run_dir, as_dict(cfg)) as tracker:
                run = (decode(TrainerConfig, cfg.trainer), run_dir, cfg.seed, make_accelerator("cpu", False))
                fit(trainable, *run, tracker, lambda _: trainable.evaluate())
            write_whole(run_dir / "seconds", f"{time.perf_counter() - started:.0f}")
        frontend = load_frontend(find_checkpoint(run_dir))
        assert isinstance(frontend, TinySAM)
        return frontend

    def scores(self, name: str, model: Segmenter) -> dict[str, list[np.ndarray]]:
        """IoUs by mode and test image, stored in a file; everything is segmented hierarchically."""
        file = self.work / f"{name.replace(' ', '-')}.npz"
        if not file.exists():
            everything = EverythingSettings(**self.options["everything"])
            ious_by_mode = score_masks(
                model, self.images["test"], len(self.images["test"]), (*PROMPTED, "everything"), everything
            )
            arrays = {mode: np.concatenate(ious) for mode, ious in ious_by_mode.items()}
            with file.with_suffix(".tmp").open("wb") as out:
                np.savez(out, counts=[len(ious) for ious in ious_by_mode["box"]], **arrays)
            file.with_suffix(".tmp").replace(file)
        stored = np.load(file)
        places = np.cumsum(stored["counts"])[:-1]
        return {mode: np.split(stored[mode], places) for mode in (*PROMPTED, "everything")}

    def quantised(self, model: Segmenter) -> Segmenter:
        """The model in int8, calibrated on training images with a point and a box each."""
        images = torch.tensor(self.images["train"].images[:CALIBRATION]).permute(0, 3, 1, 2) / 255
        corner = torch.tensor([[[30.0, 30, 90, 90]]]).expand(CALIBRATION, -1, -1)
        middle = corner.unflatten(2, (2, 2)).mean(2, keepdim=True)
        point = {"images": images, "points": middle, "labels": torch.ones(CALIBRATION, 1, 1)}
        quantised = quantise(model, [point, {"images": images, "boxes": corner}])
        assert isinstance(quantised, Segmenter)
        return quantised

    def truths(self, instances: np.ndarray) -> list[np.ndarray]:
        """Masks of the objects that are large enough to be scored."""
        pixels = np.bincount(instances.ravel())
        return [instances == number for number in np.flatnonzero(pixels >= self.options["min_pixels"]) if number > 0]

    def everything(self, model: Segmenter, shape: str) -> dict[str, Any]:
        """Plain and hierarchical segmentation of every test image, cut to a shape, in turns on one thread."""
        hierarchical = EverythingSettings(**self.options["everything"])
        modes = {"plain": replace(hierarchical, hierarchical=False), "hierarchical": hierarchical}
        records: dict[str, list[dict[str, Any]]] = {mode: [] for mode in modes}
        test, threads = self.images["test"], torch.get_num_threads()
        torch.set_num_threads(1)
        segment_once(model, cut(np.asarray(test.images[0]), shape), [], hierarchical)  # warm
        for index in range(len(test)):
            image, instances = (cut(np.asarray(array[index]), shape) for array in (test.images, test.instances))
            truths = self.truths(instances)
            for mode in sorted(modes, reverse=index % 2 == 0):
                records[mode].append(segment_once(model, image, truths, modes[mode]))
        torch.set_num_threads(threads)
        ious = {mode: [record["ious"] for record in records[mode] if len(record["ious"])] for mode in modes}
        figures = {
            mode: summarise(ious[mode])
            | {name: average([record[name] for record in records[mode]]) for name in ("ms", "points", "masks")}
            for mode in modes
        }
        return figures | {
            "timed_images": len(test),
            "times_as_fast": figures["plain"]["ms"]["mean"] / figures["hierarchical"]["ms"]["mean"],
            "lost": compare(ious["plain"], ious["hierarchical"]),
        }


def parameters(model: Segmenter) -> float:
    return round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2)


def cell(figure: dict[str, Any]) -> str:
    """A mean IoU in percent with its interval."""
    low, high = figure["ci95"]
    return f"{100 * figure['mean_iou']:.1f} ({100 * low:.1f}–{100 * high:.1f})"


def mean(figure: dict[str, Any]) -> str:
    """A mean with its interval."""
    low, high = figure["ci95"]
    return f"{figure['mean']:.1f} ({low:.1f}–{high:.1f})"


def points(figure: dict[str, Any]) -> str:
    """A difference in points of mean IoU with its interval."""
    low, high = figure["ci95"]
    return f"{100 * figure['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def main(settings: Settings) -> None:

    bench, machine = Bench(settings), Machine()
    models = {name: bench.train(name).model for name in RUNS}
    models["distilled, int8"] = bench.quantised(models["distilled"])
    scores = {name: bench.scores(name, model) for name, model in models.items()}
    layers = [layer for layer in models["distilled, int8"].modules() if isinstance(layer, Quantised)]
    result: dict[str, Any] = {
        "asked": as_values(settings),
        "machine": machine.describe(torch.get_num_threads()),
        "seconds": {name: int((bench.work / name.replace(" ", "-") / "seconds").read_text()) for name in RUNS},
        "models": {
            name: {mode: summarise(ious) for mode, ious in by_mode.items()} | {"parameters": parameters(models[name])}
            for name, by_mode in scores.items()
        },
        "differences": {
            f"{name} - {base}": {mode: compare(scores[name][mode], scores[base][mode]) for mode in scores[name]}
            for name, base in (
                ("hard prompts", "random prompts"),
                ("distilled", "hard prompts"),
                ("distilled, int8", "distilled"),
            )
        },
        "quantised_layers": len(layers),
        "everything": {shape: bench.everything(models["distilled"], shape) for shape in SHAPES},
    }
    result["models"]["distilled, int8"]["parameters"] = result["models"]["distilled"]["parameters"]
    text = describe(machine, settings, result)
    keep(settings.name, result, text)
    print(text)
    print(json.dumps(result))


def describe(machine: Machine, settings: Settings, result: dict[str, Any]) -> str:
    """Result as Markdown."""
    rows = [
        {
            "model": name,
            "parameters": figures["parameters"],
            **{mode: cell(figures[mode]) for mode in (*PROMPTED, "everything")},
        }
        for name, figures in result["models"].items()
    ]
    differences = [
        {"model": name, **{mode: points(figures[mode]) for mode in (*PROMPTED, "everything")}}
        for name, figures in result["differences"].items()
    ]
    box = result["models"]["distilled"]["box"]
    without = {key: title for key, title in TITLES.items() if key != "parameters"}
    return "\n".join(
        [
            f"{machine.title(torch.get_num_threads())}; {settings.steps} steps of {settings.batch_size} images per "
            f"model, seed {settings.seed}",
            "",
            f"Mean IoU in percent on {box['images']} unseen images with {box['objects']} objects, with 95% "
            "intervals (bootstrap over images).",
            "",
            markdown(rows, TITLES),
            "",
            "Differences in points, on the same images.",
            "",
            markdown(differences, without),
            "",
            *describe_everything(result["everything"]),
        ]
    )


def describe_everything(figures_by_shape: dict[str, Any]) -> list[str]:
    """Lines about everything mode on images of several shapes, as Markdown."""
    rows = [
        {"shape": shape, "mode": mode, "iou": cell(figures[mode]), "objects": figures[mode]["objects"]}
        | {name: mean(figures[mode][name]) for name in ("points", "ms", "masks")}
        for shape, figures in figures_by_shape.items()
        for mode in ("plain", "hierarchical")
    ]
    images = figures_by_shape["1:1"]["timed_images"]
    return [
        f"Everything with the distilled model on {images} images per shape, the middle rows of the square ones; one "
        "thread, plain and hierarchical in turns.",
        "",
        markdown(rows, MODE_TITLES),
        "",
        *(
            f"- {shape}: the hierarchical mode is {figures['times_as_fast']:.2f} times as fast and loses "
            f"{points(figures['lost'])} points."
            for shape, figures in figures_by_shape.items()
        ),
    ]


if __name__ == "__main__":
    start(main, Settings, __doc__)
