"""Tables and plots of the pages, by the name that stands in the page, each made from results alone."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.derived_figures import FILES
from benchmarks.figures import Interval
from benchmarks.machine import markdown
from benchmarks.result_files import read_result

Result = Mapping[str, Any]
WAKE_DISTANCES = ("near", "mid", "far")
SAM_MODES = {
    "point": "a point in the middle",
    "random_point": "a point anywhere",
    "points": "three points",
    "box": "a box",
}
SAM_MODELS = {
    "teacher": "`base`, the teacher",
    "random prompts": "`small`, random prompts",
    "hard prompts": "`small`, hard prompts",
    "distilled": "`small`, hard prompts, distilled",
    "distilled, int8": "the same in int8",
}
SOAK_RUNS = {
    "quiet": "nothing",
    "quiet again": "nothing",
    "beside training": "a training with one thread",
    "older transport": "other programs, an earlier version, a Xeon",
}
TARGETS = {"stored": "stored probabilities", "online": "live teacher", "labels": "labels"}


def default_run() -> str:
    """Success of the default run by environment (rows) and by the task whose instruction is read (columns)."""
    result = read_result("default_run")
    titles = {"environment": "environment", "interval": "95% interval"}
    titles |= {task: f"[{number}]" for number, task in enumerate(result["tasks"], 1)}
    rows = []
    for number, (task, figures) in enumerate(result["tasks"].items(), 1):
        row = {"environment": f"[{number}] {task}", "interval": f"{Interval(figures['ci95']):.1%}"}
        cells = result["wrong_instructions"][task] | {task: figures}
        row |= {name: f"{cell['successes']}/{cell['episodes']}" for name, cell in cells.items()}
        rows.append(row | {task: f"**{row[task]}**"})
    return markdown(rows, titles)


def mt50() -> str:
    from benchmarks.mt50 import table

    return table(read_result("mt50"))


def comparison(name: str, number: int, by_task: bool) -> str:
    """A table of benchmarks.compare: `number` 0 after equal time, 1 after equal samples."""
    from benchmarks import compare

    rows = list(read_result(FILES[name])["tables"].values())[number]
    return compare.by_task(rows) if by_task else markdown(rows, compare.TITLES)


def data_efficiency() -> str:
    from benchmarks.data_efficiency import table

    return table(read_result(FILES["data_efficiency"])["curves"])


def soak() -> str:
    runs = read_result("soak")["runs"]
    rows = []
    for name, beside in SOAK_RUNS.items():
        timing = runs[name]["timing"]
        late = f"{timing['late']:,} ({timing['late'] / timing['ticks']:.2%})"
        row = {"beside": beside, "ticks": f"{timing['ticks']:,}", "late": late, "missed": timing["missed"]}
        rows.append(row | {"p99": f"{timing['p99_ms']} ms", "worst": f"{timing['worst_ms']:.0f} ms"})
    titles = {"beside": "beside it", "p99": "99%"}
    return markdown(rows, {name: titles.get(name, name) for name in rows[0]})


def async_chunking() -> str:
    """Lateness by runner, and by the way in which a chunk takes its time."""
    ways = {"sleep": "sleep", "torch": "matrix products", "python": "the interpreter lock"}
    rows = [
        {
            "runner": "asynchronous" if row["slow"] in ways else "synchronous",
            "way": ways.get(row["slow"], "sleep"),
            "late": f"{row['late_ticks']} of {row['ticks']:,}",
            "latest": f"{row['max_late_ms']:.1f}",
        }
        for row in read_result("async_chunking")["rows"]
    ]
    titles = {"runner": "runner", "way": "time of a chunk is spent in"}
    return markdown(rows, titles | {"late": "late by > 5 ms", "latest": "latest (ms)"})


def mask_in_policy() -> str:
    """Success of a policy with TinySAM's mask and of one without, with and without distractors."""
    rows = read_result(FILES["mask_in_policy"])["rows"]
    names = {"without": "`frontend=none`", "tinysam, mask": "`frontend=tinysam`, mask"}
    titles = {"policy": "policy", "nothing": "as in training"}
    titles |= {"distractors, background": "distractors and other backgrounds", "ms": "ms per action"}
    table = []
    for policy, name in names.items():
        cells = [row for row in rows if row["policy"] == policy]
        times = dict.fromkeys(round(row["figures"]["ms_per_action"], 1) for row in cells)
        line = {row["shift"]: _counts(row["figures"]) for row in cells}
        table.append(line | {"policy": name, "ms": " to ".join(f"{ms:g}" for ms in times)})
    return markdown(table, titles)


