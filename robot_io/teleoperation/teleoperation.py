"""Teleoperation: a leader arm steers an arm through the control loop and its safety layer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.robots import Robot

from tinyvla.errors import UserError

from ..deployment.arm_run import ArmRun
from ..deployment.command_sources import Operator
from ..deployment.episodes import EpisodeObserver
from ..person_gate import PersonCamera
from ..safety import EmergencyStop, SafetyLayer
from ..takeover import Takeover, connect_operator, decode_takeover
from .session import RecordingSession

REPORT = "record.json"


class LeaderSource:
    """Operator as a source of commands (`EpisodeSource`): where it gives no pose, the last one stays.

    Args:
        operator: gives the person's pose.
        joints: names of the numbers of a pose.
    """

    is_person = True
    taken_over = False
    held_ticks = 0

    def __init__(self, operator: Operator, joints: Sequence[str]) -> None:
        self._operator = operator
        self._keys = [f"{joint}.pos" for joint in joints]
        self.policy_pose: np.ndarray | None = None

    def begin(self, instruction: str, seed: int, observation: Mapping[str, Any]) -> np.ndarray:
        self.policy_pose = np.array([observation[key] for key in self._keys], dtype=float)
        return self.command(observation)

    def command(self, observation: Mapping[str, Any]) -> np.ndarray:
        pose = self._operator(observation)
        self.policy_pose = self.policy_pose if pose is None else pose
        assert self.policy_pose is not None  # since begin
        return self.policy_pose


@dataclass
class Teleoperation:
    """Records the episodes of a session on an arm that an operator steers, see `ArmRun`.

    Before each episode the arm moves slowly to the operator's pose.

    Args:
        robot: not yet connected.
        operator: the leader.
        layer: checks every command; its rate is that of the recording.
        session: the episodes.
        observers: called with every tick of an episode.
        approach_speed: share of the speed limits on the way to the leader's pose.
        person: camera that watches for people, for the person gate.
    """

    robot: Robot
    operator: Operator
    layer: SafetyLayer
    session: RecordingSession
    observers: list[EpisodeObserver] = field(default_factory=list)
    approach_speed: float = 0.25
    person: PersonCamera | None = None

    def __post_init__(self) -> None:
        source = LeaderSource(self.operator, self.layer.joints)
        self._run = ArmRun(
            self.robot, source, self.layer, self.observers, self.session, self.approach_speed, person=self.person
        )

    @property
    def report(self) -> dict[str, Any]:
        """Report of the run so far."""
        return self._run.report

    @property
    def phase(self) -> str:
        """Approach, episode or pause; empty while the arm is not driven."""
        return self._run.phase

    def run(self, run_dir: Path) -> dict[str, Any]:
        """Record until the session is over. Returns the report, which is also written to `run_dir`."""
        return self._run.run(self.session, run_dir / REPORT)

    def describe(self) -> str:
        """Summary of the report in a few lines."""
        recording = self.report["recording"]
        return (
            f"{self.report['kept']} episodes recorded; {recording['folder']} has {recording['episodes']} episodes, "
            f"{recording['frames']} frames; {recording['lost']} frames were lost\n{self._run.describe()}"
        )


def decode_teleop(section: Mapping[str, Any]) -> Takeover:
    """Decode the section `teleop`, as `decode_takeover`. Raises UserError if it cannot steer all the time."""
    kind = section.get("type")
    if kind is None:
        raise UserError(
            "teleop.type is not given; name the leader arm: teleop.type=so101_leader teleop.port=/dev/ttyACM1"
        )
    if kind == "keyboard":
        raise UserError("teleop.type=keyboard needs the keys of the recording; use a leader arm or gamepad")
    return decode_takeover(section, "teleop")


@contextmanager
def connect_leader(
    teleop: Takeover, joints: Sequence[str], stop: EmergencyStop, keys: Mapping[str, Callable[[], bool]]
) -> Iterator[Operator]:
    """Connect the leader, which steers all the time, and the keys for the block. Raises UserError if that fails."""
    with connect_operator(teleop, joints, stop, keys) as operator:
        assert operator is not None  # decode_teleop has seen to it
        if hasattr(operator, "active"):  # a leader arm; with a gamepad the person holds a button
            operator.active = True
        yield operator
