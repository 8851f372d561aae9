"""Stored attempts as one LeRobotDataset v3, assembled in parallel and moved into place when complete."""

import contextlib
import importlib.metadata
import json
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from tqdm import tqdm

from policies.data.whole_videos import HeldUpEncoder, whole_videos
from tinyvla.errors import UserError, one_line
from tinyvla.files import alone_in, clear_temporary_folders, sync, sync_folder
from tinyvla.untrusted import inside, read_json_object

from ..contract import Embodiment, EnvConfig
from ..launcher import LOCAL, LauncherConfig
from ..registry import embodiment_of
from ..workers import clear_disk_errors, count_workers, worker_pool
from .collect import TaskAttempts, collect, fingerprint, spec_of
from .episode import attempt_path, is_noisy, read_demo

PROVENANCE = Path("meta/collection.json")
_SHARD_EPISODES = 30
_LONGEST_EPISODE = 1000  # steps that may wait for the encoder; it drops further ones
# Lossless except for the rounding of colours (at most 2 of 255): lossy codecs blur the goal markers, which are two
# pixels wide. A tenth of the time and the disk space of PNGs. Frequent key frames allow random access.
_VIDEO = {"vcodec": "h264", "pix_fmt": "yuv444p", "crf": 0, "preset": "ultrafast", "g": 5}


class DamagedAttempt(Exception):
    """A stored attempt cannot be read; its file was removed."""


def ensure_dataset(
    env_cfg: EnvConfig,
    tasks: list[str],
    episodes: int,
    seed: int,
    data_dir: Path,
    workers: int | str | None = "auto",
    launcher: LauncherConfig = LOCAL,
) -> Path:
    """Folder of a LeRobotDataset with `episodes` demonstrations per task, in the order of `tasks`.

    An existing dataset is reused, and so are stored attempts of datasets with the same cameras, noise and seed. A
    killed run continues where it stopped, and its dataset has the same frames, byte for byte.

    Raises UserError if the disk is full, the expert fails too often, or the existing dataset is damaged.
    """
    if episodes < 1:
        raise UserError(f"episodes is {episodes}; collect at least 1 per task")
    count_workers(workers, launcher)
    spec = spec_of(env_cfg, seed)
    name = f"{env_cfg.name}-{len(tasks)}tasks-{episodes}ep-{fingerprint([spec, tasks, episodes])}"
    root = data_dir / name
    if root.exists():
        check_dataset(root)
        return root
    with clear_disk_errors(), alone_in(data_dir):
        clear_temporary_folders(data_dir)
        while not root.exists():
            attempts = collect(env_cfg, tasks, episodes, seed, data_dir, workers, launcher)
            try:
                _assemble(root, spec, attempts, workers if launcher.name == "local" else "auto")
            except DamagedAttempt as damage:
                tqdm.write(f"{damage}; collecting it again")
    return root


def check_dataset(root: Path) -> None:
    """Raise UserError unless a dataset of `ensure_dataset` has all its files in their full size."""
    try:
        provenance = read_json_object(root / PROVENANCE)
        files = provenance["files"]
        if any(type(task["failures_discarded"]) is not int for task in provenance["tasks"].values()):
            raise ValueError("its numbers of failures are not numbers")
        damaged = [name for name, size in files.items() if inside(root, name).stat().st_size != size]
        if damaged:
            raise ValueError(f"{damaged[0]} has another size than was written")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        reason = one_line(error)
        raise UserError(
            f"the dataset {root} is damaged ({reason}); delete that folder and run the same command again "
            "(stored attempts are reused, so this is quick)"
        ) from error


