"""Students of stored answers, of the live teacher and of labels alone (TinyViT, arXiv 2207.10666).

    uv run python -m benchmarks.frontends.distillation
    uv run python -m benchmarks.frontends.distillation source=digits seeds=[0] epochs=2 teacher_steps=30 name=try

The teacher is a ResNet-18 that is trained first; the student a CCT with two layers, a twentieth of its size. All three
students train on the same images in the same order, for the same epochs, at the same learning rate. Steps, views
included, are timed with one thread, stored and online in turns. Finished parts are kept; the same command resumes. The
last line is one JSON object.
"""

import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.frontends.classifier_runs import (
    accuracy,
    correct,
    difference,
    open_data,
    options,
    side_by_side,
    train,
)
from benchmarks.machine import RESULTS, Machine, keep, markdown, read_kept
from benchmarks.settings import setting, start

_SHAPE = {"embed_dim": 128, "depth": 2, "num_heads": 2, "mlp_ratio": 1.0}
STUDENT: dict[str, Any] = {"model": "cct_7_7x2", "network": _SHAPE}
TEACHER: dict[str, Any] = {"model": "resnet18", "network": {}}
SIDE = 64  # pixels, of teacher and students
MODES = ("stored", "online", "labels")
TITLES = {
    "student": "student of",
    "accuracy": "accuracy",
    "ci95": "95%",
    "runs": "per seed",
    "s_per_epoch": "s per epoch",
}


@dataclass
class Settings:
    """Settings of the command line."""

    source: str = setting("objects", "source of the images (see configs/task/perception/cct.yaml)")
    seeds: list[int] = setting([0, 1, 2], "seeds, one student each")
    epochs: int = setting(10, "epochs of the students, all of them stored")
    teacher_steps: int = setting(400, "training steps of the teacher, 64 images each")
    k: int = setting(5, "stored classes per view")
    scenes: int = setting(600, "scenes that training objects are cut out of")
    test_scenes: int = setting(400, "scenes that test objects are cut out of")
    timed: int = setting(20, "timed steps of each kind")
    data_dir: str = setting("data", "folder of generated scenes")
    work: str = setting("outputs/benchmarks/distillation", "folder of the teacher and its answers")
    workers: int = setting(2, "students side by side, of one thread each")
    name: str = setting("distillation", "name of the files in benchmarks/results")


def common_options(settings: Settings) -> dict[str, Any]:
    """Options that teacher and students share."""
    view = {"scale": 0.6, "flip": settings.source != "digits", "colour": 0.2}
    return {"image_size": SIDE, "source": settings.source, "view": view}


def open_images(settings: Settings) -> dict[str, Any]:
    """Labelled images by split for the source `objects`, nothing for other sources."""
    return open_data(settings.source, settings.scenes, settings.test_scenes, settings.data_dir)


