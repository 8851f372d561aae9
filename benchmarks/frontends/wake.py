"""Person detection on generated rooms: the benchmark suite, width against resolution, int8, and the gate in a stream.

    uv run python -m benchmarks.frontends.wake

trains one detector for the suite, int8 and the gate, and a grid of small MobileNetV2s for the table of widths and
input sizes, all on rooms whose furniture, textures and seeds are not in the test rooms. Finished parts are kept in
`work` and not repeated. Writes results/wake.json and .md; the last line is one JSON object.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.frontends.false_alarms import count_false_alarms
from benchmarks.frontends.one_cycle import train
from benchmarks.frontends.vision_tasks import trainable_of
from benchmarks.frontends.wake_analysis import leverage, quantisation_effect, sweep
from benchmarks.machine import Machine, keep, markdown, once
from benchmarks.settings import as_values, setting, start
from configs.composing import as_dict, load_config
from envs.scenes import generate_room_video, open_labelled_images
from tinyvla.frontends import load_frontend
from tinyvla.frontends.wake import GateLimits, PersonGate, Wake
from tinyvla.frontends.wake.frontend import predict
from tinyvla.frontends.wake.metrics import score
from tinyvla.frontends.wake.model import McuNet
from tinyvla.frontends.wake.patches import cost, parameters
from tinyvla.intervals import wilson_interval

WIDTHS, SIZES = (0.1, 0.2, 0.35), (48, 80, 128)
FPS = 30.0
EMPTY_BEFORE_S, ENTRY_S, ROOM_S = 3.0, 4.0, 60.0


@dataclass
class Settings:
    """Settings of the command line."""

    train: int = setting(20000, "training rooms")
    validation: int = setting(600, "validation rooms")
    test: int = setting(1500, "test rooms")
    steps: int = setting(5000, "training steps of the detector, 64 rooms each")
    grid_steps: int = setting(1500, "training steps of each cell of the table, 32 rooms each")
    entries: int = setting(40, "people who walk in")
    minutes: int = setting(10, "minutes of empty rooms, one room each")
    seed: int = setting(0, "seed of training")
    data_dir: str = setting("data", "folder of generated rooms")
    work: str = setting("outputs/bench-wake", "folder of finished parts")


class Bench:
    """Images, settings and finished parts of this benchmark."""

    def __init__(self, settings: Settings):
        self.settings, self.work = settings, Path(settings.work)
        rooms = {split: getattr(settings, split) for split in ("train", "validation", "test")}
        self.rooms = {
            split: open_labelled_images("room", split, count, 128, data_dir=Path(settings.data_dir))
            for split, count in rooms.items()
        }

    def once(self, name: str, measure: Callable[[], Any]) -> Any:
        """Result of `measure`, from the file of an earlier call if there is one."""
        return once(self.work / f"{name}.json", measure)

    def detector(self, network: str, width: float, size: int, steps: int, batch_size: int) -> Wake:
        """Trained detector, stored in a folder."""
        folder = self.work / f"{network}-{width:g}-{size}"
        if not (folder / "config.json").exists():
            cfg = as_dict(load_config("train", ["task=perception/wake"]))
            trainer = cfg["trainer"] | {"steps": steps, "batch_size": batch_size}
            options = cfg["task"] | {"network": network, "width": width, "image_size": size, "trainer": trainer}
            trainable = trainable_of(options, self.rooms, self.settings.seed)
            train(trainable, trainer)
            trainable.save(folder)
        wake = load_frontend(folder)
        assert isinstance(wake, Wake)
        return wake


def costs(wake: Wake) -> dict[str, Any]:
    """Parameters, MACs, and peak memory of int8 activations, whole and in 3 x 3 patches."""
    blocks, size = list(wake.network.features), (wake.image_size, wake.image_size)  # type: ignore[arg-type]
    whole, patched = cost(blocks, size), cost(blocks, size, 3, McuNet.patched)
    return {
        "parameters": parameters(wake.network),
        "macs": whole.macs,
        "peak_bytes": whole.bytes,
        "patched_peak_bytes": patched.bytes,
        "patched_macs": patched.macs,
        "ms": detector_ms(wake),
    }


def detector_ms(wake: Wake) -> float:
    """Median milliseconds per image on one thread."""
    threads, image = torch.get_num_threads(), np.zeros((128, 128, 3), np.uint8)
    torch.set_num_threads(1)
    times = []
    for _ in range(60):
        started = time.perf_counter()
        wake.probability(image)
        times.append(1e3 * (time.perf_counter() - started))
    torch.set_num_threads(threads)
    return round(float(np.median(times[10:])), 2)


def int8(bench: Bench, wake: Wake) -> dict[str, Any]:
    """Changes of scores with int8 weights and activations."""
    from tinyvla.compression.quantisation import quantise

    images = np.array(bench.rooms["train"].images[:64])
    batches = [torch.from_numpy(images).permute(0, 3, 1, 2)]
    effect = quantisation_effect(wake, quantise, batches, bench.rooms["test"])
    brief = {name: {key: effect[name][key] for key in ("accuracy", "auroc", "f1")} for name in ("float", "quantised")}
    return brief | {"changed": effect["changed"], "largest_difference": effect["largest_difference"]}


def entries(bench: Bench, wake: Wake, ms: float) -> dict[str, Any]:
    """Delay until the gate closes when a person walks into an empty room."""
    trials = []
    for number in range(bench.settings.entries):
        came, frames = int(EMPTY_BEFORE_S * FPS), int((EMPTY_BEFORE_S + ENTRY_S) * FPS)
        images, labels = zip(*generate_room_video("test", number, frames, came, 128, FPS), strict=True)
        wide = np.array([label["box"][2] - label["box"][0] if label["box"] else 0 for label in labels])
        first, half = (int(np.argmax(wide >= share)) for share in (1, wide.max() / 2))
        gate, closed = PersonGate(limits_of(wake)), []
        for frame, probability in enumerate(predict(wake, np.stack(images))):
            gate.see(frame / FPS, float(probability))
            closed.append(gate.person_in_view(frame / FPS))
        raised = next((frame for frame in range(first, frames) if closed[frame]), None)
        trials.append(
            {
                "distance": labels[-1]["distance"],
                "poster": labels[0]["depiction"],
                "closed_before": closed[first - 1],
                "after_first_ms": None if raised is None else 1e3 * (raised - first) / FPS + ms,
                "after_half_ms": None if raised is None else 1e3 * (raised - half) / FPS + ms,
            }
        )
    return {"trials": trials, "closed_before": sum(t["closed_before"] for t in trials), "rows": summarise(trials)}


def summarise(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Trials in which the gate, open before, closed within 200 ms: of the first 0.3% of the image, and of half of
    the person."""
    open_before, rows = [trial for trial in trials if not trial["closed_before"]], []
    for name, meaning in (("after_first_ms", "first 0.3% of the image"), ("after_half_ms", "half of the person")):
        times = [trial[name] for trial in open_before if trial[name] is not None]
        quick = sum(time <= 200 for time in times)
        rows.append(
            {
                "since": meaning,
                "within_200_ms": quick,
                "trials": len(open_before),
                "ci95": wilson_interval(quick, len(open_before)),
                "median_ms": round(float(np.median(times)), 1) if times else None,
                "never": len(open_before) - len(times),
            }
        )
    return rows


