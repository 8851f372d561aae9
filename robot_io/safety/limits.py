"""Limits of a robot, decoded from `configs/safety/<robot>.yaml`; values without sense are refused with a UserError.

To add a limit, add a field with its default and its range here, and read it in the monitor that enforces it. Files that
do not name it keep working. The defaults are those of an SO-101.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tinyvla.decoding import decode_section
from tinyvla.errors import UserError

MODELS = ("so101",)
AFTER_SILENCE = ("hold", "retreat")


class _Range(NamedTuple):
    """Range of a field: lowest value, whether it is itself allowed, highest value, and the sentence about others."""

    low: float
    low_allowed: bool
    high: float
    fault: str


def _positive(default: float) -> Any:
    """Field above 0."""
    fault = "switches a protection off; give a number above 0"
    return field(default=default, metadata={"range": _Range(0, False, math.inf, fault)})


def _share(default: float) -> Any:
    """Field above 0, at most 1."""
    return field(
        default=default, metadata={"range": _Range(0, False, 1, "is not a share; give a number above 0, at most 1")}
    )


def _clearance(default: float) -> Any:
    """Field from 0 to 0.1 metres."""
    return field(default=default, metadata={"range": _Range(0, True, 0.1, "m does not make sense; give 0 to 0.1")})


def _speed() -> Any:
    """Required field above 0."""
    return field(metadata={"range": _Range(0, False, math.inf, "forbids every motion; give a number above 0")})


@dataclass(frozen=True)
class JointLimits:
    """Limits of one joint, in LeRobot's units: degrees, or 0 to 100 for a gripper; per second, per second², ..."""

    min: float
    max: float
    speed: float = _speed()
    acceleration: float = _speed()
    jerk: float = _speed()


@dataclass(frozen=True)
class Workspace:
    """Box that every moving part stays in, and the height of the table, in metres in the base's frame.

    Args:
        x, y: lowest and highest coordinate.
        z_max: highest coordinate.
        table: height of the table under the arm's base.
        clearance: distance from the table and the walls.
    """

    x: tuple[float, float] = (-0.25, 0.50)
    y: tuple[float, float] = (-0.45, 0.45)
    z_max: float = 0.60
    table: float = 0.0
    clearance: float = _clearance(0.004)


@dataclass(frozen=True)
class SelfCollision:
    """Distance between links that can meet, in metres."""

    clearance: float = _clearance(0.005)


@dataclass(frozen=True)
class Servo:
    """Limits of what the servos report. Loads and torques are shares of the greatest torque that a servo may use.

    Args:
        load: greatest load.
        load_s: seconds over `load` after which a joint gives way to its position.
        temperature: in °C, above which the arm stops.
        temperature_resume: in °C, below which it goes on.
        lag: greatest distance of a joint to its command, in its units.
        lag_s: seconds over `lag` after which a joint counts as stuck and gives way to its position.
        clear_s: seconds without a fault until commands are followed again.
        torque: share of torque while a joint gives way or is hot.
        required: hold an arm that does not report load and temperature.
        grippers: joints that hold objects, so that they may lag and push; None: those whose name ends in
            gripper.
    """

    load: float = _share(0.8)
    load_s: float = _positive(0.5)
    temperature: float = 60.0
    temperature_resume: float = 55.0
    lag: float = _positive(25.0)
    lag_s: float = _positive(0.5)
    clear_s: float = _positive(1.0)
    torque: float = _share(0.5)
    required: bool = False
    grippers: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Watchdog:
    """Reaction to commands, readings of the arm, or images that stop coming.

    Args:
        hold_s: seconds without a fresh command until the arm stops and holds.
        state_s: seconds without a reading of the arm until it stops and holds.
        picture_s: greatest age of an image, and longest time for which it may repeat while the arm moves; otherwise
            the reading of the arm counts as failed.
        retreat_s: seconds without a fresh command until the arm retreats, or holds with less torque.
        then: "hold" or "retreat".
        retreat_pose: (joints,); may be left out with `then` = "hold".
        retreat_speed: share of the speed limits.
        torque: share of torque from `retreat_s` on.
    """

    hold_s: float = _positive(0.2)
    state_s: float = _positive(0.3)
    picture_s: float = _positive(0.5)
    retreat_s: float = 2.0
    then: str = "hold"
    retreat_pose: tuple[float, ...] = ()
    retreat_speed: float = _share(0.25)
    torque: float = _share(0.5)


@dataclass(frozen=True)
class Person:
    """Stop of the arm while a person is in view.

    Args:
        enabled: needs a detector, because the arm is held without fresh frames.
        probability: of a person in a frame, from which the arm stops.
        frame_s: greatest age of the newest judged frame; otherwise the arm is held.
        resume_s: seconds without a person until commands are followed again.
    """

    enabled: bool = False
    probability: float = _share(0.5)
    frame_s: float = _positive(0.5)
    resume_s: float = _positive(2.0)


@dataclass(frozen=True)
class Emergency:
    """Emergency stop.

    Args:
        torque_off_s: seconds from the stop until torque is cut; None: hold.
    """

    torque_off_s: float | None = 1.0


