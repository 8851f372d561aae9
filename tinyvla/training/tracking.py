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
        if enabled:
            run_dir.mkdir(parents=True, exist_ok=True)
            self._forget_after(last_step(run_dir))
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
        with self.file.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self.wandb:
            self.wandb.log(dict(values), step=step)

    def sync(self) -> None:
        """Have the disk hold the records so far, as the checkpoint that follows relies on."""
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

    def _forget_after(self, step: int) -> None:
        if not self.file.exists():
            return
        records = [record for record in read_metrics(self.file) if record["step"] <= step]
        write_whole(self.file, "".join(json.dumps(record) + "\n" for record in records))

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
    """Records of a metrics.jsonl, without a last line that a killed process left incomplete, and other damaged ones."""
    records = []
    for line in file.read_bytes().splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records
