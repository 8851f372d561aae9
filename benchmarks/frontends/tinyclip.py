"""TinyCLIP's three techniques: what a student of at most half its teacher's parameters keeps, and how soon.

    uv run benchmarks/perception/tinyclip.py
    uv run benchmarks/perception/tinyclip.py --pictures 512 --teacher-steps 40 --steps 20 --out outputs/quick

A teacher learns from nothing; then every row of the table trains a student of one size on as many samples: with and
without affinity mimicking, with weights inherited evenly (manual) or by learnt masks (automatic, which choose sizes of
their own), in one stage or two. Recall@1 is measured in galleries of test pictures and captions (their meshes, textures
and seeds are in no other split), image to text and text to image, with bootstrap intervals over galleries; what is
kept is the ratio to the teacher in the same galleries. A row has reached the teacher after so many samples as it had
seen when its recall on validation pictures first was 95% of the teacher's. What is finished is never run again: the
same command goes on where it was stopped.

Writes results/tinyclip.json and .md. The last line is one JSON object.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import Machine, keep, markdown
from configs.composing import as_dict, load_config
from envs.scenes import open_labelled_images
from envs.workers import worker_pool
from tinyvla.files import write_whole
from tinyvla.frontends.tinyclip import TinyCLIP
from tinyvla.frontends.tinyclip.inherit import inherit, stage_shapes
from tinyvla.frontends.tinyclip.metrics import bootstrap_interval, make_galleries, recalls
from tinyvla.frontends.tinyclip.training import ClipTrainable
from tinyvla.training import Tracker, fit, make_accelerator
from tinyvla.training.tracking import read_metrics

TEACHER = {
    "vision": {"layers": 4, "width": 128, "heads": 4, "units": 512},
    "text": {"layers": 3, "width": 128, "heads": 4, "units": 512},
}
STUDENT = {"vision": {"layers": 2, "units": 256}, "text": {"layers": 1, "units": 256}}
# Rows: what distinguishes a student's options, and in how many stages it is made.
ROWS: dict[str, tuple[str, dict[str, Any], int]] = {
    "scratch": ("none (from scratch)", {"affinity": 0.0, "inherit": "none"}, 1),
    "mimicking": ("mimicking", {"inherit": "none"}, 1),
    "manual": ("manual inheritance", {"affinity": 0.0, "inherit": "manual"}, 1),
    "mimicking-manual": ("mimicking, manual inheritance", {"inherit": "manual"}, 1),
    "mimicking-masks": ("mimicking, automatic inheritance", {"inherit": "masks"}, 1),
    "mimicking-manual-stages": ("mimicking, manual inheritance, two stages", {"inherit": "manual"}, 2),
}
KEPT = 0.95
TITLES = {
    "techniques": "techniques",
    "parameters": "parameters",
    "recall": "recall@1",
    "ci95": "95% interval",
    "kept": "of the teacher's",
    "kept_ci95": "95% interval",
    "reached": f"samples to {KEPT:.0%} of the teacher's",
    "sooner": "sooner than without inheritance",
}


def options_of(args: argparse.Namespace, steps: int, **changed: Any) -> dict[str, Any]:
    """The task's options for a run of so many steps."""
    cfg = load_config("train", ["task=perception/tinyclip", "preset=cpu"])
    task = as_dict(cfg.task)
    task["trainer"] = as_dict(cfg.trainer) | {"steps": steps, "batch_size": args.batch_size, "lr": args.lr}
    task["model"]["patch_size"] = args.patch_size
    return task | {"gallery": args.gallery} | changed


