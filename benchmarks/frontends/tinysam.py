"""TinySAM on generated tables: mean IoU for a point, a box and everything; hard prompts; distillation; int8; hierarchy.

    uv run benchmarks/perception/tinysam.py

trains a teacher and three small students (from scratch with random and with hard prompts, and distilled), all on
pictures whose objects, textures and seeds the test pictures do not share. What is finished is kept in `--work` and not
done again. Writes results/tinysam.json and .md; the last line is one JSON object.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import Machine, keep, markdown
from configs.composing import as_dict, load_config
from envs.scenes import open_labelled_images
from policies import find_checkpoint
from tinyvla.compression.quantisation import Quantised, quantise
from tinyvla.files import write_whole
from tinyvla.frontends import load_frontend
from tinyvla.frontends.tinysam import Everything, Segmenter, TinySAM, encode_picture, segment_everything
from tinyvla.frontends.tinysam.metrics import best_ious, compare, score_masks, summarise
from tinyvla.frontends.tinysam.training import SamTrainable
from tinyvla.training import Tracker, fit, make_accelerator

# What is trained, in this order, and what differs between them.
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
CALIBRATION = 8  # pictures


class Bench:
    """Pictures and settings, and what is finished in a folder."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.work = args, Path(args.work)
        counts = {split: getattr(args, split) for split in ("train", "validation", "test")}
        self.pictures = {
            split: open_labelled_images("table", split, count, 128, seed=0, data_dir=Path(args.data_dir))
            for split, count in counts.items()
        }
        self.options = as_dict(load_config("train", ["task=perception/tinysam"]).task)

    def train(self, name: str) -> TinySAM:
        """The best checkpoint of a run; a run that was cut short goes on."""
        args, run_dir = self.args, self.work / name.replace(" ", "-")
        if not (run_dir / "seconds").exists():
            given = dict(RUNS[name])
            if "teacher" in given:
                given["teacher"] = str(find_checkpoint(self.work / given["teacher"]))
            settings = {"steps": args.steps, "batch_size": args.batch_size, "validate_every": -(-args.steps // 3)}
            cfg = load_config(
                "train",
                ["task=perception/tinysam", "preset=cpu", "logger=none", f"run_dir='{run_dir}'", f"seed={args.seed}"]
                + [f"trainer.{key}={value}" for key, value in settings.items()],
            )
            options = self.options | given | {"trainer": settings, "scored": args.validation}
            trainable = SamTrainable(options, self.pictures, args.seed)
            started = time.perf_counter()
            with Tracker(run_dir, as_dict(cfg)) as tracker:
                fit(trainable, cfg, make_accelerator("cpu", False), tracker, lambda _: trainable.evaluate())
            write_whole(run_dir / "seconds", f"{time.perf_counter() - started:.0f}")
        frontend = load_frontend(find_checkpoint(run_dir))
        assert isinstance(frontend, TinySAM)
        return frontend

    def scores(self, name: str, model: Segmenter) -> dict[str, list[np.ndarray]]:
        """IoUs by mode and test picture; kept. The hierarchical way for everything."""
        file = self.work / f"{name.replace(' ', '-')}.npz"
        if not file.exists():
            how = Everything(**self.options["everything"])
            found = score_masks(
                model, self.pictures["test"], len(self.pictures["test"]), (*PROMPTED, "everything"), how
            )
            arrays = {mode: np.concatenate(ious) for mode, ious in found.items()}
            with file.with_suffix(".tmp").open("wb") as out:
                np.savez(out, counts=[len(ious) for ious in found["box"]], **arrays)
            file.with_suffix(".tmp").replace(file)
        kept = np.load(file)
        places = np.cumsum(kept["counts"])[:-1]
        return {mode: np.split(kept[mode], places) for mode in (*PROMPTED, "everything")}

    def quantised(self, model: Segmenter) -> Segmenter:
        """The model in int8, calibrated on training pictures with a point and a box each."""
        images = torch.tensor(self.pictures["train"].images[:CALIBRATION]).permute(0, 3, 1, 2) / 255
        corner = torch.tensor([[[30.0, 30, 90, 90]]]).expand(CALIBRATION, -1, -1)
        middle = corner.unflatten(2, (2, 2)).mean(2, keepdim=True)
        point = {"images": images, "points": middle, "labels": torch.ones(CALIBRATION, 1, 1)}
        made = quantise(model, [point, {"images": images, "boxes": corner}])
        assert isinstance(made, Segmenter)
        return made

    def time_everything(self, model: Segmenter) -> dict[str, Any]:
        """Plain and hierarchical, in turns on every test picture, on one thread; the time includes the encoder's."""
        hierarchical = Everything(**self.options["everything"])
        ways = {"plain": replace(hierarchical, hierarchical=False), "hierarchical": hierarchical}
        test, threads = self.pictures["test"], torch.get_num_threads()
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        ious: dict[str, list[np.ndarray]] = {way: [] for way in ways}
        masks: dict[str, list[int]] = {way: [] for way in ways}
        torch.set_num_threads(1)
        segment_everything(model, encode_picture(model, np.asarray(test.images[0])), hierarchical)  # warm
        for index in range(len(test)):
            instances = np.asarray(test.instances[index])
            pixels = np.bincount(instances.ravel())
            truths = [instances == each for each in np.flatnonzero(pixels >= self.options["min_pixels"]) if each > 0]
            for way in sorted(ways, reverse=index % 2 == 0):
                started = time.perf_counter()
                found = segment_everything(model, encode_picture(model, np.asarray(test.images[index])), ways[way])
                seconds[way].append(time.perf_counter() - started)
                masks[way].append(len(found))
                if truths:
                    ious[way].append(np.array(best_ious(found, truths)))
        torch.set_num_threads(threads)
        return {
            **{
                way: summarise(ious[way])
                | {"ms": 1e3 * float(np.mean(seconds[way])), "masks": float(np.mean(masks[way]))}
                for way in ways
            },
            "times_as_fast": sum(seconds["plain"]) / sum(seconds["hierarchical"]),
            "lost": compare(ious["plain"], ious["hierarchical"]),
        }


def parameters(model: Segmenter) -> float:
    return round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2)


def cell(figure: dict[str, Any]) -> str:
    """A mean IoU in percent with its interval."""
    low, high = figure["ci95"]
    return f"{100 * figure['mean_iou']:.1f} ({100 * low:.1f}–{100 * high:.1f})"


def points(figure: dict[str, Any]) -> str:
    """A difference in points of mean IoU with its interval."""
    low, high = figure["ci95"]
    return f"{100 * figure['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=800, help="of every training")
    parser.add_argument("--batch-size", type=int, default=8, help="pictures a step")
    parser.add_argument("--train", type=int, default=3000, help="pictures")
    parser.add_argument("--validation", type=int, default=50)
    parser.add_argument("--test", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", default="outputs/benchmarks/tinysam", help="folder of what is finished")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--name", default="tinysam", help="of the files in benchmarks/results")
    args = parser.parse_args()

    bench, machine = Bench(args), Machine()
    models = {name: bench.train(name).model for name in RUNS}
    models["distilled, int8"] = bench.quantised(models["distilled"])
    scores = {name: bench.scores(name, model) for name, model in models.items()}
    layers = [each for each in models["distilled, int8"].modules() if isinstance(each, Quantised)]
    result: dict[str, Any] = {
        "asked": vars(args),
        "machine": machine.describe(torch.get_num_threads()),
        "seconds": {name: int((bench.work / name.replace(" ", "-") / "seconds").read_text()) for name in RUNS},
        "models": {
            name: {mode: summarise(ious) for mode, ious in found.items()} | {"parameters": parameters(models[name])}
            for name, found in scores.items()
        },
        "differences": {
            f"{one} - {other}": {mode: compare(scores[one][mode], scores[other][mode]) for mode in scores[one]}
            for one, other in (
                ("hard prompts", "random prompts"),
                ("distilled", "hard prompts"),
                ("distilled, int8", "distilled"),
            )
        },
        "quantised_layers": len(layers),
        "everything": bench.time_everything(models["distilled"]),
    }
    result["models"]["distilled, int8"]["parameters"] = result["models"]["distilled"]["parameters"]
    text = describe(machine, args, result)
    keep(args.name, result, text)
    print(text)
    print(json.dumps(result))


def describe(machine: Machine, args: argparse.Namespace, result: dict[str, Any]) -> str:
    """The result as Markdown."""
    rows = [
        {
            "model": name,
            "parameters": found["parameters"],
            **{mode: cell(found[mode]) for mode in (*PROMPTED, "everything")},
        }
        for name, found in result["models"].items()
    ]
    differences = [
        {"model": name, **{mode: points(found[mode]) for mode in (*PROMPTED, "everything")}}
        for name, found in result["differences"].items()
    ]
    ways = [
        {"way": way, "ms": round(found["ms"]), "masks": round(found["masks"], 1), "iou": cell(found)}
        for way, found in result["everything"].items()
        if way in ("plain", "hierarchical")
    ]
    box = result["models"]["distilled"]["box"]
    without = {key: title for key, title in TITLES.items() if key != "parameters"}
    everything = result["everything"]
    return "\n".join(
        [
            f"{machine.title(torch.get_num_threads())}; {args.steps} steps of {args.batch_size} pictures a model, "
            f"seed {args.seed}",
            "",
            f"Mean IoU in percent on {box['pictures']} unseen pictures with {box['objects']} objects, with 95% "
            "intervals (bootstrap over pictures).",
            "",
            markdown(rows, TITLES),
            "",
            "Differences in points, on the same pictures.",
            "",
            markdown(differences, without),
            "",
            f"Everything with the distilled model, one thread, in turns: the hierarchical way is "
            f"{everything['times_as_fast']:.2f} times as fast and loses {points(everything['lost'])} points.",
            "",
            markdown(ways, {"way": "way", "ms": "ms a picture", "masks": "masks a picture", "iou": "mean IoU"}),
        ]
    )


if __name__ == "__main__":
    main()
