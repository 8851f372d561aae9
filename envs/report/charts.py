"""Charts of the page: matplotlib figures as SVG with the colours of the page."""

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from .figures import percent, task_rows

# Placeholder colours that `to_svg` replaces by the page's CSS variables, for light and dark mode.
INK, GREY, ACCENT, STRONG = "#202124", "#7f7f7e", "#3b82f5", "#1d4ed7"
_VARIABLES = {INK: "var(--ink)", GREY: "var(--muted)", ACCENT: "var(--accent)", STRONG: "var(--strong)"}
TASK_COLOURS = ("#f28e2b", "#2fa36b", "#b07aa1", "#d1605e", "#8c7a4f", "#2a9db5")
_LONGEST_NAME = 30
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar sign in a task's name is text
    "font.size": 9,
    "text.color": GREY,
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def success_bars(result: Mapping[str, Any]) -> Figure:
    """Bars of all tasks together and of each task, with the 95% interval as whiskers."""
    rows = task_rows(result)
    rows = {name: rows[name] for name in [list(rows)[-1], *list(rows)[:-1]]}
    rates = np.array([figures["success_rate"] for figures in rows.values()])
    ci95 = np.array([figures["ci95"] for figures in rows.values()])
    # Rounding may put a rate of 0 or 1 slightly outside its interval, which matplotlib refuses.
    whiskers = np.abs(np.clip([rates - ci95[:, 0], ci95[:, 1] - rates], 0, None))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 0.7 + 0.27 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        places = range(len(rows))
        axes.barh(
            places,
            rates,
            height=0.62,
            color=ACCENT,
            xerr=whiskers,
            error_kw={"ecolor": INK, "elinewidth": 1.4, "capsize": 3},
        )
        axes.set_yticks(places, [_shorten(name) for name in rows])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.get_yticklabels()[0].set_fontweight("bold")
        axes.set(xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6))
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.grid(visible=False, axis="y")
        for place, figures in zip(places, rows.values(), strict=True):
            label = f"{percent(figures['success_rate'])} ({figures['successes']}/{figures['episodes']})"
            axes.text(1.03, place, label, transform=axes.get_yaxis_transform(), va="center", color=INK)
    return figure


def training_curves(records: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    """Charts of the records of metrics.jsonl by title; empty without records.

    A loss that is not finite leaves a gap, and the chart's title counts them.
    """
    with matplotlib.rc_context(STYLE):
        charts = {
            "Training loss": _loss(records),
            "Validation success": _validation(records),
            "Validation action error": _curve(records, "validation/action_error", "validation action error", "{x:g}"),
            "Validation score": _curve(records, "validation/score", "validation score", "{x:g}"),
            "Learning rate": _curve(records, "train/lr", "learning rate", "{x:g}"),
            "Speed": _curve(records, "train/samples_per_s", "samples/s", "{x:,g}"),
        }
        drawn = {name: figure for name, figure in charts.items() if figure}
        for figure in drawn.values():
            figure.axes[0].set_xlim(left=0)  # last, because it ends autoscaling
    return drawn


def joint_motion(
    names: Sequence[str], seconds: np.ndarray, position: np.ndarray, command: np.ndarray, steered: np.ndarray
) -> Figure:
    """Position and command of every joint over time, small multiples.

    Args:
        names: of the joints.
        seconds: (n,).
        position, command: (n, joints), in the arm's units.
        steered: (n,), true while a person steers.
    """
    columns = 3
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 1.5 * -(-len(names) // columns)), layout="constrained")
        for i, name in enumerate(names):
            axes = figure.add_subplot(-(-len(names) // columns), columns, i + 1)
            axes.plot(seconds, command[:, i], color=ACCENT, linewidth=1.2)
            axes.plot(seconds, position[:, i], color=STRONG, linewidth=1.2)
            low, high = axes.get_ylim()
            axes.fill_between(seconds, low, high, where=steered, color=GREY, alpha=0.2, linewidth=0)
            axes.set_ylim(low, high)
            axes.set_title(_shorten(name))
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.yaxis.set_major_locator(MaxNLocator(3))
    return figure


def to_svg(figure: Figure, label: str) -> str:
    """Figure as an inline SVG element, deterministic, with `label` for screen readers."""
    name = re.sub(r"\W+", "-", label.lower())[:40]
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # Several charts share a page: ids must differ between them.
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, variable)
    svg = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", svg)
    svg = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)


def _loss(records: Sequence[Mapping[str, Any]]) -> Figure | None:
    steps, values = _series(records, "train/loss")
    finite = np.isfinite(values) & (values > 0)
    figure, axes = _axes("loss (log scale)", "{x:g}")
    if not len(values):
        return None
    if finite.any():
        window = max(1, int(finite.sum()) // 30)
        axes.plot(steps, np.where(finite, values, np.nan), color=ACCENT, alpha=0.4, linewidth=0.9, label="records")
        smooth = _smooth(values[finite], window)
        axes.plot(steps[finite], smooth, color=STRONG, linewidth=1.8, label=f"mean of {window}")
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.legend()
    if bad := int((~finite).sum()):
        axes.set_title(f"loss (log scale; {bad} of {len(finite)} records not finite)")
    return figure


def _validation(records: Sequence[Mapping[str, Any]]) -> Figure | None:
    key = "validation/success_rate"
    steps, values = _series(records, key)
    if not len(values):
        return None
    figure, axes = _axes("validation success", "{x:.0%}")
    tasks = sorted({name for record in records for name in record if name.startswith(f"{key}/")})
    named = len(tasks) <= len(TASK_COLOURS)
    for i, task in enumerate(tasks):
        axes.plot(
            *_series(records, task),
            color=TASK_COLOURS[i] if named else GREY,
            linewidth=1.1,
            marker="o",
            markersize=2.5,
            alpha=0.9 if named else 0.3,
            label=_shorten(task.removeprefix(f"{key}/")) if named else "one line per task" if i == 0 else None,
        )
    axes.plot(steps, values, color=STRONG, linewidth=2.2, marker="o", markersize=3.5, label="all tasks")
    axes.set_ylim(-0.03, 1.03)
    if tasks:
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def _curve(records: Sequence[Mapping[str, Any]], key: str, title: str, ticks: str) -> Figure | None:
    steps, values = _series(records, key)
    if not np.isfinite(values).any():
        return None
    figure, axes = _axes(title, ticks)
    axes.plot(steps, np.where(np.isfinite(values), values, np.nan), color=STRONG, linewidth=1.4)
    axes.set_ylim(bottom=0)
    return figure


def _axes(title: str, ticks: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.6, 2.8), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_formatter(StrMethodFormatter(ticks))
    return figure, axes


def _series(records: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values (n,) of the records that have a key; null becomes NaN."""
    points = [(record["step"], record[key]) for record in records if key in record]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return np.array(steps, dtype=float), np.array(values, dtype=float)


def _smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centred moving average, over fewer values at the ends."""
    kernel = np.ones(window)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")


def _shorten(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
