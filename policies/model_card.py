"""Model card of a checkpoint (README.md): its training data and settings, how to run it, and its success rates."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyvla.files import write_whole

if TYPE_CHECKING:
    from lerobot.datasets import LeRobotDatasetMetadata
    from lerobot.policies import PreTrainedPolicy

    from .training.settings import RunSettings

CARD = "README.md"
_HEAD = """| environment | tasks | split, seed | shift | successes | success rate | 95% interval |
|---|---|---|---|---|---|---|
"""
_CLOSED_LOOP = "## Evaluation\n"
_OFFLINE = "## Offline evaluation\n"
_OFFLINE_HEAD = f"""{_OFFLINE}
Mean absolute error of the actions that are executed of a chunk, beside recorded ones. It does not predict success.

| dataset | episodes | observations | error | baselines |
|---|---|---|---|---|
"""
_TEXT = """---
library_name: lerobot
pipeline_tag: robotics
tags: [robotics, lerobot, {type}]
---
# {type}: {dataset}

| | |
|---|---|
{rows}

## Run it

```bash
python evaluate.py checkpoint=<this folder> {judge}   # in a clone; tinyvla-evaluate where the package is installed
```

```python
from policies import load_policy

policy = load_policy("<this folder>")
policy.reset(seed=0)
action = policy.act(observation)  # keys: {keys}
```

## Evaluation

Closed loop, on seeds that training and validation do not use. Wilson 95% intervals.

{head}"""


def write_model_card(
    folder: Path,
    policy: "PreTrainedPolicy",
    dataset: "LeRobotDatasetMetadata",
    settings: "RunSettings",
    processes: int = 1,
) -> Path:
    """Write the card of a policy that `processes` trained on `dataset` with the settings of a run."""
    config, trainer, instructions = policy.config, settings.trainer, list(dataset.tasks.index)
    shown = "; ".join(instructions[:8]) + (f"; and {len(instructions) - 8} more" if len(instructions) > 8 else "")
    keys = [*config.image_features, "observation.state", "task"]
    values = {
        "parameters": f"{sum(parameter.numel() for parameter in policy.parameters()) / 1e6:.2f} M",
        "demonstrations": f"{dataset.total_episodes} episodes, {dataset.total_frames} frames, {dataset.fps} Hz",
        "instructions": shown,
        "training": f"{trainer.steps} steps, batches of {trainer.batch_size * processes}, seed {settings.seed}",
    }
    if settings.dataset.is_given:
        values["held out"] = _describe_held_out(settings.held_out)
    if settings.init_from:
        values["initial weights"] = f"`{settings.init_from}`, where they fit"
    if settings.command:
        values["command"] = f"`{settings.command}`"
    rows = "\n".join(f"| {name} | {str(value).replace('|', chr(92) + '|')} |" for name, value in values.items())
    judge = "dataset.root=<the recordings>" if settings.held_out else "episodes=20"
    name, inputs = dataset.repo_id, ", ".join(keys)
    text = _TEXT.format(type=config.type, dataset=name, rows=rows, judge=judge, keys=inputs, head=_HEAD)
    return write_whole(folder / CARD, text)


def add_evaluation(checkpoint: Path, environment: str, result: Mapping[str, Any]) -> None:
    """Add the figures of an evaluation (the content of eval.json) to a checkpoint's card, in place of older ones.

    Nothing happens for a checkpoint without a card or on a disk that cannot be written.
    """
    low, high = (f"{100 * bound:.1f}" for bound in result["ci95"])
    shift = f"{', '.join(result['shift']['names'])} {result['shift']['severity']}" if result.get("shift") else "none"
    setting = f"| {environment} | {', '.join(result['tasks'])} | {result['split']}, {result['seed']} | {shift} | "
    row = setting + f"{result['successes']}/{result['episodes']} | {result['success_rate']:.1%} | {low}–{high}% |\n"
    with contextlib.suppress(OSError):
        text = (checkpoint / CARD).read_text()
        if _HEAD in text:
            lines = [line for line in text.splitlines(keepends=True) if not line.startswith(setting)]
            write_whole(checkpoint / CARD, "".join(lines) + row)


def _describe_held_out(episodes: Sequence[int]) -> str:
    if not episodes:
        return "nothing: all episodes were trained on"
    numbers = ", ".join(map(str, episodes))
    return (
        f"episode{'s' * (len(episodes) > 1)} {numbers}: never trained on; the error on them selects the best checkpoint"
    )


def add_offline_evaluation(checkpoint: Path, result: Mapping[str, Any]) -> None:
    """Add the error of an offline evaluation to a checkpoint's card, in place of an older one of the same dataset.

    Nothing happens for a checkpoint without a card or on a disk that cannot be written.
    """
    of = {None: "not known to be held out", True: "trained on", False: "held out"}[result["trained_on"]]
    errors = {name: figures["mean"]["executed"] for name, figures in result["errors"].items() if name != "policy"}
    baselines = ", ".join(f"{name} {error:.2f}" for name, error in errors.items())
    place = f"| {Path(result['dataset']).name} | "
    row = f"{place}{len(result['episodes'])} ({of}) | {result['observations']} | {result['action_error']:.2f} | "
    row += f"{baselines} |\n"
    with contextlib.suppress(OSError):
        text = (checkpoint / CARD).read_text()
        if _CLOSED_LOOP not in text:
            return
        if _OFFLINE not in text:
            text = text.replace(_CLOSED_LOOP, f"{_OFFLINE_HEAD}\n{_CLOSED_LOOP}")
        text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith(place))
        write_whole(checkpoint / CARD, text.replace(_OFFLINE_HEAD, _OFFLINE_HEAD + row))


def write_frontend_card(folder: Path, run: Mapping[str, Any], result: Mapping[str, Any]) -> Path:
    """Write the card of a front-end: `run` holds the settings of config.yaml, `result` the content of eval.json."""
    name, scenes, trainer = result["task"], run["task"].get("scenes"), run["trainer"]
    data = f"{scenes['train']} generated images ({scenes['kind']})" if scenes else "see the settings of the run"
    lines = ["---", f"tags: [robotics, tinyvla, {name}]", "---", f"# {name}", ""]
    lines += ["| | |", "|---|---|", f"| data | {data} |"]
    lines += [f"| training | {trainer['steps']} steps, batches of {trainer['batch_size']}, seed {run['seed']} |"]
    lines += [f"| command | `{run['command']}` |"] if run.get("command") else []
    lines += ["", "## Run it", "", "```bash"]
    if name in ("cct", "tinyvit"):
        lines += [f"python train.py policy=tinyvla backbone=nano backbone.vision={run['task']['model']} \\"]
        lines += ["    backbone.vision_pretrained=<this folder>"]
    else:
        lines += [f"python perceive.py frontend={name} frontend.{name}.checkpoint=<this folder> source=photo.png"]
    lines += ["```", "", "## Test", "", "| figure | value | n | 95% interval |", "|---|---|---|---|"]
    for figure, values in result["figures"].items():
        interval = "–".join(f"{bound:.3f}" for bound in values.get("ci95") or [])
        lines.append(f"| {figure} | {values['value']:.3f} | {values.get('n', '')} | {interval} |")
    return write_whole(folder / CARD, "\n".join(lines) + "\n")
