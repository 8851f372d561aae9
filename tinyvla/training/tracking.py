"""Metrics of a run: metrics.jsonl in its folder, and Weights & Biases."""

import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from ..errors import UserError, one_line
from ..files import sync, write_whole
from ..untrusted import check_regular
from .checkpoint import last_step

MAX_METRICS_BYTES = 256 << 20
_LONGEST_LINE = 1 << 20


class Tracker:
    """Appends every record to metrics.jsonl, one JSON object per line, and sends it to wandb.

    Args:
        run_dir: the run's folder, made if it is missing.
        config: the run's configuration; its section `wandb` has mode (offline, online, disabled), project, entity and
            name.
        enabled: True in the first process of a distributed run only; the others record nothing.

    Records after the run's newest checkpoint are dropped: a resumed run records these steps again.
    """

    def __init__(self, run_dir: Path, config: Mapping[str, Any], enabled: bool = True):
        self.file = run_dir / "metrics.jsonl"
        self.enabled = enabled
        self.wandb: Any = None
        self._kept: int | None = None  # step after which earlier records are dropped, once there are new ones
        if enabled:
            run_dir.mkdir(parents=True, exist_ok=True)
            if self.file.exists():
                check_regular(self.file, MAX_METRICS_BYTES)
                self._kept = last_step(run_dir)
            self.wandb = self._start_wandb(run_dir, config)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: Any) -> None:
        if self.wandb:
            self.wandb.finish(exit_code=1 if failure else 0)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record values at a step."""
        if not self.enabled:
            return
        self._forget()
        with self.file.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self.wandb:
            self.wandb.log(dict(values), step=step)

    def sync(self) -> None:
        """Have the disk hold the records so far, as the checkpoint that follows relies on."""
        self._forget()
        if self.enabled and self.file.exists():
            sync(self.file)

    def log_result(self, values: Mapping[str, Any], videos: Iterable[Path], checkpoint: Path) -> None:
        """Log the run's result: final metrics as its summary, videos, and the policy as an artifact."""
        if not self.wandb:
            return
        import wandb

        self.wandb.summary.update(dict(values))
        for video in videos:
            self.wandb.log({f"videos/{video.stem}": wandb.Video(str(video), format="mp4")})
        artifact = wandb.Artifact(f"policy-{self.wandb.id}", type="model")
        artifact.add_dir(str(checkpoint))
        self.wandb.log_artifact(artifact)

    def _forget(self) -> None:
        """Drop the records that this run makes again; not before, since a refused run leaves its files alone."""
        if self._kept is not None:
            records = [record for record in read_metrics(self.file) if record["step"] <= self._kept]
            write_whole(self.file, "".join(json.dumps(record) + "\n" for record in records))
            self._kept = None

    @staticmethod
    def _start_wandb(run_dir: Path, config: Mapping[str, Any]) -> Any:
        options = config["wandb"]
        if options["mode"] == "disabled":
            return None
        import wandb

        os.environ.setdefault("WANDB_SILENT", "true" if options["mode"] == "offline" else "false")
        # A resumed run is the same run: its id is in the run's folder.
        id_file = run_dir / "wandb_id.txt"
        if not id_file.exists():
            write_whole(id_file, secrets.token_hex(4))
        check_regular(id_file, 64)
        if not re.fullmatch(r"[\w-]+", run_id := id_file.read_text(errors="replace")):
            raise UserError(f"{id_file} holds no id of a run; delete it, and wandb begins another run")
        try:
            return wandb.init(
                project=options["project"],
                entity=options["entity"],
                name=options["name"],
                mode=options["mode"],
                dir=run_dir,
                id=run_id,
                resume="allow",
                config=dict(config),
            )
        except (wandb.errors.UsageError, wandb.errors.CommError, wandb.errors.AuthenticationError) as error:
            raise UserError(
                f"wandb cannot start ({one_line(error)}); run `wandb login`, or set wandb.mode=offline"
            ) from error


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """Records of a metrics.jsonl: `step` and numbers, or null, by name.

    A last line that a killed process left incomplete is left out, and other damaged lines and values are. Raises
    UserError for a file that is not regular, or has more than MAX_METRICS_BYTES.
    """
    check_regular(file, MAX_METRICS_BYTES)
    records = []
    with file.open("rb") as lines:
        while line := lines.readline(_LONGEST_LINE):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict) and _is_step(record.get("step")):
                records.append({name: value for name, value in record.items() if _is_number(value)})
    return records


def _is_step(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 53


def _is_number(value: Any) -> bool:
    """True for null and for numbers that are finite, infinite or NaN as floats."""
    return value is None or type(value) is float or (type(value) is int and abs(value) < 1 << 53)
