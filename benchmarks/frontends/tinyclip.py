"""TinyCLIP's three techniques: recall and training time of a student with at most half its teacher's parameters.

    uv run python -m benchmarks.frontends.tinyclip
    uv run python -m benchmarks.frontends.tinyclip images=512 teacher_steps=40 steps=20 out=outputs/quick

A teacher is trained from scratch; then every row of the table trains a student of one size on the same number of
samples: with and without affinity mimicking, with weights inherited evenly (manual) or by learnt masks (automatic,
which choose the sizes), in one stage or two. Recall@1 is measured in galleries of test images and captions (their
meshes, textures and seeds are in no other split), image to text and text to image, with bootstrap intervals over
galleries, and as the ratio to the teacher in the same galleries. A row reaches the teacher at the sample where its
recall on validation images is first 95% of the teacher's. Finished rows are never repeated: the same command resumes.

A student that inherits or mimics has the benefit of its teacher's samples beside its own. Two controls are trained from
scratch on as many samples as teacher and student together: teacher-longer has the teacher's size, scratch-longer the
student's. The column `samples_in_all` counts both.

Writes results/tinyclip.json and .md. The last line is one JSON object.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.frontends.progressive import stage_shapes
from benchmarks.frontends.vision_tasks import trainable_of
from benchmarks.machine import Machine, keep, markdown, once
from benchmarks.settings import as_values, setting, start
from configs.composing import as_dict, decode, load_config
from envs.scenes import open_labelled_images
from envs.workers import worker_pool
from tinyvla.frontends.tinyclip import TinyCLIP
from tinyvla.frontends.tinyclip.inherit import inherit
from tinyvla.frontends.tinyclip.metrics import make_galleries, recalls
from tinyvla.intervals import bootstrap_interval
from tinyvla.training import Tracker, TrainerConfig, fit, make_accelerator
from tinyvla.training.tracking import read_metrics

TEACHER = {
    "vision": {"layers": 4, "width": 128, "heads": 4, "units": 512},
    "text": {"layers": 3, "width": 128, "heads": 4, "units": 512},
}
STUDENT = {"vision": {"layers": 2, "units": 256}, "text": {"layers": 1, "units": 256}}


class Row(NamedTuple):
    """A way to train a model.

    techniques: their names. options: options of the task. shape: sizes of the towers. control: trained from scratch on
    as many samples as the teacher and a student together.
    """

    techniques: str
    options: dict[str, Any]
    shape: dict[str, dict[str, int]] = STUDENT
    stages: int = 1
    control: bool = False

    @property
    def inherits(self) -> bool:
        return self.options["inherit"] != "none"

    @property
    def mimics(self) -> bool:
        return self.options.get("affinity") != 0.0


SCRATCH = {"affinity": 0.0, "inherit": "none"}
ROWS = {
    "teacher-longer": Row("teacher, trained longer", SCRATCH, TEACHER, control=True),
    "scratch-longer": Row("none, trained longer", SCRATCH, control=True),
    "scratch": Row("none (from scratch)", SCRATCH),
    "mimicking": Row("mimicking", {"inherit": "none"}),
    "manual": Row("manual inheritance", {"affinity": 0.0, "inherit": "manual"}),
    "mimicking-manual": Row("mimicking, manual inheritance", {"inherit": "manual"}),
    "mimicking-masks": Row("mimicking, automatic inheritance", {"inherit": "masks"}),
    "mimicking-manual-stages": Row("mimicking, manual inheritance, two stages", {"inherit": "manual"}, stages=2),
}
REACHED = 0.95
TITLES = {
    "techniques": "techniques",
    "parameters": "parameters",
    "recall": "recall@1",
    "ci95": "95% interval",
    "kept": "of the teacher's",
    "kept_ci95": "95% interval",
    "kept_of_longer": "of the longer trained teacher's",
    "kept_of_longer_ci95": "95% interval",
    "samples_in_all": "samples, with the teacher's",
    "reached": f"samples to {REACHED:.0%} of the teacher's",
    "sooner": "sooner than without inheritance",
}


@dataclass
class Settings:
    """Settings of the command line."""

    images: int = setting(4096, "training images")
    image_size: int = setting(64, "side of an image in pixels")
    patch_size: int = setting(16, "side of a patch in pixels")
    teacher_steps: int = setting(2400, "training steps of the teacher")
    steps: int = setting(800, "training steps of every student")
    batch_size: int = setting(64, "images per step")
    lr: float = setting(1.5e-3, "learning rate")
    gallery: int = setting(20, "images per gallery")
    validations: int = setting(16, "points of a curve")
    jobs: int = setting(2, "students side by side, of one thread each")
    rows: list[str] = setting(list(ROWS), "rows of the table", ROWS)
    data_dir: str = setting("data", "folder of generated images")
    out: str = setting("outputs/benchmarks/tinyclip", "folder of the runs")


def options_of(settings: Settings, steps: int, **changed: Any) -> dict[str, Any]:
    """Options of the task for a run of `steps`."""
    cfg = load_config("train", ["task=perception/tinyclip", "preset=cpu"])
    task = as_dict(cfg.task)
    task["trainer"] = as_dict(cfg.trainer) | {"steps": steps, "batch_size": settings.batch_size, "lr": settings.lr}
    task["model"]["patch_size"] = settings.patch_size
    return task | {"gallery": settings.gallery} | changed


def open_data(settings: Settings) -> dict[str, Any]:
    """Labelled images of all splits, generated where they are missing."""
    counts = {"train": settings.images, "validation": settings.images // 8, "test": settings.images // 4}
    return {
        split: open_labelled_images("table", split, count, settings.image_size, data_dir=Path(settings.data_dir))
        for split, count in counts.items()
    }


def train_model(settings: Settings, options: dict[str, Any], run_dir: Path, threads: int) -> list[list[float]]:
    """Train as train.py does, or resume; returns the curve: samples, recall@1 on validation images."""
    trainer = options["trainer"]
    cfg = load_config("train", ["task=perception/tinyclip", "preset=cpu", "logger=none", f"run_dir={run_dir}"])
    cfg.trainer.update(trainer | {"num_threads": threads, "bf16": False, "log_every": 50})
    cfg.trainer.validate_every = cfg.trainer.save_every = max(1, trainer["steps"] // settings.validations)
    if not (run_dir / "checkpoints" / f"{trainer['steps']:06d}").exists():
        trainable = trainable_of(options, open_data(settings))
        accelerator = make_accelerator("cpu", False)
        with Tracker(run_dir, as_dict(cfg)) as tracker:
            trainer_config = (decode(TrainerConfig, cfg.trainer), run_dir, cfg.seed)
            fit(trainable, *trainer_config, accelerator, tracker, lambda _: trainable.evaluate())
    records = read_metrics(run_dir / "metrics.jsonl")
    scores = [(record["step"], record["validation/score"]) for record in records if "validation/score" in record]
    return [[step * trainer["batch_size"], score] for step, score in scores]


def measure(settings: Settings, run_dir: Path) -> dict[str, Any]:
    """Parameters of a run's last model, and its recall@1 in every gallery of test images."""
    test = open_data(settings)["test"]
    model = TinyCLIP.from_pretrained(run_dir / "checkpoints/last/pretrained_model")
    galleries = recalls(model, test.images, make_galleries(test.labels, settings.gallery))
    return {"parameters": sum(p.numel() for p in model.parameters()), "galleries": galleries.tolist()}


