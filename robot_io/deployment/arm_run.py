"""Run of episodes on an arm, whoever commands it: connecting, approaching, playing, pausing, and the report."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from lerobot.robots import Robot

from tinyvla.errors import UserError, one_line
from tinyvla.files import write_whole

from ..control_loop import CommandSource, ControlLoop, TickObserver, Timing
from ..person_gate import PersonCamera
from ..real_time import frozen_gc
from ..safety import SafeCommand, SafetyLayer, on_interrupt
from .arm_session import ArmSession
from .command_sources import EpisodeSource, SlowPath, check_arrived, check_unmoved
from .episodes import Episode, EpisodeObserver, Tick, count_successes

_GIVE_UP_S = 1.0  # seconds without progress on the way back, after which the arm stays there, as on the table
_ALIGNED = 3.0  # LeRobot's units: a person's device that has moved less than this since the approach is followed


class EpisodeControl(EpisodeObserver, Protocol):
    """Observer through which a person ends and judges episodes, by keys or buttons. All methods return at once."""

    def is_over(self) -> bool:
        """True if the running episode is to end."""

    def complete(self, result: dict[str, Any]) -> float:
        """Take note that an episode has run to its end; seconds of the pause that follows, 0 for none."""

    def pause_is_over(self) -> bool:
        """True if the pause is to end before its time."""

    def settle(self, result: dict[str, Any]) -> None:
        """Write into the episode's result what the person has decided, at the end of the pause."""