def empty_rooms(bench: Bench, wake: Wake) -> dict[str, Any]:
    """False alarms in empty rooms, one after the other; some rooms have people on posters."""

    def probabilities() -> Iterator[float]:
        for room in range(bench.settings.minutes):
            stream = generate_room_video("test", 1000 + room, int(ROOM_S * FPS), None, 128, FPS)
            while images := [image for image, _ in islice(stream, 60)]:
                yield from predict(wake, np.stack(images))

    return {"minutes": bench.settings.minutes} | count_false_alarms(limits_of(wake), probabilities(), FPS)


def limits_of(wake: Wake) -> GateLimits:
    return GateLimits(on=wake.on, off=max(wake.off, 0.0), on_count=2)


def text_of(result: dict[str, Any], title: str) -> str:
    """The tables."""
    share = "{:.3f}".format
    rows = [
        {"kind": f"{name} {value}", "f1": share(one["f1"]), "ci": _range(one["f1_ci95"]),
         "recall": f"{one['recall']:.3f} of {one['people']}", "alarms": f"{one['false_alarms']:.3f} of {one['empty']}"}
        for name, values in {"all": {"": result["suite"]}, **result["suite"]["kinds"]}.items()
        for value, one in values.items()
        if one["f1"] is not None
    ]  # fmt: skip
    suite = markdown(rows, {"kind": "images", "f1": "F1", "ci": "95%", "recall": "recall", "alarms": "false alarms"})
    grid = [
        {"width": row["width"], "size": row["image_size"], "accuracy": share(row["accuracy"]),
         "auroc": share(row["auroc"]),
         **{f"{key} {value}": share(one[key]) for value, one in row["distance"].items() for key in ("f1", "auroc")}}
        for row in result["table"]
    ]  # fmt: skip
    titles = {"width": "width", "size": "pixels", "accuracy": "accuracy", "auroc": "AUROC"}
    distances = {f"{key} {value}": f"{name}, {value}" for key, name in (("f1", "F1"), ("auroc", "AUROC"))
                 for value in ("near", "mid", "far")}  # fmt: skip
    table = markdown(grid, titles | distances)
    effect = markdown(
        [{"model": model, **{key: share(result["int8"][model][key]) for key in ("accuracy", "auroc", "f1")}}
         for model in ("float", "quantised")],
        {"model": "", "accuracy": "accuracy", "auroc": "AUROC", "f1": "F1"},
    )  # fmt: skip
    gate = markdown(
        [{"since": row["since"], "quick": f"{row['within_200_ms']} of {row['trials']}", "ci": _range(row["ci95"]),
          "median": row["median_ms"], "never": row["never"]} for row in result["entries"]["rows"]],
        {"since": "closed, since", "quick": "within 200 ms", "ci": "95%", "median": "median ms", "never": "never"},
    )  # fmt: skip
    suite_line = (
        f"accuracy {result['suite']['accuracy']:.3f} ({_range(result['suite']['accuracy_ci95'])}), AUROC "
        f"{result['suite']['auroc']:.3f} ({_range(result['suite']['auroc_ci95'])}), {result['suite']['images']} rooms"
    )
    empty = result["empty"]
    doubling = "; ".join(
        f"{distance}: width {gain['width']:+.1f}, pixels {gain['image_size']:+.1f}"
        for distance, gain in result["leverage"].items()
    )
    return "\n\n".join(
        [
            title, suite_line, suite, table, f"Points of AUROC per doubling: {doubling}.", effect, gate,
            f"Empty rooms: closed {empty['raises']} times in {empty['minutes']} minutes ({empty['closed_s']} s).",
            f"Cost: `{json.dumps(result['cost'])}`",
        ]
    )  # fmt: skip