def make_student(mode: str, seed: int, settings: Settings, n_images: int) -> tuple[Any, dict[str, Any]]:
    """Untrained student and its trainer's settings; for stored answers, the store is filled first if it is not full."""
    from benchmarks.frontends.vision_tasks import trainable_of

    trainer = {"steps": settings.epochs * n_images // 64, "lr": 1e-3}
    if mode == "labels":
        task = options("cct", trainer=trainer, **common_options(settings), **STUDENT)
        return trainable_of(task, open_images(settings), seed), task["trainer"]
    work = Path(settings.work)
    answers = {"teacher": str(work / "teacher"), "store": str(work / "logits"), "online": mode == "online", "check": 0}
    task = options(
        "tinyvit",
        trainer=trainer,
        k=settings.k,
        epochs=settings.epochs,
        **answers,
        **common_options(settings),
        **STUDENT,
    )
    return trainable_of(task, open_images(settings), seed), task["trainer"]


def run(mode: str, seed: int, settings: Settings, n_images: int) -> dict[str, Any]:
    """Train and test one student."""
    trainable, trainer = make_student(mode, seed, settings, n_images)
    spent = train(trainable, trainer, seed)
    weights = sum(weight.numel() for weight in trainable.module.parameters())
    row = {"student": mode, "seed": seed, "right": correct(trainable), "n": len(trainable.test_images())}
    return row | {"parameters": weights, "seconds": round(sum(spent.values()), 1)}


def train_teacher(settings: Settings) -> dict[str, Any]:
    """Train the teacher from labels and save it; returns its accuracy and size."""
    from benchmarks.frontends.vision_tasks import trainable_of

    trainer = {"steps": settings.teacher_steps, "lr": 1e-3}
    trainable: Any = trainable_of(
        options("cct", trainer=trainer, **common_options(settings), **TEACHER), open_images(settings), 0
    )
    start = time.perf_counter()
    train(trainable, options("cct", trainer=trainer)["trainer"], 0)
    trainable.save(Path(settings.work) / "teacher")
    row = {
        "right": correct(trainable),
        "n": len(trainable.test_images()),
        "seconds": round(time.perf_counter() - start, 1),
    }
    sizes = {"pictures": len(trainable.train_images), "classes": len(trainable.train_images.classes)}
    weights = sum(weight.numel() for weight in trainable.module.parameters())
    return row | sizes | {"parameters": weights, "accuracy": accuracy([row])}


def fill_store(settings: Settings, n_images: int) -> dict[str, Any]:
    """Store the teacher's answers of all epochs; returns seconds, the check's largest difference and bytes per view."""
    from tinyvla.frontends.tinyvit.stored_logits import check_logits
    from tinyvla.frontends.tinyvit.training import load_teacher

    start = time.perf_counter()
    trainable, _ = make_student("stored", 0, settings, n_images)
    seconds = time.perf_counter() - start
    contents, teacher = (
        trainable.store.contents,
        load_teacher(str(Path(settings.work) / "teacher"), trainable.train_images),
    )
    return {
        "seconds": round(seconds, 1),
        "check": round(check_logits(trainable.store, trainable.train_images, teacher), 6),
        "bytes": contents.bytes,
        "bytes_a_view": contents.record.itemsize,
        "bytes_a_view_dense_float16": 4 + 2 * contents.classes,
        "bytes_a_view_dense_float32": 4 + 4 * contents.classes,
    }


def time_steps(settings: Settings, n_images: int, steps: int) -> dict[str, Any]:
    """Seconds per epoch of stored, online and labelled training: medians of steps in turns on one thread."""
    trainables = {}
    for mode in MODES:
        trainable, trainer = make_student(mode, 0, settings, n_images)
        trainables[mode] = trainable, trainer | {"steps": 1}
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    for _ in range(steps + 2):
        for mode, (trainable, trainer) in trainables.items():
            seconds[mode].append(sum(train(trainable, trainer, 0).values()))
    medians = {mode: statistics.median(times[2:]) for mode, times in seconds.items()}
    per_epoch = {mode: round(median * n_images / 64, 2) for mode, median in medians.items()}
    faster = round(medians["online"] / medians["stored"], 2)
    return {"seconds_an_epoch": per_epoch, "times_as_fast": faster, "steps": steps}


def summarise(state: dict[str, Any], settings: Settings) -> tuple[dict[str, Any], str]:
    """Result and Markdown of the finished runs."""
    runs = {mode: [row for row in state["rows"] if row["student"] == mode] for mode in MODES}
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
            "accuracy": f"{figure['accuracy']:.1f}%",
            "ci95": f"{figure['ci95'][0]}–{figure['ci95'][1]}%",
            "runs": ", ".join(f"{run:.1f}" for run in figure["runs"]),
            "s_per_epoch": state.get("time", {}).get("seconds_an_epoch", {}).get(mode, ""),
        }
        for mode, figure in figures.items()
    ]
    teacher = state["teacher"]
    summary = (
        f"{settings.source}: {teacher['pictures']} training and {teacher['n']} test images of {teacher['classes']} "
    )
    summary += (
        f"classes, {SIDE} pixels; {settings.epochs} epochs, seeds {settings.seeds}. Teacher: {TEACHER['model']}, "
    )
    summary += f"{teacher['parameters'] / 1e6:.1f} M parameters, {teacher['accuracy']['accuracy']:.1f}%"
    if state["rows"]:
        summary += f"; students: {state['rows'][0]['parameters'] / 1e6:.2f} M parameters"
    lines = [
        f"{name}: {lead['points']:+.1f} points ({lead['ci95'][0]} to {lead['ci95'][1]})" for name, lead in ahead.items()
    ]
    if "time" in state:
        lines.append(
            f"an epoch of stored answers is {state['time']['times_as_fast']} times as fast as one of the live teacher's"
        )
    if "store" in state:
        store = state["store"]
        lines += [
            f"the store has {store['bytes_a_view']} bytes per view, K = {settings.k}; answers for all classes take "
            f"{store['bytes_a_view_dense_float16']} in float16 and {store['bytes_a_view_dense_float32']} in float32. "
            "Of 21,841 classes with K = 100 it would be 404 instead of 43,686",
            f"the teacher answered once, in {store['seconds']} s; on 64 repeated views, no probability differs by "
            f"more than {store['check']}",
        ]
    text = "\n".join([summary, "", markdown(table, TITLES), "", *(f"- {line}" for line in lines)])
    return {"accuracy": figures, "ahead": ahead}, text


def main(settings: Settings) -> None:
    settings.work = f"{settings.work}/{settings.name}"
    machine, file = Machine(), RESULTS / f"{settings.name}.json"
    keys = ("source", "epochs", "teacher_steps", "k", "scenes", "test_scenes")
    conditions = {key: getattr(settings, key) for key in keys}
    state = read_kept(settings.name, conditions) or {"asked": conditions, "rows": []}

    def write(**more: Any) -> None:
        state.update(more)
        result, text = summarise(state, settings)
        state.update(result, machine=machine.describe(1))
        keep(settings.name, state, f"{machine.title(1)}; {text}")

    open_images(settings)  # rendered once, before the runs need it
    if "teacher" not in state or not (Path(settings.work) / "teacher").is_dir():
        write(teacher=train_teacher(settings))
    n_images = state["teacher"]["pictures"]
    if "store" not in state:
        (Path(settings.work) / "logits").unlink(missing_ok=True)
        write(store=fill_store(settings, n_images))
    if "time" not in state:
        write(time=time_steps(settings, n_images, settings.timed))
    done = {(row["student"], row["seed"]) for row in state["rows"]}
    jobs = [(mode, seed, settings, n_images) for seed in settings.seeds for mode in MODES if (mode, seed) not in done]
    side_by_side(jobs, run, settings.workers, lambda row: write(rows=[*state["rows"], row]))
    print(file.with_suffix(".md").read_text())
    print(json.dumps({key: value for key, value in state.items() if key != "rows"}))


if __name__ == "__main__":
    start(main, Settings, __doc__)
