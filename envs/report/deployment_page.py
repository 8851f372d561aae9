"""Page of a run on an arm: report.html from deploy.json and the recording, with a film and a plot per shown episode."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lerobot.datasets import LeRobotDataset

from policies.data import open_dataset
from tinyvla.backbones import resize
from tinyvla.errors import UserError
from tinyvla.intervals import wilson_interval
from tinyvla.training.run_folder import check_run_files, read_config
from tinyvla.untrusted import read_json_object

from ..rollout import VIDEO_HZ, write_video
from .charts import joint_motion, to_svg
from .page import data_url, template, versions, write_page

REPORT, RECORDING = "deploy.json", "recording"
_SPAN = 32  # images that are decoded together
_HEIGHT = 192  # pixels of an image of a film


class Film(NamedTuple):
    """An episode on the page. source: the video as a data URL. motion: the plot of its joints, an SVG."""

    caption: str
    outcome: str
    source: str
    motion: str


def write_deployment_report(run_dir: Path, videos: int) -> Path:
    """Write report.html into the folder of a deployment and return its path.

    Args:
        run_dir: with deploy.json, config.yaml and, if it was recorded, the recording.
        videos: number of episodes of each outcome (success, failure, not judged) to show as films.

    Raises UserError if there is no deploy.json, or the page cannot be written.
    """
    if not (run_dir / REPORT).exists():
        raise UserError(f"{run_dir} has no {REPORT} to report on; give the run_dir of deploy.py")
    check_run_files(run_dir)
    report = read_json_object(run_dir / REPORT)
    config = read_config(run_dir / "config.yaml")
    episodes = [dict(episode, number=number) for number, episode in enumerate(report["episodes"], 1)]
    judged = [episode for episode in episodes if episode["success"] is not None]
    successes = sum(bool(episode["success"]) for episode in judged)
    page = template("deployment_page.html.j2").render(
        title=f"{config.get('checkpoint', 'policy')} on {config.get('robot', {}).get('id', 'an arm')}",
        report=report,
        episodes=[episode | {"outcome": outcome_of(episode)} for episode in episodes],
        judged=len(judged),
        successes=successes,
        rate=successes / len(judged) if judged else None,
        ci95=wilson_interval(successes, len(judged)),
        films=list(_films(run_dir, episodes, videos)),
        result={},
        curves={},
        shift=None,
        command=config.get("command"),
        settings=(run_dir / "config.yaml").read_text(),
        versions=versions(),
    )
    return write_page(run_dir, page)


def outcome_of(episode: Mapping[str, Any]) -> str:
    """Outcome of an episode: success, failure or not judged."""
    return {True: "success", False: "failure", None: "not judged"}[episode["success"]]


def shown_episodes(episodes: Sequence[Mapping[str, Any]], videos: int) -> list[Mapping[str, Any]]:
    """The first `videos` episodes of each outcome, in their order."""
    counts: dict[str, int] = {}
    shown = []
    for episode in episodes:
        outcome = outcome_of(episode)
        counts[outcome] = counts.get(outcome, 0) + 1
        if counts[outcome] <= videos:
            shown.append(episode)
    return shown


def _films(run_dir: Path, episodes: Sequence[Mapping[str, Any]], videos: int) -> Iterator[Film]:
    """Films of the shown episodes; none without a recording that can be read."""
    if not videos or not (run_dir / RECORDING / "meta" / "info.json").exists():
        return
    dataset = open_dataset(run_dir / RECORDING)
    recorded = [episode for episode in episodes if episode["ticks"]]
    for index, episode in enumerate(recorded[: dataset.meta.total_episodes]):
        if episode in shown_episodes(recorded, videos):
            yield _film(run_dir, dataset, index, episode)


def _film(run_dir: Path, dataset: LeRobotDataset, index: int, episode: Mapping[str, Any]) -> Film:
    bounds = dataset.meta.episodes[index]
    rows = range(bounds["dataset_from_index"], bounds["dataset_to_index"])
    outcome = outcome_of(episode)
    file = run_dir / "videos" / f"episode-{episode['number']:03d}-{outcome.replace(' ', '-')}.mp4"
    every = max(1, round(dataset.fps / VIDEO_HZ))
    write_video(file, _images(dataset, rows, every), dataset.fps / every)
    columns = dataset.hf_dataset.select(rows).with_format("numpy")[:]
    names = dataset.meta.features["action"]["names"]
    motion = joint_motion(
        names, np.arange(len(rows)) / dataset.fps, columns["observation.state"], columns["action"],
        columns["intervention"].reshape(-1),
    )  # fmt: skip
    caption = f"episode {episode['number']}: {outcome}, {episode['seconds']:.1f} s ({episode['ended']})"
    return Film(caption, outcome, data_url(file.read_bytes(), "video/mp4"), to_svg(motion, f"joints, {caption}"))


def _images(dataset: LeRobotDataset, rows: range, every: int) -> Iterator[np.ndarray]:
    """Images of all cameras side by side, uint8 (H, W, 3), of every n-th row."""
    cameras = dataset.meta.camera_keys
    reader = open_dataset(dataset.root, {key: [i * every / dataset.fps for i in range(_SPAN)] for key in cameras})
    for start in rows[:: _SPAN * every]:
        item = reader[start]
        count = len(range(start, min(start + _SPAN * every, rows.stop), every))
        sides = {key: (_HEIGHT, 2 * round(_HEIGHT * item[key].shape[-1] / item[key].shape[-2] / 2)) for key in cameras}
        images = torch.cat([resize(item[key][:count], sides[key]) for key in cameras], dim=-1)
        yield from images.mul(255).round().byte().permute(0, 2, 3, 1).numpy()
