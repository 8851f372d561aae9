"""One run of a policy on an arm, from connecting it to the report."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.robots import Robot

from policies import PolicyRunner
from tinyvla.errors import UserError
from tinyvla.files import write_whole

from ..connection import check_port, connect_arm, disconnect_arm
from ..control_loop import ControlLoop, Timing
from ..diagnosis import arm_errors
from ..feetech import FeetechServos, Guard
from ..person_gate import PersonCamera
from ..real_time import frozen_gc, raised_priority
from ..safety import SafeCommand, SafetyLayer, on_interrupt
from .arm_session import DryRunRobot, FreshImageRobot
from .checks import check_fit
from .command_sources import ArmPolicy, Operator, SlowPath, check_arrived, held_ticks
from .episodes import Episode, EpisodeObserver, Tick

REPORT = "deploy.json"
_GIVE_UP_S = 1.0  # an arm on its way back that is held up so long stays there, as one that was found on the table


@dataclass
class Deployment:
    """Connects an arm, runs episodes on it, and leaves it limp where it was found.

    Args:
        arm: not yet connected.
        runner: of the policy, and it should not make the control loop wait: an `AsynchronousRunner`.
        layer: sees every command; its rate is the loop's.
        observers: told of every tick of an episode.
        operator: a person who may take over.
        approach_speed: share of the speed limits for the way to an episode's first pose.
        dry_run: nothing is sent, the arm stays limp.
        trained_names: see `check_fit`.
        people: what tells the person gate whether somebody is in view.

    Raises UserError if the policy does not fit the arm.
    """

    arm: Robot
    runner: PolicyRunner
    layer: SafetyLayer
    observers: list[EpisodeObserver] = field(default_factory=list)
    operator: Operator | None = None
    approach_speed: float = 0.25
    dry_run: bool = False
    trained_names: Mapping[str, Sequence[str]] | None = None
    people: PersonCamera | None = None
    report: dict[str, Any] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if not 0 < self.approach_speed <= 1:
            raise UserError(f"approach_speed={self.approach_speed:g} is no share; give a number above 0, at most 1")
        check_fit(self.runner, self.arm.observation_features, self.layer.limits, self.trained_names)
        self._keys = [f"{joint}.pos" for joint in self.layer.joints]
        rate = self.layer.limits.rate_hz
        self._policy = ArmPolicy(self.runner, self.layer.joints, rate, self.operator)
        self._guard: Guard | None = None
        self._servos: FeetechServos | None = None
        self._timing = Timing(late_s=0.1 / rate)
        self.report = {"rate_hz": rate, "dry_run": self.dry_run, "ended": "time", "episodes": []}

    def run(self, episodes: Sequence[Episode], run_dir: Path) -> dict[str, Any]:
        """Run the episodes in turn; the report, which is in `run_dir` too, however the run ends.

        Ctrl-C ends it without an error: the arm brakes, holds, and its torque is cut as the safety limits say. Call
        this in the main thread. Raises UserError if the arm does not connect or the policy does not fit it, before any
        motion, or if the arm or the policy fails, once the arm is safe.
        """
        for episode in episodes:
            if episode.start_pose is not None and (given := len(episode.start_pose)) != len(self._keys):
                raise UserError(f"start_pose has {given} numbers; give one for each of {', '.join(self.layer.joints)}")
        try:
            with frozen_gc(), on_interrupt(self.layer.emergency_stop), self._connected():
                self._run(episodes)
        except BaseException as error:
            self.report["ended"] = type(error).__name__
            self.report["error"] = " ".join(str(error).split())
            raise
        finally:
            self._write_report(run_dir)
        return self.report

    def describe(self) -> str:
        """The report in a few lines."""
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

    def _run(self, episodes: Sequence[Episode]) -> None:
        # Some cameras tell their size only now.
        check_fit(self.runner, self.arm.observation_features, self.layer.limits, self.trained_names)
        found = self._position(self.arm.get_observation())
        for episode in episodes:
            ended = self._play(episode)
            if self.layer.emergency_stop.pressed:
                self.report["ended"] = ended
                return
        self._go(found)

    def _play(self, episode: Episode) -> str:
        """One episode; how it ended."""
        stop = self.layer.emergency_stop
        observation = self.arm.get_observation()
        if episode.start_pose is None:
            self._go(self._policy.begin(episode.instruction, episode.seed, observation), check=True)
        else:
            self._go(np.array(episode.start_pose, dtype=float), check=True)
        if stop.pressed:
            return str(stop.source)
        if episode.lay_out is not None:
            episode.lay_out()
        self._policy.begin(episode.instruction, episode.seed, self._settled_view())
        if stop.pressed:
            return str(stop.source)
        before, ended = self._timing.ticks, "error"
        loop = self._loop(self._policy)
        loop.observer, loop.done = self._tell(episode), episode.success
        loop.timing = self._timing
        for observer in self.observers:
            observer.begin(episode)
        try:
            ended = self._drive(loop, episode.seconds)
        finally:
            result = episode.result(ended, self._timing.ticks - before, self.layer.limits.rate_hz)
            self.report["episodes"].append(result)
            for observer in self.observers:
                observer.end(result)
        return ended

    def _go(self, goal: np.ndarray, check: bool = False) -> None:
        """Take the arm slowly to a pose; `check` that it came there."""
        if self.dry_run or self.layer.emergency_stop.pressed:
            return
        goal = self._reachable(goal)
        position = self._position(self.arm.get_observation())
        give_up_s = np.inf if check else _GIVE_UP_S
        path = SlowPath(position, goal, self.layer.limits, self.approach_speed, give_up_s)
        loop = self._loop(path)
        loop.done = path.done
        self._drive(loop, path.seconds)
        if check and not self.layer.emergency_stop.pressed:
            check_arrived(self._position(self.arm.get_observation()), goal, self.layer.limits)

    def _reachable(self, pose: np.ndarray) -> np.ndarray:
        joints = self.layer.limits.joints.values()
        return np.clip(pose, [joint.min for joint in joints], [joint.max for joint in joints])

    def _drive(self, loop: ControlLoop, seconds: float | None) -> str:
        with raised_priority(), contextlib.nullcontext() if self._guard is None else self._guard.watching():
            return loop.run(seconds)

    def _loop(self, policy: Any) -> ControlLoop:
        servos = self._servos
        arm = FreshImageRobot(self.arm, self.layer.limits.watchdog.picture_s)
        return ControlLoop(
            DryRunRobot(arm) if self.dry_run else arm,
            policy if self.people is None else self.people.before(policy, self.arm),
            self.layer,
            torque=None if servos is None or self.dry_run else servos.set_torque,
            servos=None if servos is None else servos.read,
            person=None if self.people is None else self.people.view,
            beat=None if self._guard is None else self._guard.beat,
        )

    def _tell(self, episode: Episode) -> Any:
        def observer(
            due: float, observation: dict[str, Any] | None, command: np.ndarray | None, safe: SafeCommand
        ) -> None:
            if observation is None:
                return
            wanted = self._policy.policy_pose
            tick = Tick(
                due,
                observation,
                self._position(observation),
                safe.position.copy(),
                safe.position.copy() if wanted is None else wanted,
                self._policy.taken_over,
                safe.reaction,
            )
            for observer in self.observers:
                observer.observe(tick)

        return observer if self.observers else None

    def _position(self, observation: dict[str, Any]) -> np.ndarray:
        return np.array([observation[key] for key in self._keys], dtype=float)

    def _settled_view(self) -> dict[str, Any]:
        """An observation whose pictures were all taken after now."""
        for camera in getattr(self.arm, "cameras", {}).values():
            for _ in range(2):  # the first may have been on its way
                camera.async_read(timeout_ms=1000)
        return self.arm.get_observation()

    @contextlib.contextmanager
    def _connected(self) -> Iterator[None]:
        check_port(self.arm)
        with self._guarded():
            with raised_priority():  # LeRobot gives a servo 50 ms to answer
                connect_arm(self.arm)
            try:
                with arm_errors(self.arm), self._limited_torque():
                    if self.dry_run and (bus := getattr(self.arm, "bus", None)) is not None:
                        bus.disable_torque(num_retry=2)
                    yield
            finally:
                if problems := disconnect_arm(self.arm):
                    self.report["problems"] = problems

    @contextlib.contextmanager
    def _limited_torque(self) -> Iterator[None]:
        """Limits of torque last as long as the run."""
        if (bus := _feetech_bus(self.arm)) is None:
            yield
            return
        self._servos = FeetechServos(bus, off=self.dry_run)
        self._servos.restore()  # whatever a run that was killed has left
        try:
            yield
        finally:
            with contextlib.suppress(OSError, RuntimeError):  # an arm that does not answer keeps its limits
                self._servos.set_torque(0)  # first: an arm held at half its torque must not get all of it now
                self._servos.restore()

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Have somebody let go of the arm should this process die, from before its torque is on."""
        bus, limits = _feetech_bus(self.arm), self.layer.limits
        delay_s = limits.emergency_stop.torque_off_s
        if bus is None or self.dry_run or delay_s is None:
            yield
            return
        ids = [motor.id for motor in bus.motors.values()]
        with Guard(bus.port, ids, delay_s, limits.watchdog.retreat_s) as self._guard:
            yield

    def _write_report(self, run_dir: Path) -> None:
        played = [episode for episode in self.report["episodes"] if episode["success"] is not None]
        if played:
            self.report["successes"] = sum(episode["success"] for episode in played)
        self.report |= {
            "timing": self._timing.to_dict(),
            "held_ticks": held_ticks(self.runner),
            "safety": self.layer.report.to_dict(),
        }
        for observer in self.observers:
            self.report |= observer.report()
        write_whole(run_dir / REPORT, json.dumps(self.report, indent=1))


def _feetech_bus(arm: Robot) -> Any:
    """The bus of an arm with Feetech servos, None for others."""
    bus = getattr(arm, "bus", None)
    return bus if type(bus).__name__ == "FeetechMotorsBus" else None
