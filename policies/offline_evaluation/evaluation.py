"""Comparison of a policy's action chunks with recorded ones, where there is no simulator of the recorded scene.

A policy that predicts well what a person did next has the right units, cameras and joints, and has not only memorised
its training episodes. Success is another matter: see `docs/usage.md`.
"""

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE

from tinyvla.errors import UserError, one_line
from tinyvla.files import check_writable, write_whole
from tinyvla.machine import count_cores

from ..asynchronous import AsynchronousRunner
from ..checkpoints import find_checkpoint
from ..data import open_dataset
from ..loading import load_policy
from ..model_card import add_offline_evaluation
from .baselines import baseline_chunks
from .demonstrations import Demonstrations
from .errors import ALL_JOINTS, executed_error, mean_error, summarise_errors, units_of
from .held_out import read_held_out

OFFLINE = "offline"  # kind of the result
MEASURE = "action_error"  # which selects a run's best checkpoint; lower is better
POLICY = "policy"
TRAJECTORIES = "trajectories.json"
_DRAWN_EPISODES = 3
_IMAGE_TEST, _VALIDATION_OBSERVATIONS = 64, 64


@dataclass(frozen=True)
class OfflineOptions:
    """Options of an offline evaluation.

    Args:
        observations: from which the policy predicts, at most; evenly over all frames of the episodes.
        device: of the policy; "auto": the fastest one.
        runner: how the policy is run: keyword arguments of `policies.load_policy`.
        calibration: of the arm, for recordings in -100 to 100; see `DatasetConfig`.
    """

    observations: int = 256
    device: str = "auto"
    runner: Mapping[str, Any] = field(default_factory=dict)
    calibration: Path | None = None


def evaluate_offline(
    checkpoint: Path | str, dataset_root: Path, options: OfflineOptions | None = None, run_dir: Path | None = None
) -> dict[str, Any]:
    """Compare a policy with the recorded actions of a dataset.

    With a dataset that the policy was trained on, its held-out episodes are compared, all where none is held out. With
    another one, or a checkpoint that does not say on which it was trained, all episodes are.

    Args:
        checkpoint: a run folder (its best checkpoint) or a folder with config.json and weights.
        dataset_root: folder of a LeRobotDataset with the policy's cameras and joints.
        run_dir: folder for eval.json and the trajectories of `envs.report`; None: nothing is written.

    Returns the content of eval.json:

    - `kind`, "offline"; `checkpoint`, `machine`, `dataset` (its folder), `fps`;
    - `episodes` compared, and `trained_on`: False for held-out ones, True, or None where that is not known;
    - `observations`: number of them; `n_action_steps` and `chunk_size` of the policy; `joints` and their `units`;
    - `action_error`: mean absolute error of the executed part of the chunks, the mean of all joints;
    - `errors`: of the policy and the baselines, see `summarise_errors`; `by_step`: their mean at every step of a chunk;
    - `by_episode`: `action_error` of every episode;
    - `trained_error`: `action_error` on episodes that were trained on; None where none is known;
    - `image_test`: `action_error` of some observations with their `own_images` and with the images of `another_moment`.

    Raises UserError if the policy does not fit the dataset.
    """
    options, checkpoint = options or OfflineOptions(), find_checkpoint(checkpoint)
    if run_dir:
        check_writable(run_dir)
    demonstrations = Demonstrations(open_dataset(dataset_root), options.calibration)
    meta = demonstrations.dataset.meta
    held_out = read_held_out(checkpoint, meta)
    every = list(range(meta.total_episodes))
    episodes = held_out or every
    trained = [] if held_out is None else [episode for episode in every if episode not in held_out]
    comparison = Comparison(_load(checkpoint, options), demonstrations, options.observations)
    result = {
        "kind": OFFLINE,
        **comparison.figures(episodes, trained),
        "trained_on": None if held_out is None else not held_out,
        "dataset": str(dataset_root),
        "checkpoint": str(checkpoint),
        "machine": f"{platform.processor() or platform.machine()}, {count_cores()} cores",
    }
    if run_dir:
        try:
            write_whole(run_dir / TRAJECTORIES, json.dumps(comparison.trajectories(episodes)))
            write_whole(run_dir / "eval.json", json.dumps(result, indent=1))
        except OSError as error:
            raise UserError(
                f"this result could not be written to {run_dir} ({one_line(error.strerror or error)}); make room, "
                "then run the same command again"
            ) from error
        add_offline_evaluation(checkpoint, result)
    return result


