"""Demonstrations collected in parallel and stored as one file per attempt; finished attempts are not repeated."""

import hashlib
import json
import shutil
from concurrent.futures import Executor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tinyvla.errors import UserError
from tinyvla.files import write_whole

from ..contract import EnvConfig
from ..launcher import LOCAL, LauncherConfig
from ..seeds import EPISODES_PER_SEED
from ..workers import count_workers, worker_pool
from .episode import attempt_path, collect_attempt, write_attempt

STORE_VERSION = 2
_TRIAL = 20  # first attempts per task, of which a quarter has to succeed
_BYTES_PER_PIXEL = 3.0  # per frame on disk: the stored attempt, the dataset's video and a margin
_STEPS_PER_DEMO = 100


def spec_of(env_cfg: EnvConfig, seed: int) -> dict[str, Any]:
    """Settings that an attempt depends on besides its task and number. Their hash is part of the names of datasets.

    `linger`, `randomise` and a simulator's own settings are left out where they have no effect or their default.
    Raises UserError for a negative env.linger.
    """
    if env_cfg.linger < 0:
        raise UserError(f"env.linger is {env_cfg.linger}; a demonstration continues for 0 or more control steps")
    spec = {name: getattr(env_cfg, name) for name in ("name", "cameras", "image_size", "render", "max_steps")}
    spec["noise"] = asdict(env_cfg.noise)
    if env_cfg.linger:
        spec["linger"] = env_cfg.linger
    randomise = {"randomise": list(env_cfg.shift.names)} if env_cfg.shift else {}
    return spec | env_cfg.own_settings() | {"seed": seed, "version": STORE_VERSION} | randomise


def fingerprint(content: Any) -> str:
    """Hash of JSON-like content, eight hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=list).encode()).hexdigest()[:8]


def store_folder(env_cfg: EnvConfig, seed: int, data_dir: Path) -> Path:
    """Folder of the stored attempts of all tasks with the same settings."""
    return data_dir / "attempts" / f"{env_cfg.name}-{fingerprint(spec_of(env_cfg, seed))}"


class TaskAttempts:
    """Stored attempts of one task, in order: the successes are its demonstrations."""

    def __init__(self, task: str, folder: Path, episodes: int):
        self.task, self.folder, self.episodes = task, folder, episodes
        self.successes: list[int] = []
        self.failures: list[int] = []
        self.next = 0
        while len(self.successes) < episodes and (outcome := self._stored(self.next)) is not None:
            self.note(self.next, outcome)

    def _stored(self, attempt: int) -> bool | None:
        for success in (True, False):
            if attempt_path(self.folder, attempt, success).exists():
                return success
        return None

    def note(self, attempt: int, success: bool) -> None:
        (self.successes if success else self.failures).append(attempt)
        self.next = max(self.next, attempt + 1)

    def missing(self) -> list[int]:
        """Numbers of the next attempts: one per missing demonstration, so that the set does not depend on timing."""
        if len(self.successes) == self.episodes:
            return []
        # Only the first attempts count, so that a resumed run comes to the same decision.
        solved = sum(attempt < _TRIAL for attempt in self.successes)
        if self.next >= _TRIAL and solved < _TRIAL / 4:
            raise UserError(
                f"the scripted expert solved {self.task} in only {solved} of {_TRIAL} attempts; "
                "raise env.max_steps, lower env.noise.std, or leave the task out"
            )
        last = self.next + self.episodes - len(self.successes)
        if last > EPISODES_PER_SEED:
            raise UserError(f"{self.task} would need more than {EPISODES_PER_SEED} attempts; ask for fewer episodes")
        return list(range(self.next, last))


def collect(
    env_cfg: EnvConfig,
    tasks: list[str],
    episodes: int,
    seed: int,
    data_dir: Path,
    workers: int | str | None,
    launcher: LauncherConfig = LOCAL,
) -> dict[str, TaskAttempts]:
    """Play attempts until every task has `episodes` successful ones stored; returns them by task."""
    store = store_folder(env_cfg, seed, data_dir)
    attempts = {task: TaskAttempts(task, store / task, episodes) for task in tasks}
    total = sum(len(task.missing()) for task in attempts.values())
    if total == 0:
        return attempts
    with worker_pool(count_workers(workers, launcher), launcher) as pool:
        _check_disk(env_cfg, total, data_dir)
        write_whole(store / "spec.json", json.dumps(spec_of(env_cfg, seed), indent=2, default=list))
        with tqdm(total=total, desc="collecting", unit="episode") as bar:
            while any(task.missing() for task in attempts.values()):
                _play_round(pool, env_cfg, seed, attempts, bar)
    return attempts


def _play_round(pool: Executor, env_cfg: EnvConfig, seed: int, attempts: dict[str, TaskAttempts], bar: tqdm) -> None:
    futures, outcomes = {}, []
    for task in attempts.values():
        for attempt in task.missing():
            # Stored by an earlier run that stopped after later attempts had finished before this one.
            stored = task._stored(attempt)
            if stored is None:
                futures[pool.submit(collect_attempt, env_cfg, task.task, seed, attempt)] = (task, attempt)
            else:
                outcomes.append((task, attempt, stored))
    bar.update(sum(success for _, _, success in outcomes))
    for future in as_completed(futures):
        task, attempt = futures.pop(future)  # releases the future, which holds the frames
        content = future.result()
        write_attempt(task.folder, attempt, content)
        outcomes.append((task, attempt, content is not None))
        bar.update(content is not None)
        bar.set_postfix(failed=sum(len(task.failures) for task in attempts.values()) + sum(not o[2] for o in outcomes))
    for task, attempt, success in sorted(outcomes, key=lambda outcome: outcome[1]):
        task.note(attempt, success)


def _check_disk(env_cfg: EnvConfig, episodes: int, data_dir: Path) -> None:
    pixels = len(env_cfg.cameras) * env_cfg.image_size**2
    needed = episodes * _STEPS_PER_DEMO * pixels * _BYTES_PER_PIXEL
    data_dir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(data_dir).free
    if free < needed:
        raise UserError(
            f"collecting {episodes} episodes needs about {needed / 1e9:.1f} GB but {data_dir} has {free / 1e9:.1f} GB "
            "free; free some space, or point data_dir at another disk"
        )
