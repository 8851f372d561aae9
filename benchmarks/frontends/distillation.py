"""A student of stored answers against one of the live teacher and one of labels alone (TinyViT, arXiv 2207.10666).

    uv run benchmarks/perception/distillation.py
    uv run benchmarks/perception/distillation.py --source digits --seeds 0 --epochs 2 --teacher-steps 30 --name try

The teacher is a ResNet-18 that is trained here first; the student a CCT with two layers, a twentieth of its size. All
three students see the same pictures in the same order, as often, at the same rate. The time of a step, views included,
is measured with one thread, stored and online in turns. What is finished is kept; the same command goes on where it
stopped. The last line is one JSON object.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.frontends.classifier_runs import accuracy, difference, options, right, side_by_side, train
from benchmarks.machine import RESULTS, Machine, keep, markdown

_SHAPE = {"embed_dim": 128, "depth": 2, "num_heads": 2, "mlp_ratio": 1.0}
STUDENT: dict[str, Any] = {"model": "cct_7_7x2", "network": _SHAPE}
TEACHER: dict[str, Any] = {"model": "resnet18", "network": {}}
SIDE = 64  # pixels that both see
MODES = ("stored", "online", "labels")
TITLES = {"student": "student of", "accuracy": "accuracy", "ci95": "95%", "runs": "a seed", "s_per_epoch": "s an epoch"}


def usual(args: argparse.Namespace) -> dict[str, Any]:
    """What teacher and students have in common."""
    view = {"scale": 0.6, "flip": args.source != "digits", "colour": 0.2}
    return {"image_size": SIDE, "source": args.source, "view": view}


def open_data(args: argparse.Namespace) -> dict[str, Any]:
    """Scenes by split for `objects`, nothing for other sources."""
    if args.source != "objects":
        return {}
    from envs.scenes import open_labelled_images

    counts = {"train": args.scenes, "validation": 50, "test": args.test_scenes}
    return {
        name: open_labelled_images("table", name, count, data_dir=Path(args.data_dir)) for name, count in counts.items()
    }


def make_student(mode: str, seed: int, args: argparse.Namespace, pictures: int) -> tuple[Any, dict[str, Any]]:
    """A fresh student and its trainer's settings; one of stored answers fills the store where it is not full."""
    from tinyvla.frontends.cct.training import ClassificationTrainable
    from tinyvla.frontends.tinyvit.training import DistillationTrainable

    trainer = {"steps": args.epochs * pictures // 64, "lr": 1e-3}
    if mode == "labels":
        made = options("cct", trainer=trainer, **usual(args), **STUDENT)
        return ClassificationTrainable(made, open_data(args), seed), made["trainer"]
    work = Path(args.work)
    own = {"teacher": str(work / "teacher"), "store": str(work / "logits"), "online": mode == "online", "check": 0}
    made = options("tinyvit", trainer=trainer, k=args.k, epochs=args.epochs, **own, **usual(args), **STUDENT)
    return DistillationTrainable(made, open_data(args), seed), made["trainer"]


def run(mode: str, seed: int, args: argparse.Namespace, pictures: int) -> dict[str, Any]:
    """Train and test one student."""
    trainable, settings = make_student(mode, seed, args, pictures)
    spent = train(trainable, settings, seed)
    weights = sum(weight.numel() for weight in trainable.module.parameters())
    row = {"student": mode, "seed": seed, "right": right(trainable), "n": len(trainable.test_pictures())}
    return row | {"parameters": weights, "seconds": round(sum(spent.values()), 1)}


def train_teacher(args: argparse.Namespace) -> dict[str, Any]:
    """Train the teacher from labels and save it; how good it is."""
    from tinyvla.frontends.cct.training import ClassificationTrainable

    trainer = {"steps": args.teacher_steps, "lr": 1e-3}
    trainable = ClassificationTrainable(options("cct", trainer=trainer, **usual(args), **TEACHER), open_data(args), 0)
    start = time.perf_counter()
    train(trainable, options("cct", trainer=trainer)["trainer"], 0)
    trainable.save(Path(args.work) / "teacher")
    row = {
        "right": right(trainable),
        "n": len(trainable.test_pictures()),
        "seconds": round(time.perf_counter() - start, 1),
    }
    sizes = {"pictures": len(trainable.train_pictures), "classes": len(trainable.train_pictures.classes)}
    weights = sum(weight.numel() for weight in trainable.module.parameters())
    return row | sizes | {"parameters": weights, "accuracy": accuracy([row])}


def fill_store(args: argparse.Namespace, pictures: int) -> dict[str, Any]:
    """Have the teacher answer in all epochs; seconds, the check's largest difference, and bytes a picture."""
    from tinyvla.frontends.tinyvit.stored_answers import check_logits
    from tinyvla.frontends.tinyvit.training import load_teacher

    start = time.perf_counter()
    trainable, _ = make_student("stored", 0, args, pictures)
    seconds = time.perf_counter() - start
    contents, teacher = (
        trainable.store.contents,
        load_teacher(str(Path(args.work) / "teacher"), trainable.train_pictures),
    )
    return {
        "seconds": round(seconds, 1),
        "check": round(check_logits(trainable.store, trainable.train_pictures, teacher), 6),
        "bytes": contents.bytes,
        "bytes_a_view": contents.record.itemsize,
        "bytes_a_view_dense_float16": 4 + 2 * contents.classes,
        "bytes_a_view_dense_float32": 4 + 4 * contents.classes,
    }


def time_steps(args: argparse.Namespace, pictures: int, steps: int) -> dict[str, Any]:
    """Seconds an epoch of stored, online and labelled training: medians of steps taken in turns on one thread."""
    trainables = {}
    for mode in MODES:
        trainable, settings = make_student(mode, 0, args, pictures)
        trainables[mode] = trainable, settings | {"steps": 1}
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    for _ in range(steps + 2):
        for mode, (trainable, settings) in trainables.items():
            seconds[mode].append(sum(train(trainable, settings, 0).values()))
    medians = {mode: statistics.median(taken[2:]) for mode, taken in seconds.items()}
    an_epoch = {mode: round(median * pictures / 64, 2) for mode, median in medians.items()}
    faster = round(medians["online"] / medians["stored"], 2)
    return {"seconds_an_epoch": an_epoch, "times_as_fast": faster, "steps": steps}


def summarise(kept: dict[str, Any], args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """What the runs that are there amount to."""
    runs = {mode: [row for row in kept["rows"] if row["student"] == mode] for mode in MODES}
    figures = {mode: accuracy(rows) for mode, rows in runs.items() if rows}
    ahead = {
        f"stored ahead of {other}": difference(runs["stored"], runs[other])
        for other in ("online", "labels")
        if runs["stored"] and len(runs["stored"]) == len(runs[other])
    }
    names = {"stored": "stored answers", "online": "the live teacher", "labels": "labels"}
    table = [
        {
            "student": names[mode],
            "accuracy": f"{each['accuracy']:.1f}%",
            "ci95": f"{each['ci95'][0]}–{each['ci95'][1]}%",
            "runs": ", ".join(f"{one:.1f}" for one in each["runs"]),
            "s_per_epoch": kept.get("time", {}).get("seconds_an_epoch", {}).get(mode, ""),
        }
        for mode, each in figures.items()
    ]
    teacher = kept["teacher"]
    told = f"{args.source}: {teacher['pictures']} training and {teacher['n']} test pictures of {teacher['classes']} "
    told += f"classes, {SIDE} pixels; {args.epochs} epochs, seeds {args.seeds}. Teacher: {TEACHER['model']}, "
    told += f"{teacher['parameters'] / 1e6:.1f} M parameters, {teacher['accuracy']['accuracy']:.1f}%"
    if kept["rows"]:
        told += f"; students: {kept['rows'][0]['parameters'] / 1e6:.2f} M parameters"
    lines = [
        f"{name}: {each['points']:+.1f} points ({each['ci95'][0]} to {each['ci95'][1]})" for name, each in ahead.items()
    ]
    if "time" in kept:
        lines.append(f"an epoch of stored answers is {kept['time']['times_as_fast']} times as fast as of the teacher's")
    if "store" in kept:
        store = kept["store"]
        lines += [
            f"the store has {store['bytes_a_view']} bytes a view, K = {args.k}; answers about all classes would take "
            f"{store['bytes_a_view_dense_float16']} in float16 and {store['bytes_a_view_dense_float32']} in float32. "
            "Of 21,841 classes with K = 100 it would be 404 instead of 43,686",
            f"the teacher answered once, in {store['seconds']} s; asked again on 64 views, no probability differs by "
            f"more than {store['check']}",
        ]
    text = "\n".join([told, "", markdown(table, TITLES), "", *(f"- {line}" for line in lines)])
    return {"accuracy": figures, "ahead": ahead}, text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="objects", help="of the pictures (see configs/task/perception/cct.yaml)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=10, help="of the students, all of them stored")
    parser.add_argument("--teacher-steps", type=int, default=400, help="of 64 pictures")
    parser.add_argument("--k", type=int, default=5, help="classes that are stored of a view")
    parser.add_argument("--scenes", type=int, default=600, help="that training objects are cut out of")
    parser.add_argument("--test-scenes", type=int, default=400)
    parser.add_argument("--timed", type=int, default=20, help="steps of each kind that are timed")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--work", default="outputs/benchmarks/distillation", help="for the teacher and its answers")
    parser.add_argument("--workers", type=int, default=2, help="students side by side, of one thread each")
    parser.add_argument("--name", default="distillation", help="of the files in benchmarks/results")
    args = parser.parse_args()
    args.work = f"{args.work}/{args.name}"
    machine, file = Machine(), RESULTS / f"{args.name}.json"
    same = ("source", "epochs", "teacher_steps", "k", "scenes", "test_scenes")
    asked = {key: getattr(args, key) for key in same}
    found = json.loads(file.read_text()) if file.exists() else {}
    kept: dict[str, Any] = found if found.get("asked") == asked else {"asked": asked, "rows": []}

    def write(**more: Any) -> None:
        kept.update(more)
        result, text = summarise(kept, args)
        kept.update(result, machine=machine.describe(1))
        keep(args.name, kept, f"{machine.title(1)}; {text}")

    open_data(args)  # drawn once, before the runs need it
    if "teacher" not in kept or not (Path(args.work) / "teacher").is_dir():
        write(teacher=train_teacher(args))
    pictures = kept["teacher"]["pictures"]
    if "store" not in kept:
        (Path(args.work) / "logits").unlink(missing_ok=True)
        write(store=fill_store(args, pictures))
    if "time" not in kept:
        write(time=time_steps(args, pictures, args.timed))
    done = {(row["student"], row["seed"]) for row in kept["rows"]}
    jobs = [(mode, seed, args, pictures) for seed in args.seeds for mode in MODES if (mode, seed) not in done]
    side_by_side(jobs, run, args.workers, lambda row: write(rows=[*kept["rows"], row]))
    print(file.with_suffix(".md").read_text())
    print(json.dumps({key: value for key, value in kept.items() if key != "rows"}))


if __name__ == "__main__":
    main()
