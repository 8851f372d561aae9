"""Page of a recording: report.html with its figures, faults, plots per number, and images of its episodes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import imageio.v3 as iio
import matplotlib
import numpy as np
from lerobot.utils.constants import ACTION, OBS_STATE
from matplotlib.figure import Figure
from PIL import Image

from policies.data import open_dataset
from policies.data.inspection import Finding, Weight
from policies.data.recording import Recording
from tinyvla.errors import UserError, one_line
from tinyvla.files import write_whole

from .charts import STYLE, to_svg
from .dataset_text import facts, instruction_counts, number_rows
from .page import data_url, template, versions

_MOST_EPISODES = 12  # with images
_MOST_LINES, _MOST_POINTS = 40, 120  # of a plot: episodes, and points per episode
_MOST_PLOTS = 32
_WIDTH = 160  # pixels of an image on the page
_STATE_COLOUR, _ACTION_COLOUR = "#3b82f5", "#f28e2b"


class EpisodeImages(NamedTuple):
    """First and last image of every camera in an episode, as data URLs by caption."""

    title: str
    images: dict[str, str]


def write_dataset_page(recording: Recording, findings: Sequence[Finding], run_dir: Path, command: str) -> Path:
    """Write report.html about a recording into a folder and return its path.

    Raises UserError if it cannot be written.
    """
    episodes, fault = _episode_images(recording)
    page = template("dataset_page.html.j2").render(
        name=recording.root.name,
        facts=facts(recording),
        findings=[(finding.weight.name.lower(), finding) for finding in findings],
        is_good=not any(finding.weight == Weight.ERROR for finding in findings),
        rows=number_rows(recording),
        instructions=instruction_counts(recording),
        plots=_plots(recording),
        lengths=to_svg(_lengths(recording), "Seconds of every episode"),
        episodes=episodes,
        image_fault=fault,
        curves={},
        command=command,
        result={},
        shift=None,
        settings="",
        versions=versions(),
    )
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        return write_whole(run_dir / "report.html", page)
    except OSError as error:
        raise UserError(
            f"the page cannot be written to {run_dir} ({one_line(error)}); choose another run_dir"
        ) from error


def _plots(recording: Recording) -> dict[str, str]:
    """SVG by number: its course in every episode, the state in one colour and the action in another."""
    keys = [key for key in (OBS_STATE, ACTION) if key in recording.columns] or list(recording.columns)[:2]
    names = list(dict.fromkeys(name for key in keys for name in recording.names(key)))[:_MOST_PLOTS]
    plots = {}
    for name in names:
        figure = _plot(
            recording, [(key, recording.names(key).index(name)) for key in keys if name in recording.names(key)]
        )
        plots[name] = to_svg(figure, f"{name} over time in every episode")
    return plots


def _plot(recording: Recording, numbers: Sequence[tuple[str, int]]) -> Figure:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 2.4), layout="constrained")
        axes = figure.add_subplot()
        chosen = np.unique(np.linspace(0, len(recording.lengths) - 1, _MOST_LINES).astype(int))
        for key, number in numbers:
            colour = _ACTION_COLOUR if key == ACTION else _STATE_COLOUR
            for place, episode in enumerate(chosen):
                values = recording.episode(recording.columns[key][:, number], episode)
                steps = np.unique(np.linspace(0, len(values) - 1, _MOST_POINTS).astype(int))
                label = None if place else key
                axes.plot(steps / recording.fps, values[steps], color=colour, alpha=0.45, linewidth=0.8, label=label)
        axes.set_title(recording.names(numbers[0][0])[numbers[0][1]])
        axes.set_xlabel("seconds")
        axes.legend()
    return figure


def _lengths(recording: Recording) -> Figure:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 2), layout="constrained")
        axes = figure.add_subplot()
        axes.bar(recording.numbers, recording.lengths / recording.fps, color=_STATE_COLOUR)
        axes.set(xlabel="episode", ylabel="seconds")
    return figure


def _episode_images(recording: Recording) -> tuple[list[EpisodeImages], str | None]:
    """Images of some episodes, and the reason for which there are none."""
    if not recording.cameras:
        return [], "no cameras"
    episodes = []
    chosen = np.unique(np.linspace(0, len(recording.lengths) - 1, _MOST_EPISODES).astype(int))
    try:
        dataset = open_dataset(recording.root)
        for episode in chosen:
            first = int(recording.starts[episode])
            last = first + int(recording.lengths[episode]) - 1
            moments = {"first": dataset[first], "last": dataset[last]}
            images = {
                f"{key.removeprefix('observation.images.')}, {moment} frame": _data_url(item[key])
                for key in recording.cameras
                for moment, item in moments.items()
            }
            text = recording.instructions[int(recording.indices["task_index"][first])]
            episodes.append(EpisodeImages(f"episode {recording.numbers[episode]}: {text}", images))
    # Damaged images and videos fail in as many ways as there are decoders; the rest of the page is still of use.
    except Exception as error:
        return episodes, one_line(error)
    return episodes, None


def _data_url(image: Any) -> str:
    """Image as a small JPEG; image: float tensor (3, H, W) in [0, 1]."""
    array = (image.clamp(0, 1) * 255).byte().numpy()
    array = np.broadcast_to(array, (3, *array.shape[1:])).transpose(1, 2, 0)
    small = Image.fromarray(np.ascontiguousarray(array))
    small.thumbnail((_WIDTH, _WIDTH))
    return data_url(iio.imwrite("<bytes>", np.asarray(small), extension=".jpg"), "image/jpeg")