@dataclass(frozen=True)
class SafetyLimits:
    """All limits of a robot. Raises UserError, naming the setting, for a value without sense.

    Args:
        joints: by name, in the order of the action.
        model: whose geometry is checked; None for an arm without a model: no workspace, no self-collision.
        rate_hz: of the control loop.
        align_speed: share of the speed limits after a hold, until the command is near the arm again.
    """

    joints: Mapping[str, JointLimits]
    model: str | None = None
    rate_hz: float = 30.0
    align_speed: float = _share(0.25)
    workspace: Workspace = field(default_factory=Workspace)
    self_collision: SelfCollision = field(default_factory=SelfCollision)
    servo: Servo = field(default_factory=Servo)
    watchdog: Watchdog = field(default_factory=Watchdog)
    person: Person = field(default_factory=Person)
    emergency_stop: Emergency = field(default_factory=Emergency)

    def __post_init__(self) -> None:
        for name, value, valid in _values(self, "safety"):
            _check_value(name, value, valid)
        _check_motion(self)
        _check_workspace(self.workspace)
        _check_reactions(self)

    @property
    def grips(self) -> list[bool]:
        """True for each joint that holds objects, (joints,)."""
        grippers = self.servo.grippers
        return [joint.endswith("gripper") if grippers is None else joint in grippers for joint in self.joints]

    @classmethod
    def decode(cls, section: Mapping[str, Any]) -> "SafetyLimits":
        """Decode a `safety` section; what it leaves out has its default.

        Raises UserError, naming the setting, for an unknown setting, another type, or a value without sense.
        """
        if "model" not in section:  # without it, nothing would keep the arm from the table and from itself
            raise UserError(f"safety.model is not given; there is {', '.join(MODELS)}, or null")
        if not section.get("joints"):
            raise UserError("safety.joints is empty; list every joint of the arm with min, max, speed, ...")
        return decode_section(cls, section, "safety")


def _values(section: Any, name: str) -> Iterator[tuple[str, Any, _Range | None]]:
    """Dotted name, value and range of every number in a section and the sections in it."""
    for entry in dataclasses.fields(section):
        value, key = getattr(section, entry.name), f"{name}.{entry.name}"
        if dataclasses.is_dataclass(value):
            yield from _values(value, key)
        elif isinstance(value, Mapping):
            for joint, limits in value.items():
                yield from _values(limits, f"{key}.{joint}")
        elif isinstance(value, tuple):
            yield from ((key, number, None) for number in value)
        else:
            yield key, value, entry.metadata.get("range")


def _check_value(name: str, value: Any, valid: _Range | None) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name}={value} is not a finite number; give one")
    if valid is None:
        return
    above = value >= valid.low if valid.low_allowed else value > valid.low
    if not (above and value <= valid.high):
        raise UserError(f"{name}={value:g} {valid.fault}")


def _need(valid: bool, message: str) -> None:
    if not valid:
        raise UserError(f"safety.{message}")


def _check_motion(limits: SafetyLimits) -> None:
    _need(limits.model in (None, *MODELS), f"model={limits.model} is unknown; there is {', '.join(MODELS)}, or null")
    _need(1 <= limits.rate_hz <= 500, f"rate_hz={limits.rate_hz:g} is not a rate of a control loop; give 1 to 500")
    for name, joint in limits.joints.items():
        key = f"joints.{name}"
        _need(joint.min < joint.max, f"{key}: min {joint.min:g} is not below max {joint.max:g}; swap or widen them")
        ticks = joint.speed / joint.acceleration * limits.rate_hz
        _need(ticks <= 50, f"{key}: {joint.acceleration:g} takes over 50 ticks to stop from full speed; raise it")
        _need(
            joint.acceleration * limits.rate_hz <= 50 * joint.jerk,
            f"{key}: with a jerk of {joint.jerk:g} full acceleration takes over 50 ticks; raise jerk",
        )


def _check_workspace(box: Workspace) -> None:
    for axis, (low, high) in (("x", box.x), ("y", box.y)):
        _need(low < high, f"workspace.{axis}=[{low:g}, {high:g}] is empty; give [low, high]")
    _need(box.table < box.z_max, f"workspace.z_max={box.z_max:g} is not above the table at {box.table:g}; raise it")


def _check_reactions(limits: SafetyLimits) -> None:
    servo, watchdog, joints = limits.servo, limits.watchdog, limits.joints
    for gripper in servo.grippers or ():
        _need(gripper in joints, f"servo.grippers: there is no joint {gripper!r}; name some of {', '.join(joints)}")
    _need(
        20 <= servo.temperature_resume < servo.temperature <= 80,
        f"servo.temperature={servo.temperature:g} and temperature_resume={servo.temperature_resume:g} do not go "
        "together; give 20 <= temperature_resume < temperature <= 80",
    )
    choices = ", ".join(AFTER_SILENCE)
    _need(watchdog.then in AFTER_SILENCE, f"watchdog.then={watchdog.then} is unknown; there is {choices}")
    _need(
        watchdog.hold_s * limits.rate_hz >= 1,
        f"watchdog.hold_s={watchdog.hold_s:g} is shorter than a tick, so the arm would never move; raise it",
    )
    _need(
        watchdog.retreat_s > watchdog.hold_s,
        f"watchdog.retreat_s={watchdog.retreat_s:g} is not above hold_s; raise it",
    )
    pose = watchdog.retreat_pose
    _need(
        len(pose) == len(joints) or (not pose and watchdog.then == "hold"),
        f"watchdog.retreat_pose has {len(pose)} numbers; give one for each of {', '.join(joints)}",
    )
    for (name, joint), angle in zip(joints.items(), pose, strict=bool(pose)):
        _need(
            joint.min <= angle <= joint.max,
            f"watchdog.retreat_pose: {angle:g} of {name} is outside its limits {joint.min:g} to {joint.max:g}",
        )
    delay = limits.emergency_stop.torque_off_s
    _need(delay is None or delay >= 0, "emergency_stop.torque_off_s is negative; give seconds, or null")
