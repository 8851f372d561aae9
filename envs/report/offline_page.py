"""Report of an offline evaluation: page and table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from policies.offline_evaluation.errors import ALL_JOINTS, TIMES
from policies.offline_evaluation.evaluation import POLICY, TRAJECTORIES
from tinyvla.untrusted import inside, read_json

from .charts import ACCENT, INK, STRONG, STYLE, TASK_COLOURS, to_svg
from .page import read_run, template, write_page
from .text import align

_WORTHLESS_IMAGES = 1.05  # error with other images, over that with the right ones, below which images hardly matter
_OVERFITTED = 2.0  # error on held-out episodes, over that on those that were trained on


def write_offline_report(run_dir: Path) -> Path:
    """Write report.html into a run folder and return its path.

    It shows eval.json, trajectories.json and, where they exist, config.yaml and metrics.jsonl.

    Raises UserError if the run has no eval.json.
    """
    run = read_run(run_dir)
    result = run.result
    trajectories = read_json(inside(run_dir, TRAJECTORIES))
    page = template("offline_page.html.j2").render(
        title=_title(result, run.config),
        result=result,
        episodes=describe_episodes(result),
        header=_header(result),
        rows=_joint_rows(result),
        compared=_compared_rows(result),
        findings=findings(result),
        by_step=to_svg(error_by_time(result), "Mean error by the time ahead, policy and baselines"),
        trajectories={
            f"episode {drawn['episode']}": to_svg(trajectory(drawn, result), f"episode {drawn['episode']}, every joint")
            for drawn in trajectories
        },
        shift=None,
        **run.common(),
    )
    return write_page(run_dir, page)


def describe_offline(result: Mapping[str, Any]) -> str:
    """Plain-text tables of the result of `evaluate_offline`, and what they show."""
    joints = align([["error", *_header(result)], *_joint_rows(result)])
    compared = align([["mean of all joints", *_header(result)], *_compared_rows(result)])
    origin = [f"dataset: {result['dataset']}, {describe_episodes(result)}"]
    origin += [f"{key}: {result[key]}" for key in ("checkpoint", "machine") if key in result]
    return "\n\n".join("\n".join(lines) for lines in (joints, compared, findings(result), origin))


def describe_episodes(result: Mapping[str, Any]) -> str:
    """The compared episodes, such as `held-out episodes 3, 14 (never trained on), 120 observations`."""
    numbers = result["episodes"]
    listed = ", ".join(map(str, numbers)) if len(numbers) <= 12 else f"{numbers[0]} to {numbers[-1]} ({len(numbers)})"
    kind, note = {
        False: ("held-out episodes", "never trained on"),
        True: ("episodes", "trained on, since none is held out"),
        None: ("episodes", "the checkpoint does not say whether it was trained on them"),
    }[result["trained_on"]]
    return f"{kind} {listed} ({note}), {result['observations']} observations"


def findings(result: Mapping[str, Any]) -> list[str]:
    """Sentences on what the errors show: baselines, memory, images. They do not predict success."""
    error, errors = result["action_error"], result["errors"]
    sentences = []
    baselines = {name: figures[ALL_JOINTS]["executed"] for name, figures in errors.items() if name != POLICY}
    if better := [f"{name} ({value:.2f})" for name, value in baselines.items() if value <= error]:
        sentences.append(
            f"The policy ({error:.2f}) is not better than {', '.join(better)}: train longer, check units and cameras."
        )
    elif baselines:
        name = min(baselines, key=lambda name: baselines[name])
        sentences.append(
            f"The policy ({error:.2f}) is better than every baseline; the best is {name} ({baselines[name]:.2f})."
        )
    if (trained := result["trained_error"]) is not None:
        text = f"On episodes that it was trained on its error is {trained:.2f}, on held-out ones {error:.2f}"
        is_memory = error > _OVERFITTED * trained
        sentences.append(
            f"{text}: it has memorised them; record more, and more different, episodes." if is_memory else f"{text}."
        )
    right, other = result["image_test"]["own_images"], result["image_test"]["another_moment"]
    text = f"With the images of another moment its error is {other:.2f} instead of {right:.2f}"
    is_blind = other < _WORTHLESS_IMAGES * right
    sentences.append(f"{text}: it hardly uses the images." if is_blind else f"{text}: it uses the images.")
    return sentences


def error_by_time(result: Mapping[str, Any]) -> Figure:
    """Mean error of policy and baselines at every step of a chunk, by seconds ahead."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 3), layout="constrained")
        axes = figure.add_subplot()
        for index, (name, errors) in enumerate(result["by_step"].items()):
            values = np.array(errors, dtype=float)
            colour = STRONG if name == POLICY else TASK_COLOURS[index % len(TASK_COLOURS)]
            axes.plot(np.arange(len(values)) / result["fps"], values, color=colour, linewidth=1.8, label=name)
        executed = (result["n_action_steps"] - 0.5) / result["fps"]
        axes.axvline(executed, color=INK, linewidth=0.8, linestyle=":", label="end of the executed part")
        axes.set(ylim=(0, None), xlim=(0, None), xlabel="seconds ahead", title="mean error of all joints")
        figure.legend(loc="outside right upper")
    return figure


def trajectory(drawn: Mapping[str, Any], result: Mapping[str, Any]) -> Figure:
    """Recorded action of every joint, and the executed part of the chunks that were predicted along it."""
    recorded = np.array(drawn["recorded"], dtype=float)
    joints, fps = result["joints"], result["fps"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 0.5 + 1.3 * len(joints)), layout="constrained")
        grid = figure.subplots(len(joints), sharex=True, squeeze=False)[:, 0]
        for index, (axes, joint, unit) in enumerate(zip(grid, joints, result["units"], strict=True)):
            axes.plot(np.arange(len(recorded)) / fps, recorded[:, index], color=INK, linewidth=1.2, label="recorded")
            for number, chunk in enumerate(drawn["predicted"]):
                actions = np.array(chunk["actions"], dtype=float)
                times = (chunk["from"] + np.arange(len(actions))) / fps
                label = "predicted" if number == 0 else None
                axes.plot(times, actions[:, index], color=ACCENT, linewidth=2, label=label)
            axes.set_title(f"{joint} ({unit})" if unit else joint)
        grid[0].legend(loc="upper right", ncols=2)
        grid[-1].set_xlabel("seconds")
    return figure


def _title(result: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    policy = (config.get("policy") or {}).get("type") or "Policy"
    return f"{policy} beside the recordings {Path(result['dataset']).name}"


def _header(result: Mapping[str, Any]) -> list[str]:
    return ["executed", "95% below", *(f"{seconds:g} s ahead" for seconds in TIMES)]


def _joint_rows(result: Mapping[str, Any]) -> list[list[str]]:
    units = dict(zip(result["joints"], result["units"], strict=True))
    return [
        [f"{name} ({units[name]})" if units.get(name) else name, *_cells(figures)]
        for name, figures in result["errors"][POLICY].items()
    ]


def _compared_rows(result: Mapping[str, Any]) -> list[list[str]]:
    return [[name, *_cells(figures[ALL_JOINTS])] for name, figures in result["errors"].items()]


def _cells(figures: Mapping[str, Any]) -> list[str]:
    values: Sequence[Any] = [figures["executed"], figures["p95"], *(figures[f"{seconds:g}"] for seconds in TIMES)]
    return ["-" if value is None else f"{value:.2f}" for value in values]
