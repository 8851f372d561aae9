"""Page of a generalisation test: success of policies under shifts as a heat map, and example frames of the shifts."""

import io
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from envs.report.charts import STYLE, to_svg
from envs.report.figures import interval
from envs.report.page import data_url, template
from envs.shifts import AXES
from tinyvla.files import write_whole

Cells = Mapping[str, Mapping[tuple[str, int], Mapping[str, Any]]]  # by policy, then by axis and severity
Frames = Mapping[tuple[str, int], Any]  # values: `envs.shifts.examples.Example`
UNSHIFTED = ("none", 0)
_PAPER = "#ffffff"


def columns_of(cells: Cells) -> list[tuple[str, int]]:
    """Columns of all policies: without a shift first, then in the order of AXES."""
    columns = {column for row in cells.values() for column in row}
    return sorted(columns, key=lambda column: (["none", *AXES].index(column[0]), column[1]))


def heat_map(cells: Cells) -> Figure:
    """Figure with a row per policy and a column per severity of each axis; cells are success rates in percent."""
    columns = columns_of(cells)
    rates = np.full((len(cells), len(columns)), np.nan)
    for row, figures in enumerate(cells.values()):
        for column, name in enumerate(columns):
            if name in figures:
                rates[row, column] = figures[name]["success_rate"]
    axes_names = list(dict.fromkeys(axis for axis, _ in columns))
    # A gap before every axis.
    places = [column + 0.35 * axes_names.index(axis) for column, (axis, _) in enumerate(columns)]
    with matplotlib.rc_context(STYLE):
        # Room for the name of an axis with only one severity.
        pitch = 0.34 if len(columns) >= 2 * len(axes_names) - 1 else 0.55
        figure = Figure(figsize=(1.6 + pitch * places[-1] + 0.6, 1.5 + 0.42 * len(cells)), layout="constrained")
        axes = figure.add_subplot()
        colours = matplotlib.colormaps["RdYlBu"]
        for row, column in np.ndindex(rates.shape):
            rate = rates[row, column]
            face = "none" if np.isnan(rate) else colours(0.08 + 0.84 * rate)
            axes.bar(places[column], 0.94, 0.94, row - 0.47, color=face, edgecolor="none")
            label = "·" if np.isnan(rate) else f"{100 * rate:.0f}"
            axes.text(places[column], row, label, ha="center", va="center", fontsize=8, color="#000000")
        axes.set_xticks(places, [str(severity) if severity else "–" for _, severity in columns])
        for axis in axes_names:
            axis_places = [place for place, (name, _) in zip(places, columns, strict=True) if name == axis]
            title = axis.replace("_", "\n") if axis != "none" else "no\nshift"
            axes.text(float(np.mean(axis_places)), -0.62, title, ha="center", va="bottom", fontsize=8)
        axes.set_yticks(range(len(cells)), list(cells))
        axes.set(
            xlim=(-0.6, places[-1] + 0.6),
            ylim=(len(cells) - 0.4, -0.6),
            xlabel=f"severity (cells: success in percent, n = {_count(cells)})",
        )
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
    return figure


def frames_figure(frames: Frames) -> Figure:
    """Figure of example frames: a row per axis, the unshifted frame first, then a column per severity."""
    axes_names = [axis for axis in AXES if any(name == axis for name, _ in frames)]
    severities = sorted({severity for _, severity in frames} - {0})
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.3 * (1 + len(severities)), 2.6 * len(axes_names)), layout="constrained")
        grid = figure.subplots(len(axes_names), 1 + len(severities), squeeze=False)
        for row, axis in zip(grid, axes_names, strict=True):
            for cell, column in zip(row, [UNSHIFTED, *((axis, severity) for severity in severities)], strict=True):
                cell.imshow(frames[column].image)
                cell.set_axis_off()
                title = "no shift" if column == UNSHIFTED else f"{axis} {column[1]}"
                if axis == "instruction":
                    title += "\n" + textwrap.fill(frames[column].instruction, 34)
                cell.set_title(title, fontsize=8)
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG on white."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150, facecolor=_PAPER)
    write_whole(path, image.getvalue())


def markdown(cells: Cells) -> str:
    """Figures as a Markdown table with a row per axis and severity and a column per policy."""
    lines = [["shift", "severity", *cells], ["---"] * (2 + len(cells))]
    for axis, severity in columns_of(cells):
        row = [_cell_text(cells[policy].get((axis, severity))) for policy in cells]
        lines.append([axis, str(severity) if severity else "", *row])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell_text(figures: Mapping[str, Any] | None) -> str:
    if figures is None:
        return "·"
    return f"{figures['successes']}/{figures['episodes']} ({interval(figures['ci95'])})"


def caption(cells: Cells) -> str:
    """Caption of the heat map, with its number of episodes."""
    return (
        "Success in percent by policy and shift, severities 1 to 3 of every axis; "
        f"n = {_count(cells)} episodes per cell, the same unseen seeds in all of them."
    )


def _count(cells: Cells) -> str:
    return " or ".join(map(str, sorted({figures["episodes"] for row in cells.values() for figures in row.values()})))


def write_heat_map(
    folder: Path, cells: Cells, frames: Frames, facts: Mapping[str, Any], task: str, command: str
) -> list[Path]:
    """Write heat_map.html, self-contained, heat_map.png and frames.png to a folder; returns their paths.

    facts: origin of the figures, by name. task: the task of the example frames.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figure = heat_map(cells)
    html = template("heat_map.html.j2", Path(__file__).parent).render(
        caption=caption(cells),
        chart=to_svg(figure, "success by policy and shift"),
        inches=round(figure.get_figwidth(), 2),
        policies=list(cells),
        columns=columns_of(cells),
        cells=cells,
        axes={axis: text for axis, text in AXES.items() if any(name == axis for name, _ in frames)},
        severities=sorted({severity for _, severity in frames} - {0}),
        frames={column: (_png_url(example.image), example.instruction) for column, example in frames.items()},
        unshifted=UNSHIFTED,
        task=task,
        facts=facts,
        command=command,
    )
    page = write_whole(folder / "heat_map.html", html)
    save_png(figure, folder / "heat_map.png")
    save_png(frames_figure(frames), folder / "frames.png")
    return [page, folder / "heat_map.png", folder / "frames.png"]


def _png_url(image: np.ndarray) -> str:
    return data_url(iio.imwrite("<bytes>", image, extension=".png"), "image/png")
