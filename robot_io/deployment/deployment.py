"""Run of a policy on an arm, from connecting it to the report."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.robots import Robot

from policies import Runner
from tinyvla.errors import UserError, one_line
from tinyvla.files import write_whole

from ..control_loop import CommandSource, ControlLoop, TickObserver, Timing
from ..person_gate import PersonCamera
from ..real_time import frozen_gc
from ..safety import SafeCommand, SafetyLayer, on_interrupt
from .arm_session import ArmSession
from .checks import check_fit, other_views
from .command_sources import ArmPolicy, Operator, SlowPath, check_arrived
from .episodes import Episode, EpisodeObserver, Tick

logger = logging.getLogger(__name__)
REPORT = "deploy.json"
_GIVE_UP_S = 1.0  # seconds without progress on the way back, after which the arm stays there, as on the table


@dataclass
class Deployment:
    """Connects an arm, runs episodes on it, brings it back to where it was and leaves it limp.

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
    report: dict[str, Any] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if not 0 < self.approach_speed <= 1:
            raise UserError(f"approach_speed={self.approach_speed:g} is not a share; give a number above 0, at most 1")
        self._check_fit()
        rate = self.layer.limits.rate_hz
        self._session = ArmSession(self.robot, self.layer.limits, self.dry_run)
        self._policy = ArmPolicy(self.runner, self.layer.joints, rate, self.operator)
        self._timing = Timing(late_s=0.1 / rate)
        self.report = {"rate_hz": rate, "dry_run": self.dry_run, "ended": "time", "episodes": []}

    def run(self, episodes: Sequence[Episode], run_dir: Path) -> dict[str, Any]:
        """Run the episodes in turn. Returns the report, which is also written to `run_dir` however the run ends.

        Ctrl-C ends it without an error: the arm brakes, holds, and its torque is cut as the safety limits say. Call
        this in the main thread. Raises UserError if the arm does not connect or the policy does not fit it, before any
        motion, or if the arm or the policy fails, once the arm is safe.
        """
        joints = self.layer.joints
        for episode in episodes:
            if episode.start_pose is not None and (count := len(episode.start_pose)) != len(joints):
                raise UserError(f"start_pose has {count} numbers; give one for each of {', '.join(joints)}")
        try:
            with frozen_gc(), on_interrupt(self.layer.emergency_stop), self._session.connected():
                self._run(episodes)
        except BaseException as error:
            self.report["ended"] = type(error).__name__
            self.report["error"] = one_line(error, None)
            raise
        finally:
            self._write_report(run_dir)
        return self.report

    def describe(self) -> str:
        """Summary of the report in a few lines."""
        timing, safety = self.report["timing"], self.report["safety"]
        causes = ", ".join(f"{cause} {n['interventions']}" for cause, n in safety["causes"].items()) or "none"
        lines = [
            f"{timing['ticks']} ticks, {timing['late']} late, {timing['missed']} missed, p99 {timing['p99_ms']} ms, "
            f"worst {timing['worst_ms']} ms; {self.report['held_ticks']} ticks held for want of a chunk",
            f"safety interventions: {causes}",
        ]
        if "successes" in self.report:
            lines.append(f"{self.report['successes']} of {len(self.report['episodes'])} episodes succeeded")
        return "\n".join(lines)

    def _check_fit(self) -> None:
        check_fit(self.runner, self.robot.observation_features, self.layer.limits, self.trained_names)

    def _run(self, episodes: Sequence[Episode]) -> None:
        self._check_fit()  # again: some robots know their cameras only now
        for line in other_views(self.runner, self.robot.observation_features):
            logger.warning(line)
        if self.person is not None:
            self.person.attach(self.robot)
        first_pose = self._session.position()
        for episode in episodes:
            ended = self._play(episode)
            if self.layer.emergency_stop.pressed:
                self.report["ended"] = ended
                return
        self._approach(first_pose)

    def _play(self, episode: Episode) -> str:
        """Play one episode; returns what ended it."""
        stop, policy = self.layer.emergency_stop, self._policy
        observation = self.robot.get_observation()
        if episode.start_pose is None:
            first_action = policy.begin(episode.instruction, episode.seed, observation)
            self._approach(first_action, must_arrive=True)
        else:
            self._approach(np.array(episode.start_pose, dtype=float), must_arrive=True)
        if stop.pressed:
            return str(stop.source)
        if episode.lay_out is not None:
            episode.lay_out()
        policy.begin(episode.instruction, episode.seed, self._session.settled_observation())
        if stop.pressed:
            return str(stop.source)
        ticks_before, ended = self._timing.ticks, "error"
        loop = self._loop(policy.command, self._tick_observer())
        loop.timing = self._timing
        for observer in self.observers:
            observer.begin(episode)
        try:
            ended = self._drive(loop, episode.seconds, episode.success)
        finally:
            result = episode.result(ended, self._timing.ticks - ticks_before, self.layer.limits.rate_hz)
            self.report["episodes"].append(result)
            for observer in self.observers:
                observer.end(result)
        return ended

    def _approach(self, goal: np.ndarray, must_arrive: bool = False) -> None:
        """Move the arm slowly to a pose. Raises UserError if it `must_arrive` and did not."""
        if self.dry_run or self.layer.emergency_stop.pressed:
            return
        limits = self.layer.limits
        joints = limits.joints.values()
        goal = np.clip(goal, [joint.min for joint in joints], [joint.max for joint in joints])
        give_up_s = np.inf if must_arrive else _GIVE_UP_S
        path = SlowPath(self._session.position(), goal, limits, self.approach_speed, give_up_s)
        self._drive(self._loop(path.command), path.seconds, path.is_done)
        if must_arrive and not self.layer.emergency_stop.pressed:
            check_arrived(self._session.position(), goal, limits)

    def _loop(self, source: CommandSource, observer: TickObserver | None = None) -> ControlLoop:
        return ControlLoop(self._session.arm(), source, self.layer, self.person, observer)

    def _drive(self, loop: ControlLoop, seconds: float | None, done: Callable[[], bool] | None) -> str:
        with self._session.driven():
            return loop.run(seconds, done)

    def _tick_observer(self) -> TickObserver | None:
        def observe(
            due: float, observation: dict[str, Any] | None, command: np.ndarray | None, safe: SafeCommand
        ) -> None:
            if observation is None:
                return
            policy_pose = self._policy.policy_pose
            tick = Tick(
                due,
                observation,
                self._session.position(observation),
                safe.position.copy(),
                safe.position.copy() if policy_pose is None else policy_pose,
                self._policy.taken_over,
                safe.reaction,
            )
            for observer in self.observers:
                observer.observe(tick)

        return observe if self.observers else None

    def _write_report(self, run_dir: Path) -> None:
        if self._session.problems:
            self.report["problems"] = self._session.problems
        judged = [episode for episode in self.report["episodes"] if episode["success"] is not None]
        if judged:
            self.report["successes"] = sum(episode["success"] for episode in judged)
        self.report |= {
            "timing": self._timing.to_dict(),
            "held_ticks": self._policy.held_ticks,
            "safety": self.layer.report.to_dict(),
        }
        for observer in self.observers:
            self.report |= observer.report()
        try:
            write_whole(run_dir / REPORT, json.dumps(self.report, indent=1))
        except OSError as error:
            print(json.dumps(self.report))
            raise UserError(
                f"the report above could not be written to {run_dir} ({one_line(error.strerror or error)}); "
                "make room there before the next run"
            ) from error