def _features(robot: Embodiment, cameras: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    size = next(iter(cameras.values())).shape[1]
    image = {"dtype": "video", "shape": (size, size, 3), "names": ["height", "width", "channels"]}
    return {f"observation.images.{camera}": image for camera in cameras} | {
        "observation.state": {"dtype": "float32", "shape": (len(robot.state_names),), "names": robot.state_names},
        "action": {"dtype": "float32", "shape": (len(robot.action_names),), "names": robot.action_names},
    }


def write_shard(root: Path, files: list[Path], robot: Embodiment) -> int:
    """Write stored attempts as a LeRobotDataset at `root`, one episode per file; returns the number of frames."""
    _silence_libraries()
    with _fast_writer(), whole_videos():
        try:
            return _write_episodes(root, files, robot)
        except HeldUpEncoder:
            shutil.rmtree(root)
            return _write_episodes(root, files, robot)


def _write_episodes(root: Path, files: list[Path], robot: Embodiment) -> int:
    from lerobot.configs.video import RGBEncoderConfig
    from lerobot.datasets import LeRobotDataset

    dataset: Any = None
    for file in files:
        try:
            demo = read_demo(file)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            file.unlink(missing_ok=True)
            raise DamagedAttempt(f"the stored attempt {file} was damaged") from error
        if dataset is None:
            dataset = LeRobotDataset.create(
                repo_id=f"local/{root.name}",
                fps=robot.fps,
                features=_features(robot, demo.images),
                root=root,
                robot_type=robot.robot_type,
                video_backend="pyav",
                rgb_encoder=RGBEncoderConfig(**_VIDEO),
                streaming_encoding=True,
                encoder_queue_maxsize=_LONGEST_EPISODE,
                encoder_threads=1,
            )
        for step in range(len(demo.action)):
            images = {f"observation.images.{camera}": frames[step] for camera, frames in demo.images.items()}
            values = {"observation.state": demo.state[step], "action": demo.action[step], "task": demo.instruction}
            dataset.add_frame(images | values)
        dataset.save_episode()
    dataset.finalize()
    return dataset.meta.total_frames


def _assemble(root: Path, spec: dict[str, Any], attempts: dict[str, TaskAttempts], workers: int | str | None) -> None:
    robot = embodiment_of(spec["name"])
    files = [attempt_path(task.folder, a, True) for task in attempts.values() for a in task.successes]
    temporary = root.with_name(f".{root.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    groups = [files[i : i + _SHARD_EPISODES] for i in range(0, len(files), _SHARD_EPISODES)]
    shards = [temporary / f"shard-{i:04d}" for i in range(len(groups))]
    temporary.mkdir(parents=True)
    try:
        with worker_pool(min(count_workers(workers), len(groups))) as pool:
            # Also for a single shard: LeRobot may write until its process ends, even after an error.
            jobs = pool.map(write_shard, shards, groups, [robot] * len(groups))
            for _ in tqdm(jobs, total=len(groups), desc="writing the dataset", unit="shard"):
                pass
        merged = _merge(shards, temporary / "merged")
        sizes = {str(path.relative_to(merged)): path.stat().st_size for path in merged.rglob("*") if path.is_file()}
        provenance = _provenance(spec, attempts) | {"files": sizes}
        (merged / PROVENANCE).write_text(json.dumps(provenance, indent=1, default=list))
        sync_folder(merged)
        merged.replace(root)
        sync(root.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _merge(shards: list[Path], merged: Path) -> Path:
    if len(shards) == 1:
        return shards[0]
    from lerobot.datasets.aggregate import aggregate_datasets

    _silence_libraries()
    names = [f"local/{shard.name}" for shard in shards]
    # A video file per shard and camera: packed into one, every shard would copy all earlier ones.
    aggregate_datasets(names, f"local/{merged.name}", roots=shards, aggr_root=merged, concatenate_videos=False)
    return merged


def _silence_libraries() -> None:
    """Silence progress bars per episode and messages of the codec; the bar over shards is enough."""
    import av
    import datasets

    datasets.disable_progress_bars()
    av.logging.set_libav_level(av.logging.ERROR)


@contextlib.contextmanager
def _fast_writer() -> Iterator[None]:
    """Speed up LeRobot's writer for small images that are stored as video.

    Statistics use one pixel of sixteen, as LeRobot itself does for large images, and histograms with a bin per value of
    a byte instead of 5,000. The search for images to embed in the table is skipped, since there are none.
    """
    from lerobot.datasets.compute_stats import RunningQuantileStats

    class Statistics(RunningQuantileStats):
        def update(self, batch: np.ndarray) -> None:
            if self._count == 0 and batch.dtype == np.uint8:
                self._num_quantile_bins = 256
            super().update(batch)

    with (
        patch("lerobot.datasets.compute_stats.RunningQuantileStats", Statistics),
        patch("lerobot.datasets.compute_stats.auto_downsample_height_width", lambda image: image[:, ::4, ::4]),
        patch("lerobot.datasets.dataset_writer.embed_images", lambda table: table),
    ):
        yield


def _provenance(spec: dict[str, Any], attempts: dict[str, TaskAttempts]) -> dict[str, Any]:
    episodes = [
        {"task": name, "attempt": attempt, "noisy": is_noisy(attempt, spec["noise"]["share"])}
        for name, task in attempts.items()
        for attempt in task.successes
    ]
    package = embodiment_of(spec["name"]).package
    return {
        "spec": spec,
        "labels": "the expert's action, clipped; noise is applied to the arm and never recorded",
        "tasks": {
            name: {"episodes": len(task.successes), "failures_discarded": len(task.failures)}
            for name, task in attempts.items()
        },
        "versions": {name: importlib.metadata.version(name) for name in ("lerobot", package, "mujoco")},
        "episodes": episodes,
    }