@dataclass
class ArmRun:
    """Connects an arm, plays episodes on it, brings it back to where it was and leaves it limp.

    Args:
        robot: not yet connected.
        source: commands the arm in the episodes.
        layer: checks every command; its rate is the loop's.
        observers: called with every tick of an episode.
        control: a person who ends and judges episodes.
        approach_speed: share of the speed limits on the way to the first pose of an episode.
        dry_run: nothing is sent, and the arm stays limp.
        person: camera that watches for people, for the person gate.
        check: called once the arm is connected, before any motion.

    Attributes:
        report: of the run so far.
        phase: approach, episode or pause; empty while the arm is not driven.
    """

    robot: Robot
    source: EpisodeSource
    layer: SafetyLayer
    observers: list[EpisodeObserver] = field(default_factory=list)
    control: EpisodeControl | None = None
    approach_speed: float = 0.25
    dry_run: bool = False
    person: PersonCamera | None = None
    check: Callable[[], None] = lambda: None
    report: dict[str, Any] = field(default_factory=dict, init=False)
    phase: str = field(default="", init=False)
    _has_moved: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if not 0 < self.approach_speed <= 1:
            raise UserError(f"approach_speed={self.approach_speed:g} is not a share; give a number above 0, at most 1")
        rate = self.layer.limits.rate_hz
        self._session = ArmSession(self.robot, self.layer.limits, self.dry_run)
        self._timing = Timing(late_s=0.1 / rate)
        self.report |= {"rate_hz": rate, "dry_run": self.dry_run, "ended": "time", "episodes": []}

    def run(self, episodes: Iterable[Episode], report_file: Path) -> dict[str, Any]:
        """Play the episodes in turn. Returns the report, which is also written to a file however the run ends.

        Ctrl-C ends it without an error: the arm brakes, holds, and its torque is cut as the safety limits say. Call
        this in the main thread. Raises UserError if the arm does not connect or `check` fails, before any motion, or if
        the arm or the source fails, once the arm is safe.
        """
        try:
            with frozen_gc(), on_interrupt(self.layer.emergency_stop), self._session.connected():
                self._run(episodes)
        except BaseException as error:
            self.report["ended"] = type(error).__name__
            self.report["error"] = one_line(error, None)
            raise
        finally:
            self.phase = ""
            self._write_report(report_file)
        return self.report

    def describe(self, *facts: str) -> str:
        """Punctuality, further facts, and the safety layer's interventions, in two lines."""
        timing, safety = self.report["timing"], self.report["safety"]
        causes = ", ".join(f"{cause} {n['interventions']}" for cause, n in safety["causes"].items()) or "none"
        punctuality = (
            f"{timing['ticks']} ticks, {timing['late']} late, {timing['missed']} missed, p99 {timing['p99_ms']} ms, "
            f"worst {timing['worst_ms']} ms"
        )
        return "\n".join(["; ".join([punctuality, *facts]), f"safety interventions: {causes}"])

    def _run(self, episodes: Iterable[Episode]) -> None:
        self.check()
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
        stop, source = self.layer.emergency_stop, self.source
        self._approach_start(episode)
        if stop.pressed:
            return str(stop.source)
        if episode.lay_out is not None:
            episode.lay_out()
        source.begin(episode.instruction, episode.seed, self._session.settled_observation())
        if stop.pressed:
            return str(stop.source)
        ticks_before, ended = self._timing.ticks, "error"
        loop = self._loop(source.command, self._tick_observer())
        loop.timing = self._timing
        for observer in self._watchers:
            observer.begin(episode)
        try:
            self.phase = "episode"
            ended = self._drive(loop, episode.seconds, lambda: self._is_over(episode))
            if ended == "done" and self.control is not None and self.control.is_over():
                ended = "person"
        finally:
            result = episode.result(ended, self._timing.ticks - ticks_before, self.layer.limits.rate_hz)
            self.report["episodes"].append(result)
            try:
                if ended in ("time", "done", "person") and self.control is not None:
                    self._pause(result)
            finally:
                for observer in self._watchers:
                    observer.end(result)
        return ended

    def _is_over(self, episode: Episode) -> bool:
        done = episode.success is not None and episode.success()
        return done or (self.control is not None and self.control.is_over())

    def _pause(self, result: dict[str, Any]) -> None:
        """Hold the arm, or let a person go on steering it, until the control has what it waits for."""
        if self.control is None:
            return
        seconds = self.control.complete(result)
        try:
            if seconds > 0 and not self.layer.emergency_stop.pressed:
                self.phase = "pause"
                rest = self.layer.rest_pose()
                command = self.source.command if self.source.is_person else lambda _: rest
                self._drive(self._loop(command), seconds, self.control.pause_is_over)
        finally:
            self.control.settle(result)

    def _approach_start(self, episode: Episode) -> None:
        """Bring the arm to where an episode starts. A person's device may move meanwhile; it is approached again."""
        if episode.start_pose is not None:
            self._approach(np.array(episode.start_pose, dtype=float), must_arrive=True)
        elif not self.source.is_person:
            self._approach(self._first_action(episode), must_arrive=True)
        if not self.source.is_person:
            return
        goal, stop = self._first_action(episode), self.layer.emergency_stop
        while not stop.pressed:
            self._approach(goal)
            before, goal = goal, self._first_action(episode)
            if self.dry_run or np.abs(goal - before).max() < _ALIGNED or (self.control and self.control.is_over()):
                return

    def _first_action(self, episode: Episode) -> np.ndarray:
        return self.source.begin(episode.instruction, episode.seed, self._session.observation())

    def _approach(self, goal: np.ndarray, must_arrive: bool = False) -> None:
        """Move the arm slowly to a pose. Raises UserError if it `must_arrive` and did not."""
        if self.dry_run or self.layer.emergency_stop.pressed:
            return
        self.phase = "approach"
        limits = self.layer.limits
        joints = limits.joints.values()
        goal = np.clip(goal, [joint.min for joint in joints], [joint.max for joint in joints])
        give_up_s = np.inf if must_arrive else _GIVE_UP_S
        position = self._session.position()
        check_unmoved(position, self.layer.sent if self._has_moved else None, limits)
        self._has_moved = True
        path = SlowPath(position, goal, limits, self.approach_speed, give_up_s)
        self._drive(self._loop(path.command), path.seconds, path.is_done)
        if must_arrive and not self.layer.emergency_stop.pressed:
            check_arrived(self._session.position(), goal, limits)

    def _loop(self, source: CommandSource, observer: TickObserver | None = None) -> ControlLoop:
        return ControlLoop(self._session.arm(self.layer.is_possible), source, self.layer, self.person, observer)

    def _drive(self, loop: ControlLoop, seconds: float | None, done: Callable[[], bool] | None) -> str:
        with self._session.driven():
            return loop.run(seconds, done)

    def _tick_observer(self) -> TickObserver | None:
        def observe(
            due: float, observation: dict[str, Any] | None, command: np.ndarray | None, safe: SafeCommand
        ) -> None:
            if observation is None:
                return
            policy_pose = self.source.policy_pose
            tick = Tick(
                due,
                observation,
                self._session.position(observation),
                safe.position.copy(),
                safe.position.copy() if policy_pose is None else policy_pose,
                self.source.taken_over,
                safe.reaction,
                safe.torque,
            )
            for observer in watchers:
                observer.observe(tick)

        watchers = self._watchers
        return observe if watchers else None

    @property
    def _watchers(self) -> list[EpisodeObserver]:
        return [*self.observers, *([self.control] if self.control is not None else [])]

    def _write_report(self, file: Path) -> None:
        if self._session.problems:
            self.report["problems"] = self._session.problems
        self.report |= count_successes(self.report["episodes"])
        self.report |= {
            "timing": self._timing.to_dict(),
            "held_ticks": self.source.held_ticks,
            "safety": self.layer.report.to_dict(),
        }
        for observer in self._watchers:
            self.report |= observer.report()
        try:
            write_whole(file, json.dumps(self.report, indent=1))
        except OSError as error:
            print(json.dumps(self.report))
            raise UserError(
                f"the report above could not be written to {file.parent} ({one_line(error.strerror or error)}); "
                "make room there before the next run"
            ) from error
