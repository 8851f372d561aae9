"""episodes.jsonl: the finished episodes of an evaluation, which goes on with them after a stop or a kill."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinyvla.errors import UserError, one_line
from tinyvla.files import write_whole
from tinyvla.untrusted import check_regular, inside

from .eval_results import Job
from .rollout import Rollout

JOURNAL = "episodes.jsonl"
MAX_JOURNAL_BYTES = 256 << 20  # an episode takes some 4 kB


class EpisodeJournal:
    """Finished episodes of one evaluation in a run folder, a line each; nothing is written before the first.

    Args:
        run_dir: folder of the journal.
        evaluation: hash of all that the episodes depend on.

    Attributes:
        results: rollouts of the finished episodes. Their times are rounded to 0.1 µs.

    Raises UserError if the folder has the journal of another evaluation, or a damaged one.
    """

    def __init__(self, run_dir: Path, evaluation: str):
        self.file, self._evaluation = run_dir / JOURNAL, evaluation
        self.results: dict[Job, Rollout] = {}
        if self.file.exists():
            self._read()

    def add(self, job: Job, rollout: Rollout) -> None:
        """Append an episode."""
        if not self.results:
            write_whole(self.file, _line({"evaluation": self._evaluation}))
        with self.file.open("a") as file:
            file.write(_line({"job": job, **_plain(rollout)}))
        self.results[job] = rollout

    def _read(self) -> None:
        check_regular(inside(self.file.parent, self.file.name), MAX_JOURNAL_BYTES)
        lines = self.file.read_bytes().split(b"\n")[:-1]  # a killed process may have cut the last one
        try:
            if lines and json.loads(lines[0])["evaluation"] != self._evaluation:
                raise UserError(
                    f"{self.file} holds episodes of another checkpoint, environment or setting; "
                    "choose another run_dir, or delete that file to play all episodes again"
                )
            for line in lines[1:]:
                job, rollout = _decode(json.loads(line))
                self.results[job] = rollout
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise UserError(
                f"{self.file} is damaged ({one_line(error)}); delete it to play all episodes again"
            ) from error
        write_whole(self.file, b"".join(line + b"\n" for line in lines))


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(content) + "\n"


def _plain(rollout: Rollout) -> dict[str, Any]:
    return rollout._asdict() | {"action_ms": np.round(rollout.action_ms, 4).tolist()}


def _decode(record: Mapping[str, Any]) -> tuple[Job, Rollout]:
    task, instructed, episode = record["job"]
    seed, success, steps = int(record["seed"]), bool(record["success"]), int(record["steps"])
    job = Job(str(task), str(instructed), int(episode))
    return job, Rollout(seed, success, steps, np.array(record["action_ms"], dtype=float))