def tinyclip() -> str:
    """Recall of the students by technique."""
    rows = [
        {
            "techniques": row["techniques"],
            "recall": f"{row['recall']} ({row['ci95'].rstrip('%')})",
            "share": f"{row['kept']} ({row['kept_ci95'].rstrip('%')})",
            "reached": row["reached"],
        }
        for row in read_result("tinyclip")["rows"]
        if row["name"] != "teacher"
    ]
    titles = {"techniques": "techniques", "recall": "recall@1", "share": "of the teacher's"}
    return markdown(rows, titles | {"reached": "samples to 95% of the teacher's"})


def tinysam() -> str:
    """Mean IoU in percent by model and prompt."""
    models = read_result("tinysam")["models"]
    rows = [
        {"model": name} | {mode: _points(models[model][mode], "mean_iou", 100) for mode in SAM_MODES}
        for model, name in SAM_MODELS.items()
    ]
    return markdown(rows, {"model": "model"} | SAM_MODES)


def wake() -> str:
    """AUROC by width and resolution of the network and distance of the person."""
    rows = [
        {"width": row["width"], "side": row["image_size"]}
        | {distance: f"{row['distance'][distance]['auroc']:.3f}" for distance in WAKE_DISTANCES}
        for row in read_result("wake")["table"]
    ]
    return markdown(rows, {"width": "width", "side": "pixels"} | {name: name for name in WAKE_DISTANCES})


def cct_against_vit() -> str:
    """Accuracy in percent by model and set of images."""
    result = read_result("cct_against_vit")
    models = list(dict.fromkeys(row["model"] for row in result["rows"]))
    sets = list(dict.fromkeys(row["set"] for row in result["rows"]))
    sizes = {row["model"]: row["parameters"] for row in result["rows"] if row["set"] == "objects"}
    tests = {chosen: f"{chosen} ({_accuracies(result, chosen)[0]['n']} tests)" for chosen in sets}
    rows = [
        {"model": model, "parameters": f"{sizes[model] / 1e6:.3f}"}
        | {chosen: _points(result["accuracy"][f"{chosen}: {model}"], "accuracy") for chosen in sets}
        for model in models
    ]
    return markdown(rows, {"model": "model", "parameters": "parameters (M)"} | tests)


def distillation() -> str:
    """Accuracy in percent and seconds per epoch by source of the targets."""
    result = read_result("distillation")
    seconds = result["time"]["seconds_an_epoch"]
    rows = [
        {"source": name, "accuracy": _points(result["accuracy"][mode], "accuracy"), "seconds": f"{seconds[mode]:.1f}"}
        for mode, name in TARGETS.items()
    ]
    return markdown(rows, {"source": "source of the targets", "accuracy": "accuracy", "seconds": "seconds per epoch"})


def _accuracies(result: Result, chosen: str) -> list[Result]:
    return [figures for name, figures in result["accuracy"].items() if name.startswith(f"{chosen}: ")]


def _counts(figures: Result) -> str:
    """Successes and episodes with the interval to a tenth of a percent."""
    return f"{figures['successes']}/{figures['episodes']} ({Interval(figures['ci95']):.1%})"


def _points(figures: Result, key: str, scale: float = 1) -> str:
    """A figure with its interval, to one decimal: 69.2 (67.1–71.4)."""
    low, high = (scale * bound for bound in figures["ci95"])
    return f"{scale * figures[key]:.1f} ({low:.1f}–{high:.1f})"


TABLES: dict[str, Callable[[], str]] = {
    "async_chunking": async_chunking,
    "cct_against_vit": cct_against_vit,
    "data_efficiency": data_efficiency,
    "default_run": default_run,
    "distillation": distillation,
    "mask_in_policy": mask_in_policy,
    "mt50": mt50,
    "policies_equal_time": lambda: comparison("policies", 0, False),
    "policies_equal_time_by_task": lambda: comparison("policies", 0, True),
    "policies_equal_samples": lambda: comparison("policies", 1, False),
    "policies_equal_samples_by_task": lambda: comparison("policies", 1, True),
    "policies_harder": lambda: comparison("harder_policies", 0, False),
    "policies_harder_by_task": lambda: comparison("harder_policies", 0, True),
    "soak": soak,
    "tinyclip": tinyclip,
    "tinysam": tinysam,
    "wake": wake,
}


def plot_comparison(result: Result, file: Path) -> None:
    from benchmarks.compare import plot

    plot(result["tables"], file)


def plot_data_efficiency(result: Result, file: Path) -> None:
    from benchmarks.data_efficiency import plot

    plot(result["curves"], file)


def plot_mt50(result: Result, file: Path) -> None:
    from benchmarks.mt50 import plot

    plot(result, file)


# By the name of the result, which is that of the image file too.
PLOTS: Mapping[str, Callable[[Result, Path], None]] = {
    FILES["data_efficiency"]: plot_data_efficiency,
    FILES["policies"]: plot_comparison,
    FILES["harder_policies"]: plot_comparison,
    "mt50": plot_mt50,
}
