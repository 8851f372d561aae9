"""Random command sequences against the safety layer: audit of every pose that it sends, and time per step.

    uv run python -m benchmarks.real_arm.safety_cost
    uv run python -m benchmarks.real_arm.safety_cost sequences=500 kinds=[folded,drift]

Every sequence starts at a random pose. Most are disturbed: missing commands, missing and wrong readings, joints that
are stuck, overloaded or hot, people, the emergency stop, ticks too early or too late. The poses that were sent are
checked by robot_io/safety/audit.py, which shares no code with the layer. The cost is the wall and CPU time of a step
for commands of a policy within the limits, for goals that jump, and for a hand that is sent into the table. Writes
results/safety_cost.json and .md; the last line is one JSON object.
"""

import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from omegaconf import OmegaConf

from benchmarks.machine import ROOT, Machine, keep, markdown
from benchmarks.settings import setting, start
from robot_io.safety import ArmState, PersonView, Reaction, SafetyLayer, SafetyLimits
from robot_io.safety.audit import Auditor

CONFIG = ROOT / "configs" / "safety" / "so101.yaml"
NARROW = {"x": [-0.05, 0.32], "y": [-0.2, 0.2], "z_max": 0.3}
REST = np.array([0.0, -60.0, 60.0, 60.0, 0.0, 20.0])


@dataclass
class Attack:
    """Input of an attack: generator, ranges of the joints (joints,), steps at full speed, start pose and ticks."""

    rng: np.random.Generator
    low: np.ndarray
    high: np.ndarray
    step: np.ndarray
    start: np.ndarray
    ticks: int

    def held(self, poses: Callable[[], np.ndarray], ticks: float) -> np.ndarray:
        """Poses (ticks, joints), each held for about `ticks` ticks."""
        changes = self.rng.random(self.ticks) < 1 / ticks
        pose, rows = poses(), []
        for change in changes:
            pose = poses() if change else pose
            rows.append(pose)
        return np.array(rows)


def jumps(a: Attack) -> np.ndarray:
    """Goals in and out of range."""
    span = a.high - a.low
    return a.held(lambda: a.rng.uniform(a.low - span / 2, a.high + span / 2), a.rng.uniform(1, 25))