def _range(interval: list[float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.3f}–{interval[1]:.3f}"


def main(settings: Settings) -> None:

    bench, machine = Bench(settings), Machine()
    wake = bench.detector("mcunet", 1.0, 128, settings.steps, 64)
    test = bench.rooms["test"]

    def cell(width: float, size: int) -> Wake:
        return bench.detector("mobilenet_v2", width, size, settings.grid_steps, 32)

    result: dict[str, Any] = {"machine": machine.describe(torch.get_num_threads()), "arguments": as_values(settings)}
    result["cost"] = bench.once("cost", lambda: costs(wake))
    result["suite"] = bench.once("suite", lambda: score(predict(wake, test.images), test.labels))
    result["table"] = bench.once("table", lambda: sweep(cell, WIDTHS, SIZES, test))
    result["leverage"] = {distance: leverage(result["table"], distance) for distance in ("near", "mid", "far")}
    result["int8"] = bench.once("int8", lambda: int8(bench, wake))
    result["entries"] = bench.once("entries", lambda: entries(bench, wake, result["cost"]["ms"]))
    result["empty"] = bench.once("empty", lambda: empty_rooms(bench, wake))
    result["gate"] = {"on": wake.on, "off": wake.off}
    keep("wake", result, text_of(result, machine.title(torch.get_num_threads())))
    print(json.dumps(result))


if __name__ == "__main__":
    start(main, Settings, __doc__)
