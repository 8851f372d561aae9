"""Launcher of worker processes and of the jobs of a sweep: the `launcher` section of a configuration."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyvla.ranges import RangeError, check_range

LAUNCHERS = ("local", "ray")


@dataclass(frozen=True)
class LauncherConfig:
    """The `launcher` section of a configuration: where worker processes and the jobs of a sweep run.

    Args:
        name: "local" or "ray".
        address: of a Ray cluster, host:port or "auto"; None: Ray on this machine only.
        gpus: GPUs per worker; 0.25: four workers share one.
        job_cpus, job_gpus: CPU cores and GPUs per job of a sweep.
        start_job: dotted name of the function that starts a job of a sweep; None: jobs run one after another.
    """

    name: str = "local"
    address: str | None = None
    gpus: int | float = 0
    job_cpus: int | float = 2
    job_gpus: int | float = 0
    start_job: str | None = None

    def __post_init__(self) -> None:
        if self.name not in LAUNCHERS:
            raise RangeError("name", self.name, f"use {' or '.join(LAUNCHERS)}")
        check_range(self, "gpus", "job_gpus", low=0)
        check_range(self, "job_cpus", above=0)


LOCAL = LauncherConfig()


class FolderSender(ABC):
    """A pool whose workers may be on other machines, and get folders sent."""

    @abstractmethod
    def send_folder(self, path: Path) -> Any:
        """A value with the method `opened` of `envs.workers.Folder`."""