def offline_validator(
    dataset_root: Path, held_out: Sequence[int], options: OfflineOptions
) -> Callable[[Path], dict[str, float]] | None:
    """Function that scores a checkpoint by its error on held-out episodes, for the training loop; None without any."""
    if not held_out:
        return None
    demonstrations = Demonstrations(open_dataset(dataset_root), options.calibration)

    def validate(checkpoint: Path) -> dict[str, float]:
        comparison = Comparison(_load(checkpoint, options), demonstrations, _VALIDATION_OBSERVATIONS)
        return comparison.scores(held_out)

    return validate


def _load(checkpoint: Path, options: OfflineOptions) -> AsynchronousRunner:
    """Runner that predicts whole chunks."""
    chosen = {**options.runner, "asynchronous": True, "latency_steps": 0}
    runner = load_policy(checkpoint, None if options.device == "auto" else options.device, **chosen)
    assert isinstance(runner, AsynchronousRunner)
    return runner


class Comparison:
    """A policy beside recorded episodes.

    Raises UserError if the policy's cameras, state or action are not those of the dataset.
    """

    def __init__(self, runner: AsynchronousRunner, demonstrations: Demonstrations, observations: int):
        _check_fit(runner.policy.config, demonstrations)
        self._runner, self._demonstrations, self._limit = runner, demonstrations, observations
        config = runner.policy.config
        self._cameras = list(config.image_features)
        self._steps: int = runner.interval or config.action_chunk_size  # the latter is VQ-BeT's
        self._chunks: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}  # frames and their chunks, by episodes

    def scores(self, episodes: Sequence[int]) -> dict[str, float]:
        """Error of the executed part of the chunks, and that of every joint."""
        frames, chunks = self._predicted(episodes)
        errors = summarise_errors(chunks, self._recorded(frames, chunks), self._steps, self._fps, self._joints)
        joints = {f"{MEASURE}/{joint}": executed_error(errors[joint]) for joint in self._joints}
        return {MEASURE: executed_error(errors[ALL_JOINTS])} | joints

    def figures(self, episodes: Sequence[int], trained: Sequence[int]) -> dict[str, Any]:
        """Part of `evaluate_offline`'s result that depends on the episodes. trained: those that were trained on."""
        demonstrations = self._demonstrations
        frames, chunks = self._predicted(episodes)
        recorded, horizon = self._recorded(frames, chunks), chunks.shape[1]
        compared = {POLICY: chunks} | baseline_chunks(demonstrations, frames, horizon, trained)
        errors = {
            name: summarise_errors(predicted, recorded, self._steps, self._fps, self._joints)
            for name, predicted in compared.items()
        }
        owners = demonstrations.episode_of[frames]
        executed = chunks[:, : self._steps] - recorded[:, : self._steps]
        return {
            "fps": self._fps,
            "episodes": list(episodes),
            "observations": len(frames),
            "n_action_steps": self._steps,
            "chunk_size": horizon,
            "joints": self._joints,
            "units": units_of(self._joints, demonstrations.dataset.meta.robot_type),
            MEASURE: executed_error(errors[POLICY][ALL_JOINTS]),
            "errors": errors,
            "by_step": {name: _by_step(predicted, recorded) for name, predicted in compared.items()},
            "by_episode": {
                str(number): mean_error(executed[owners == number]) for number in dict.fromkeys(owners.tolist())
            },
            "trained_error": self._trained_error(episodes, trained),
            "image_test": self._image_test(frames, chunks, recorded),
        }

    def trajectories(self, episodes: Sequence[int]) -> list[dict[str, Any]]:
        """Recorded actions of some episodes, (T, A), and chunks that follow each other, (K, A) from a frame on."""
        frames, chunks = self._predicted(episodes)
        drawn = []
        for episode in episodes[:_DRAWN_EPISODES]:
            numbers = self._demonstrations.frames(episode)
            pieces, free_from = [], numbers[0]
            for frame, chunk in zip(frames, chunks, strict=True):
                if free_from <= frame <= numbers[-1]:
                    executed = chunk[: min(self._steps, numbers[-1] + 1 - frame)]
                    pieces.append({"from": int(frame - numbers[0]), "actions": _as_list(executed)})
                    free_from = frame + self._steps
            drawn.append(
                {
                    "episode": episode,
                    "recorded": _as_list(self._demonstrations.actions[numbers]),
                    "predicted": pieces,
                }
            )
        return drawn

    @property
    def _fps(self) -> float:
        return self._demonstrations.fps

    @property
    def _joints(self) -> list[str]:
        names = self._demonstrations.names[ACTION]
        size = self._demonstrations.actions.shape[1]
        if len(names) != size:
            return [f"action {i}" for i in range(size)]
        return [name.removesuffix(".pos") for name in names]

    def _recorded(self, frames: np.ndarray, chunks: np.ndarray) -> np.ndarray:
        return self._demonstrations.recorded_chunks(frames, chunks.shape[1])

    def _predicted(self, episodes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Frames (N,) of the episodes, and the policy's chunks (N, H, A) from them."""
        if (key := tuple(episodes)) not in self._chunks:
            frames = np.concatenate([self._demonstrations.frames(episode) for episode in episodes])
            frames = frames[:: -(-len(frames) // self._limit)]
            self._chunks[key] = frames, self._predict(frames)
        return self._chunks[key]

    def _predict(self, frames: np.ndarray, images_of: np.ndarray | None = None) -> np.ndarray:
        """Chunks (N, H, A) from N frames. images_of: frames whose images are shown instead of their own."""
        chunks = []
        for frame, shown in zip(frames, frames if images_of is None else images_of, strict=True):
            self._runner.reset(seed=int(frame))
            delays = range(self._runner.policy.config.n_obs_steps - 1, -1, -1)
            observations = [self._observation(frame, shown, delay) for delay in delays]
            chunks.append(self._runner.compute(0, observations, None, 0)[1])
        return np.stack(chunks)

    def _observation(self, frame: int, shown: int, delay: int) -> dict[str, Any]:
        """Observation `delay` frames before a frame, with the images of another one."""
        first = self._demonstrations.first
        observation = self._demonstrations.observation(max(frame - delay, first[frame]), self._cameras)
        if shown == frame:
            return observation
        other = self._demonstrations.observation(max(shown - delay, first[shown]), self._cameras)
        return observation | {camera: other[camera] for camera in self._cameras}

    def _trained_error(self, episodes: Sequence[int], trained: Sequence[int]) -> float | None:
        """Error on as many of the episodes that were trained on; None if there are none."""
        remaining = [episode for episode in trained if episode not in episodes]
        return self.scores(remaining[:: -(-len(remaining) // len(episodes))])[MEASURE] if remaining else None

    def _image_test(self, frames: np.ndarray, chunks: np.ndarray, recorded: np.ndarray) -> dict[str, Any]:
        subset = np.arange(len(frames))[:: -(-len(frames) // _IMAGE_TEST)]
        other = self._predict(frames[subset], np.roll(frames[subset], len(subset) // 2))
        shown = recorded[subset, : self._steps]
        return {
            "own_images": mean_error(chunks[subset, : self._steps] - shown),
            "another_moment": mean_error(other[:, : self._steps] - shown),
            "observations": len(subset),
        }


def _as_list(actions: np.ndarray) -> list[list[float]]:
    return actions.astype(float).round(3).tolist()


def _by_step(predicted: np.ndarray, recorded: np.ndarray) -> list[float | None]:
    """Mean error at every step of a chunk; None where no episode is that long."""
    return [mean_error(predicted[:, step] - recorded[:, step]) for step in range(predicted.shape[1])]


def _check_fit(config: Any, demonstrations: Demonstrations) -> None:
    """Raise UserError unless a dataset has the cameras, the state and the action of a policy."""
    meta = demonstrations.dataset.meta
    if missing := [key for key in config.image_features if key not in meta.camera_keys]:
        needs, has = (
            ", ".join(key.removeprefix(f"{OBS_IMAGES}.") for key in keys)
            for keys in (config.image_features, meta.camera_keys)
        )
        raise UserError(
            f"the policy needs the cameras {needs} and {meta.root} has {has or 'none'}, not "
            f"{missing[0].removeprefix(f'{OBS_IMAGES}.')}; give a dataset with the policy's cameras"
        )
    for key, feature in ((OBS_STATE, config.robot_state_feature), (ACTION, config.action_feature)):
        size = meta.features[key]["shape"][0]
        if feature is None or feature.shape[0] != size:
            has = f"{feature.shape[0]} numbers" if feature else "none"
            raise UserError(
                f"{key} of the policy has {has} and that of {meta.root} {size}; give a dataset of its robot"
            )