def bang_bang(a: Attack) -> np.ndarray:
    """Every joint between its limits, each with a different period."""
    period = a.rng.integers(1, 25, len(a.low))
    tick = np.arange(a.ticks)[:, None]
    return np.where((tick // period) % 2 == a.rng.integers(0, 2, len(a.low)), a.low, a.high)


def drift(a: Attack) -> np.ndarray:
    """Every joint steadily in one direction, at up to full speed, into any obstacle."""
    speed = a.step * a.rng.uniform(-1, 1, len(a.low)) ** a.rng.choice([1, 3, 5])
    return a.start + np.arange(1, a.ticks + 1)[:, None] * speed


def rush(a: Attack) -> np.ndarray:
    """Motion at exactly full speed with random reversals."""
    signs = a.held(lambda: a.rng.choice([-1.0, 1.0], len(a.low)), a.rng.uniform(2, 20))
    return a.start + np.cumsum(signs * a.step, axis=0)


def noise(a: Attack) -> np.ndarray:
    """Random walk with small to large steps."""
    return a.start + np.cumsum(a.rng.normal(0, 10 ** a.rng.uniform(-1, 1.5), (a.ticks, len(a.low))), axis=0)


def waves(a: Attack) -> np.ndarray:
    """Smooth motion, slow to too fast."""
    frequency, phase = 10 ** a.rng.uniform(-2, 0, len(a.low)), a.rng.uniform(0, 2 * np.pi, len(a.low))
    return (a.low + a.high) / 2 + (a.high - a.low) / 2 * np.sin(frequency * np.arange(a.ticks)[:, None] + phase)


def folded(a: Attack) -> np.ndarray:
    """Corners of the joints' ranges, where the arm touches itself."""
    return a.held(lambda: np.where(a.rng.random(len(a.low)) < 0.5, a.low, a.high), a.rng.uniform(5, 40))


def into_base(a: Attack) -> np.ndarray:
    """Hand and wrist turned in towards the shoulder and the base."""

    def pose() -> np.ndarray:
        pose = a.rng.uniform(a.low, a.high)
        pose[1:4] = a.rng.uniform([-100, 40, 30], [20, 96, 94])
        return pose

    return a.held(pose, a.rng.uniform(5, 40))


def into_table(a: Attack) -> np.ndarray:
    """Low poses, reached past the table."""

    def pose() -> np.ndarray:
        pose = a.rng.uniform(a.low, a.high)
        pose[1:4] = a.rng.uniform([0, -60, -20], [99, 60, 94])
        return pose

    return a.held(pose, a.rng.uniform(5, 40))


def not_finite(a: Attack) -> np.ndarray:
    """Jumps with NaN, infinities and huge numbers among them."""
    commands = jumps(a)
    poison = np.array([np.nan, np.inf, -np.inf, 1e308, -1e308, 1e20])
    hit = a.rng.random(commands.shape) < a.rng.uniform(0.01, 0.5)
    return np.where(hit, a.rng.choice(poison, commands.shape), commands)


KINDS: dict[str, Callable[[Attack], np.ndarray]] = {
    kind.__name__: kind
    for kind in (jumps, bang_bang, drift, rush, noise, waves, folded, into_base, into_table, not_finite)
}


def make_limits(**changes: Any) -> SafetyLimits:
    """Limits of the SO-101 with changes to some sections."""
    cfg: Any = OmegaConf.to_container(OmegaConf.load(CONFIG))
    for section, values in changes.items():
        cfg[section] = cfg[section] | values if isinstance(values, dict) else values
    return SafetyLimits.decode(cfg)


class Run(NamedTuple):
    """Poses that were sent, (ticks + 1, joints), the first at a standstill, with what `Auditor.reactions` needs.

    provoked: True if a joint was stuck or overloaded before its end.
    """

    poses: np.ndarray
    commands: np.ndarray
    reactions: np.ndarray
    aligned: bool
    provoked: bool


class Attacker:
    """Player of attacks against one layer."""

    def __init__(self, layer: SafetyLayer) -> None:
        self.layer = layer
        joints = layer.limits.joints.values()
        self._low, self._high = (np.array([getattr(joint, end) for joint in joints]) for end in ("min", "max"))
        self._step = np.array([joint.speed for joint in joints]) / layer.limits.rate_hz
        self._now = 0.0
        self._wrong, self._overloaded = np.zeros_like(self._low), 0  # of the sequence's disturbances
        self._stuck: np.ndarray | None = None  # pose in which the arm is stuck

    def play(self, kind: str, seed: int, ticks: int, disturb: bool = True) -> list[Run]:
        """Runs that each begin at a standstill."""
        rng = np.random.default_rng(seed)
        start = self._start(rng)
        commands = KINDS[kind](Attack(rng, self._low, self._high, self._step, start, ticks))
        calm = not disturb or rng.random() < 0.25
        self._overloaded, self._stuck, provoked = int(rng.integers(len(start))), None, False
        kinds_of_wrong = [rng.normal(0, 40, len(start)), rng.choice([-360.0, 0, 360], len(start)), np.full(6, 1e308)]
        self._wrong = kinds_of_wrong[rng.integers(3)]
        runs = [[start]]
        heard: list[list[tuple[np.ndarray, Reaction, bool]]] = [[]]  # command, reaction, provoked
        aligned = [True]
        for command, disturbance in zip(commands, self._disturbances(rng, calm), strict=False):
            self._now += disturbance.pop("gap")
            if disturbance.pop("resume"):
                runs.append([runs[-1][-1]])
                heard.append([])
                aligned.append(False)
                self.layer.resume(self._now, ArmState.of(runs[-1][-1], self._now))
            if disturbance.pop("late"):
                self._now += 0.2
                runs.append([runs[-1][-1]])
                aligned.append(aligned[-1] and not heard[-1])  # a pause before the first tick does not count
                heard.append([])
            if disturbance.pop("press"):
                self.layer.emergency_stop.press("attack")
            state = self._state(rng, runs[-1][-1], disturbance)
            view = PersonView(float(disturbance["person"]), self._now - 0.05)
            sent = self.layer.step(self._now, None if disturbance["silent"] else command, state, view)
            if disturbance["early"]:
                again = self.layer.step(self._now + 0.001, -command, state, view)
                assert again is sent
            runs[-1].append(sent.position.copy())
            provoked |= disturbance["stuck"] or disturbance["overload"]
            heard[-1].append((command * np.nan if disturbance["silent"] else command, sent.reaction, provoked))
        return [
            Run(
                np.array(poses),
                np.array([command for command, _, _ in ticks]),
                np.array([reaction for _, reaction, _ in ticks]),
                was_aligned,
                ticks[-1][2],
            )
            for poses, ticks, was_aligned in zip(runs, heard, aligned, strict=True)
            if ticks
        ]

    def _start(self, rng: np.random.Generator) -> np.ndarray:
        """A pose within every limit, from which the layer has been started."""
        self._now += 10
        while True:
            start = rng.uniform(self._low, self._high)
            self.layer.emergency_stop.release()
            if not self.layer.start(self._now, ArmState.of(start, self._now)):
                return start

    def _state(self, rng: np.random.Generator, sent: np.ndarray, disturbance: dict[str, Any]) -> ArmState | None:
        if disturbance["blind"]:
            return None
        state = ArmState.of(sent, self._now - disturbance["age"])
        state.load[:], state.temperature[:] = 0.2, 35
        self._stuck = (sent if self._stuck is None else self._stuck) if disturbance["stuck"] else None
        if self._stuck is not None:
            state.position[:] = np.nan if rng.random() < 0.02 else self._stuck
        if disturbance["wrong"]:
            state.position[:] += self._wrong
        if disturbance["overload"]:
            state.load[self._overloaded] = -0.95
        if disturbance["hot"]:
            state.temperature[0] = 75
        return state

    def _disturbances(self, rng: np.random.Generator, calm: bool) -> Iterator[dict[str, Any]]:
        """Disturbances per tick: each kind begins with a random probability and lasts for some ticks."""
        tick = 1 / self.layer.limits.rate_hz
        lasting = {
            name: 0 if calm or rng.random() < 0.6 else rng.uniform(0.01, 0.1)
            for name in ("silent", "blind", "wrong", "stuck", "overload", "hot", "person")
        }
        single = {
            name: 0 if calm or rng.random() < 0.6 else rng.uniform(0.005, 0.05)
            for name in ("early", "late", "press", "resume")
        }
        left = dict.fromkeys(lasting, 0)
        while True:
            for name, probability in lasting.items():
                begins = left[name] <= 0 and rng.random() < probability
                left[name] = int(rng.integers(1, 40)) if begins else left[name] - 1
            happens: dict[str, Any] = {name: left[name] > 0 for name in lasting}
            happens |= {name: rng.random() < probability for name, probability in single.items()}
            jitter = 0.0 if calm else rng.uniform(-0.3, 0.3)
            yield happens | {"gap": tick * (1 + jitter), "age": rng.choice([0.0, 0.1, 0.5], p=[0.6, 0.39, 0.01])}


def attack(kinds: list[str], sequences: int, ticks: int, seed: int, between: int) -> dict[str, Any]:
    """Number of limits that the sequences broke, with a text for the first ten.

    Every other round of kinds is played in a workspace so narrow that its walls are reached, with an arm that retreats.
    """
    watched = {"enabled": True}
    retreat = {"then": "retreat", "retreat_s": 0.4}
    rooms = [make_limits(person=watched), make_limits(person=watched, workspace=NARROW, watchdog=retreat)]
    layers = [SafetyLayer(limits) for limits in rooms]
    attackers, auditors = [Attacker(layer) for layer in layers], [Auditor(limits) for limits in rooms]
    broken: list[str] = []
    poses = 0
    for number in range(sequences):
        kind, room = kinds[number % len(kinds)], number // len(kinds) % 2
        for run in attackers[room].play(kind, seed + number, ticks):
            faults = auditors[room].broken(run.poses, between) + auditors[room].reactions(*run[:4])
            if Reaction.GIVE_WAY in run.reactions and not run.provoked:
                faults.append("a joint gives way to a wrong reading")
            broken += [f"{kind}, seed {seed + number}: {fault}" for fault in faults]
            poses += len(run.poses) - 1
        if (number + 1) % 500 == 0:
            print(f"{number + 1} sequences, {len(broken)} violations", file=sys.stderr, flush=True)
    causes: Counter[str] = Counter()
    for layer in layers:
        causes.update({cause: counts["ticks"] for cause, counts in layer.report.to_dict()["causes"].items()})
    result = {"sequences": sequences, "ticks_a_sequence": ticks, "poses_audited": poses, "violations": len(broken)}
    return result | {"first_violations": broken[:10], "ticks_by_cause": dict(causes), "kinds": kinds}


def cost(ticks: int, seed: int) -> dict[str, Any]:
    """Microseconds per tick for a policy's commands, for goals that jump, and for a hand sent into the table."""
    rng = np.random.default_rng(seed)
    low, high = np.array([-60, -70, 40, 30, -60, 0.0]), np.array([60, -40, 70, 60, 60, 100])
    phase, rate = rng.uniform(0, 6, 6), rng.uniform(0.02, 0.04, 6)
    smooth = [(low + high) / 2 + (high - low) / 2 * np.sin(rate * tick + phase) for tick in range(ticks)]
    goals = Attack(rng, low, high, np.zeros(6), REST, ticks).held(lambda: rng.uniform(low, high), 15)
    pressed = np.array(smooth) + np.array([0, 70, 0, 0, 0, 0])
    result: dict[str, Any] = {}
    for name, commands in (("policy", smooth), ("jumping_goals", goals), ("into_the_table", pressed)):
        layer = SafetyLayer(make_limits())
        layer.start(0.0, ArmState.of(REST, 0.0))
        state = ArmState.of(REST, 0.0)
        wall, cpu = np.zeros(ticks), np.zeros(ticks)
        for tick, command in enumerate(commands):
            state.time = now = (tick + 1) / layer.limits.rate_hz
            clock, thread = time.perf_counter(), time.thread_time()
            sent = layer.step(now, command, state)
            wall[tick], cpu[tick] = time.perf_counter() - clock, time.thread_time() - thread
            state.position[:] = sent.position
        causes = {cause: counts["ticks"] for cause, counts in layer.report.to_dict()["causes"].items()}
        result[name] = {"ticks_by_cause": causes} | {
            f"{kind}_us": {f"p{q}": round(float(np.percentile(times, q)) * 1e6, 1) for q in (50, 90, 99)}
            | {"mean": round(float(times.mean()) * 1e6, 1)}
            for kind, times in (("wall", wall), ("cpu", cpu))
        }
    return result


def table(result: dict[str, Any]) -> str:
    """CPU time of a tick by kind of commands, and the number of limits that the attacks broke."""
    rows = [{"commands": name} | figures["cpu_us"] for name, figures in result["cost"].items()]
    attacks = f"{result['sequences']} sequences, {result['poses_audited']} poses: {result['violations']} limits broken."
    titles = {"commands": "commands", "p50": "median (µs)", "mean": "mean (µs)", "p99": "99% (µs)"}
    return f"{markdown(rows, titles)}\n\n{attacks}"


@dataclass
class Settings:
    """Settings of the command line."""

    sequences: int = setting(10_000, "attacks")
    ticks: int = setting(60, "ticks per attack")
    kinds: list[str] = setting(list(KINDS), "kinds of attacks, in turns", KINDS)
    between: int = setting(1, "poses audited between two that were sent")
    timed: int = setting(5000, "timed ticks")
    seed: int = setting(0, "seed of the attacks")


def main(settings: Settings) -> None:
    logging.disable(logging.WARNING)
    result = Machine().describe(1) | {"cost": cost(settings.timed, settings.seed)}
    result |= attack(settings.kinds, settings.sequences, settings.ticks, settings.seed, settings.between)
    keep("safety_cost", result, f"{Machine().title(1)}\n\n{table(result)}")
    print(json.dumps(result))


if __name__ == "__main__":
    start(main, Settings, __doc__)