def open_data(args: argparse.Namespace) -> dict[str, Any]:
    """Pictures of all splits, generated where they are missing."""
    counts = {"train": args.pictures, "validation": args.pictures // 8, "test": args.pictures // 4}
    return {
        split: open_labelled_images("table", split, count, args.image_size, data_dir=Path(args.data_dir))
        for split, count in counts.items()
    }


def train_model(args: argparse.Namespace, options: dict[str, Any], run_dir: Path, threads: int) -> list[list[float]]:
    """Train as train.py does, or go on with it; returns the curve: samples seen, recall@1 on validation pictures."""
    trainer = options["trainer"]
    cfg = load_config("train", ["task=perception/tinyclip", "preset=cpu", "logger=none", f"run_dir={run_dir}"])
    cfg.trainer.update(trainer | {"num_threads": threads, "bf16": False, "log_every": 50})
    cfg.trainer.validate_every = cfg.trainer.save_every = max(1, trainer["steps"] // args.validations)
    if not (run_dir / "checkpoints" / f"{trainer['steps']:06d}").exists():
        trainable = ClipTrainable(options, open_data(args))
        accelerator = make_accelerator("cpu", False)
        with Tracker(run_dir, as_dict(cfg)) as tracker:
            fit(trainable, cfg, accelerator, tracker, lambda _: trainable.evaluate())
    records = read_metrics(run_dir / "metrics.jsonl")
    scores = [(record["step"], record["validation/score"]) for record in records if "validation/score" in record]
    return [[step * trainer["batch_size"], score] for step, score in scores]


def measure(args: argparse.Namespace, run_dir: Path) -> dict[str, Any]:
    """Parameters, and recall@1 of every gallery of test pictures, of a run's last model."""
    test = open_data(args)["test"]
    model = TinyCLIP.from_pretrained(run_dir / "checkpoints/last/pretrained_model")
    found = recalls(model, test.images, make_galleries(test.labels, args.gallery))
    return {"parameters": sum(p.numel() for p in model.parameters()), "galleries": found.tolist()}


def run_row(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """Train a row's model, stage by stage, and measure it; finished ones are read from their file."""
    out = Path(args.out)
    file = out / name / "figures.json"
    if file.exists():
        return json.loads(file.read_text())
    if name == "teacher":
        plan = [options_of(args, args.teacher_steps, **TEACHER)]
    else:
        _, changed, stages = ROWS[name]
        teacher = out / "teacher"
        larger = TinyCLIP.from_pretrained(teacher)
        changed = changed | {"teacher": str(teacher), "keep": keep_share(larger)}
        shapes = stage_shapes(larger.clip, STUDENT, stages)
        plan = [options_of(args, args.steps // stages, **changed | shape) for shape in shapes]
    seen, curve = 0.0, [[0.0, 0.0]]
    for number, options in enumerate(plan):
        if number:
            options["inherit_from"] = str(out / name / f"stage-{number}")
        run_dir = out / name / f"stage-{number + 1}" if len(plan) > 1 else out / name
        threads = args.jobs if name == "teacher" else 1
        # Only the last stage's models have the student's size, but all stages' samples count.
        curve = [[seen + samples, score] for samples, score in train_model(args, options, run_dir, threads)]
        seen = curve[-1][0]
    result = {"curve": curve} | measure(args, run_dir)
    write_whole(file, json.dumps(result))
    return result


def keep_share(teacher: TinyCLIP) -> float:
    """The student's share of the teacher's parameters, which masks are to leave too."""
    student, whole = (
        sum(p.numel() for p in clip.parameters()) for clip in (inherit(teacher.clip, STUDENT), teacher.clip)
    )
    return student / whole


def reached(curve: Sequence[Sequence[float]], target: float) -> float | None:
    """Samples after which a curve first was at the target, None if it never was."""
    return next((samples for samples, score in curve if score >= target), None)


def make_rows(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the table says of every run, the teacher first."""
    teacher = results["teacher"]
    whole = np.array(teacher["galleries"]).mean(axis=1)
    target = KEPT * max(score for _, score in teacher["curve"])
    rows = []
    for name, result in results.items():
        scores = np.array(result["galleries"]).mean(axis=1)
        low, high = bootstrap_interval(scores)
        row = {"name": name, "parameters": result["parameters"], "techniques": "teacher", "recall_at_1": scores.mean()}
        row |= {"recall": f"{100 * scores.mean():.1f}%", "ci95": f"{100 * low:.1f}–{100 * high:.1f}%"}
        if name != "teacher":
            low, high = bootstrap_interval(np.stack([scores, whole], axis=1))
            samples, seen = reached(result["curve"], target), int(result["curve"][-1][0])
            row |= {"techniques": ROWS[name][0], "share": result["parameters"] / teacher["parameters"]}
            row["parameters"] = f"{result['parameters']:,} ({row['share']:.0%})"
            row |= {"kept_share": scores.mean() / whole.mean(), "kept_interval": [low, high]}
            row |= {"kept": f"{100 * row['kept_share']:.1f}%", "kept_ci95": f"{100 * low:.1f}–{100 * high:.1f}%"}
            row |= {"samples": samples, "seen": seen, "reached": f"{samples:,.0f}" if samples else f"not in {seen:,}"}
            alike = results.get("scratch" if "mimicking" not in name else "mimicking")
            if alike and samples and ROWS[name][1]["inherit"] != "none":
                without = reached(alike["curve"], target)
                row["times_sooner"] = (without or alike["curve"][-1][0]) / samples
                row["sooner"] = f"{'' if without else '> '}{row['times_sooner']:.1f}×"
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=4096, help="to train on (default: %(default)s)")
    parser.add_argument("--image-size", type=int, default=64, help="pixels (default: %(default)s)")
    parser.add_argument("--patch-size", type=int, default=16, help="pixels (default: %(default)s)")
    parser.add_argument("--teacher-steps", type=int, default=2400, help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=800, help="of every student (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="(default: %(default)s)")
    parser.add_argument("--lr", type=float, default=1.5e-3, help="(default: %(default)s)")
    parser.add_argument("--gallery", type=int, default=20, help="pictures in a gallery (default: %(default)s)")
    parser.add_argument("--validations", type=int, default=16, help="points of a curve (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="students at a time, a thread each (default: %(default)s)")
    parser.add_argument("--rows", nargs="+", choices=[*ROWS], default=[*ROWS])
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--out", default="outputs/benchmarks/tinyclip", help="runs (default: %(default)s)")
    args = parser.parse_args()

    machine = Machine()
    setting = machine.describe(args.jobs)
    open_data(args)
    results = {"teacher": run_row(args, "teacher")}
    with worker_pool(args.jobs) as pool:
        futures = {name: pool.submit(run_row, args, name) for name in args.rows}
        results |= {name: future.result() for name, future in futures.items()}

    rows = make_rows(results)
    galleries = len(results["teacher"]["galleries"])
    title = (
        f"{machine.title(1)}; {args.pictures} pictures of {args.image_size} pixels; recall@1 among {args.gallery}, "
        f"{galleries} galleries of test pictures; students see {args.steps * args.batch_size:,} samples, the teacher "
        f"{args.teacher_steps * args.batch_size:,}"
    )
    text = f"{title}\n\n{markdown(rows, TITLES)}"
    keep("tinyclip", setting | {"settings": vars(args), "rows": rows, "results": results}, text)
    print(text + "\n")
    kept = {row["name"]: {key: row.get(key) for key in ("kept_share", "samples", "times_sooner")} for row in rows}
    print(json.dumps(setting | {"rows": kept}))


if __name__ == "__main__":
    main()
