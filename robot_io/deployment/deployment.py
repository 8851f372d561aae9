"""Run of a policy on an arm, from connecting it to the report."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lerobot.robots import Robot

from policies import Runner
from tinyvla.errors import UserError

from ..person_gate import PersonCamera
from ..safety import SafetyLayer
from .arm_run import ArmRun, EpisodeControl
from .checks import check_fit, other_views
from .command_sources import ArmPolicy, Operator
from .episodes import Episode, EpisodeObserver

logger = logging.getLogger(__name__)
REPORT = "deploy.json"


@dataclass
class Deployment:
    """Runs a policy on an arm, see `ArmRun`.

    Args:
        robot: not yet connected.
        runner: of the policy; it must not make the control loop wait, as `AsynchronousRunner` does not.
        layer: checks every command; its rate is the loop's.
        observers: called with every tick of an episode.
        operator: person who may take over.
        approach_speed: share of the speed limits on the way to the first pose of an episode.
        dry_run: nothing is sent, and the arm stays limp.
        trained_names: see `check_fit`.
        person: camera that watches for people, for the person gate.
        judge: a person who judges the episodes.

    Raises UserError if the policy does not fit the arm.
    """

    robot: Robot
    runner: Runner
    layer: SafetyLayer
    observers: list[EpisodeObserver] = field(default_factory=list)
    operator: Operator | None = None
    approach_speed: float = 0.25
    dry_run: bool = False
    trained_names: Mapping[str, Sequence[str]] | None = None
    person: PersonCamera | None = None
    judge: EpisodeControl | None = None

    def __post_init__(self) -> None:
        policy = ArmPolicy(self.runner, self.layer.joints, self.layer.limits.rate_hz, self.operator, self.layer.align)
        self._run = ArmRun(
            self.robot,
            policy,
            self.layer,
            self.observers,
            self.judge,
            self.approach_speed,
            self.dry_run,
            self.person,
            check=self._check_connected,
        )
        self._check_fit()

    @property
    def report(self) -> dict[str, Any]:
        """Report of the run so far."""
        return self._run.report

    @property
    def phase(self) -> str:
        """Approach, episode or pause; empty while the arm is not driven."""
        return self._run.phase

    def run(self, episodes: Sequence[Episode], run_dir: Path) -> dict[str, Any]:
        """Run the episodes in turn. Returns the report, which is also written to `run_dir`; see `ArmRun.run`."""
        joints = self.layer.joints
        for episode in episodes:
            if episode.start_pose is not None and (count := len(episode.start_pose)) != len(joints):
                raise UserError(f"start_pose has {count} numbers; give one for each of {', '.join(joints)}")
        return self._run.run(episodes, run_dir / REPORT)

    def describe(self) -> str:
        """Summary of the report in a few lines."""
        lines = [self._run.describe(f"{self.report['held_ticks']} ticks held for want of a chunk")]
        if "successes" in self.report:
            successes, count = self.report["successes"], self.report["judged"]
            low, high = self.report["ci95"]
            lines.append(f"{successes} of {count} episodes succeeded (95% interval {low:.0%} to {high:.0%})")
            if unjudged := len(self.report["episodes"]) - count:
                lines.append(f"{unjudged} episodes were not judged")
        return "\n".join(lines)

    def _check_connected(self) -> None:
        """Check again: some robots know their cameras only now."""
        self._check_fit()
        for line in other_views(self.runner, self.robot.observation_features):
            logger.warning(line)

    def _check_fit(self) -> None:
        check_fit(self.runner, self.robot.observation_features, self.layer.limits, self.trained_names)