def run_row(settings: Settings, name: str) -> dict[str, Any]:
    """Figures of a row; a finished row is read from its file."""
    return once(Path(settings.out) / name / "figures.json", lambda: train_row(settings, name))


def train_row(settings: Settings, name: str) -> dict[str, Any]:
    """Train the model of a row, stage by stage, and measure it."""
    out = Path(settings.out)
    if name == "teacher":
        plan = [options_of(settings, settings.teacher_steps, **TEACHER)]
    else:
        row, teacher = ROWS[name], out / "teacher"
        larger = TinyCLIP.from_pretrained(teacher)
        changed = row.options | {"teacher": str(teacher), "keep": keep_share(larger)}
        steps = settings.steps + (settings.teacher_steps if row.control else 0)
        shapes = stage_shapes(larger.clip, row.shape, row.stages)
        plan = [options_of(settings, steps // row.stages, **changed | shape) for shape in shapes]
    samples_before, curve = 0.0, [[0.0, 0.0]]
    for number, options in enumerate(plan):
        if number:
            options["inherit_from"] = str(out / name / f"stage-{number}")
        run_dir = out / name / f"stage-{number + 1}" if len(plan) > 1 else out / name
        threads = settings.jobs if name == "teacher" else 1
        # Only the models of the last stage have the student's size, but the samples of all stages count.
        curve = [
            [samples_before + samples, score] for samples, score in train_model(settings, options, run_dir, threads)
        ]
        samples_before = curve[-1][0]
    return {"curve": curve} | measure(settings, run_dir)


def keep_share(teacher: TinyCLIP) -> float:
    """The student's share of the teacher's parameters, which masks must leave too."""
    student, whole = (
        sum(p.numel() for p in clip.parameters()) for clip in (inherit(teacher.clip, STUDENT), teacher.clip)
    )
    return student / whole


def reached(curve: Sequence[Sequence[float]], target: float) -> float | None:
    """Samples at which a curve first reaches the target, None if it never does."""
    return next((samples for samples, score in curve if score >= target), None)


def make_rows(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Row of the table for every run, the teacher first."""
    rows = []
    for name, result in results.items():
        scores = np.array(result["galleries"]).mean(axis=1)
        low, high = bootstrap_interval(scores)
        row = {"name": name, "parameters": result["parameters"], "techniques": "teacher", "recall_at_1": scores.mean()}
        row |= {"recall": f"{100 * scores.mean():.1f}%", "ci95": f"{100 * low:.1f}–{100 * high:.1f}%"}
        row["samples_in_all"] = f"{samples_in_all(name, results):,}"
        rows.append(row if name == "teacher" else row | compare(name, results))
    return rows


def compare(name: str, results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of a row beside the teacher, the longer trained teacher, and the row without inheritance."""
    row, result, teacher = ROWS[name], results[name], results["teacher"]
    target = REACHED * max(score for _, score in teacher["curve"])
    samples, total = reached(result["curve"], target), int(result["curve"][-1][0])
    share = result["parameters"] / teacher["parameters"]
    figures: dict[str, Any] = {"techniques": row.techniques, "share": share}
    figures["parameters"] = f"{result['parameters']:,} ({share:.0%})"
    figures |= kept_share("kept", result, teacher)
    if name != "teacher-longer" and "teacher-longer" in results:
        figures |= kept_share("kept_of_longer", result, results["teacher-longer"])
    figures |= {"samples": samples, "seen": total, "reached": f"{samples:,.0f}" if samples else f"not in {total:,}"}
    baseline = results.get("mimicking" if row.mimics else "scratch")
    if baseline and samples and row.inherits:
        without = reached(baseline["curve"], target)
        figures["times_sooner"] = (without or baseline["curve"][-1][0]) / samples
        figures["sooner"] = f"{'' if without else '> '}{figures['times_sooner']:.1f}×"
    return figures


def kept_share(name: str, result: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, Any]:
    """Ratio of a run's recall to that of a reference in the same galleries, with its interval, as figures and text."""
    pairs = np.stack([np.array(run["galleries"]).mean(axis=1) for run in (result, reference)], axis=1)
    low, high = bootstrap_interval(pairs)
    share = pairs[:, 0].mean() / pairs[:, 1].mean()
    return {
        f"{name}_share": share,
        f"{name}_interval": [low, high],
        name: f"{100 * share:.1f}%",
        f"{name}_ci95": f"{100 * low:.1f}–{100 * high:.1f}%",
    }


def samples_in_all(name: str, results: Mapping[str, Mapping[str, Any]]) -> int:
    """Samples of a run, and those of its teacher if it uses one."""
    samples = results[name]["curve"][-1][0]
    with_teacher = name != "teacher" and (ROWS[name].inherits or ROWS[name].mimics)
    return int(samples + (results["teacher"]["curve"][-1][0] if with_teacher else 0))


def main(settings: Settings) -> None:

    machine = Machine()
    conditions = machine.describe(settings.jobs)
    open_data(settings)
    results = {"teacher": run_row(settings, "teacher")}
    with worker_pool(settings.jobs) as pool:
        futures = {name: pool.submit(run_row, settings, name) for name in settings.rows}
        results |= {name: future.result() for name, future in futures.items()}

    rows = make_rows(results)
    galleries = len(results["teacher"]["galleries"])
    title = (
        f"{machine.title(1)}; {settings.images} images of {settings.image_size} pixels; recall@1 among "
        f"{settings.gallery}, {galleries} galleries of test images; students are trained on "
        f"{settings.steps * settings.batch_size:,} samples, the teacher on "
        f"{settings.teacher_steps * settings.batch_size:,}"
    )
    text = f"{title}\n\n{markdown(rows, TITLES)}"
    keep("tinyclip", conditions | {"settings": as_values(settings), "rows": rows, "results": results}, text)
    print(text + "\n")
    summary = {row["name"]: {key: row.get(key) for key in ("kept_share", "samples", "times_sooner")} for row in rows}
    print(json.dumps(conditions | {"rows": summary}))


if __name__ == "__main__":
    start(main, Settings, __doc__)
