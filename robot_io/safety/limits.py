"""The limits of a robot, decoded from `configs/safety/<robot>.yaml`; nonsense is refused with a UserError."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tinyvla.errors import UserError

MODELS = ("so101",)
AFTER_SILENCE = ("hold", "retreat")


@dataclass(frozen=True)
class JointLimits:
    """Of one joint, in LeRobot's units for it: degrees, or 0 to 100 for a gripper; per second, per second², ..."""

    min: float
    max: float
    speed: float
    acceleration: float
    jerk: float


@dataclass(frozen=True)
class Workspace:
    """The box that every moving part stays in and the table's height, in metres in the base's frame."""

    x: tuple[float, float]
    y: tuple[float, float]
    z_max: float
    table: float
    clearance: float


@dataclass(frozen=True)
class SelfCollision:
    """Distance kept between links that can meet, in metres."""

    clearance: float


@dataclass(frozen=True)
class Servo:
    """What the servos may report. Loads and torques are shares of a servo's greatest torque, temperatures in °C."""

    load: float
    load_s: float
    temperature: float
    temperature_resume: float
    lag: float
    lag_s: float
    clear_s: float
    torque: float
    required: bool


@dataclass(frozen=True)
class Watchdog:
    """What happens when commands, readings of the arm, or pictures stop coming.

    picture_s is for those who read the cameras: an older picture counts as a reading that failed.
    """

    hold_s: float
    state_s: float
    picture_s: float
    retreat_s: float
    then: str
    retreat_pose: tuple[float, ...]
    retreat_speed: float
    torque: float


@dataclass(frozen=True)
class Person:
    """The gate that stops the arm while a person is in view."""

    enabled: bool
    probability: float
    frame_s: float
    resume_s: float


@dataclass(frozen=True)
class Emergency:
    """Seconds from an emergency stop until torque is cut, None to keep holding."""

    torque_off_s: float | None


@dataclass(frozen=True)
class SafetyLimits:
    """All limits of a robot."""

    model: str | None
    rate_hz: float
    joints: Mapping[str, JointLimits]
    workspace: Workspace
    self_collision: SelfCollision
    servo: Servo
    watchdog: Watchdog
    person: Person
    emergency_stop: Emergency

    @classmethod
    def decode(cls, cfg: Mapping[str, Any]) -> "SafetyLimits":
        """The limits that a `safety` configuration describes.

        Raises UserError, naming the setting, for one that is missing, unknown, of a wrong kind or senseless.
        """
        sections = dict(cfg)
        joints = sections.get("joints")
        if not isinstance(joints, Mapping) or not joints:
            raise UserError("safety.joints is empty; list every joint of the arm with min, max, speed, ...")
        sections["joints"] = {
            str(name): _section(JointLimits, values, f"safety.joints.{name}") for name, values in joints.items()
        }
        limits = _section(cls, sections, "safety")
        _check(limits)
        return limits


def _section(kind: Any, cfg: Any, where: str) -> Any:
    """A dataclass from a mapping, every value of the kind that its annotation says."""
    if not isinstance(cfg, Mapping):
        raise UserError(f"{where} is not a section; set {', '.join(f.name for f in dataclasses.fields(kind))} in it")
    hints = typing.get_type_hints(kind)
    if unknown := sorted(set(map(str, cfg)) - set(hints)):
        raise UserError(f"unknown setting {where}.{unknown[0]}; there is {', '.join(hints)}")
    if missing := [name for name in hints if name not in cfg]:
        raise UserError(f"{where}.{missing[0]} is not given; take its value from configs/safety/so101.yaml")
    return kind(**{name: _value(hint, cfg[name], f"{where}.{name}") for name, hint in hints.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    if isinstance(hint, types.UnionType):
        return None if value is None else _value(typing.get_args(hint)[0], value, where)
    if dataclasses.is_dataclass(hint):
        return _section(hint, value, where)
    if hint is float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{where}={value} is not a finite number; give one")
        return float(value)
    if hint is bool and not isinstance(value, bool):
        raise UserError(f"{where}={value} is not true or false; give one of them")
    if typing.get_origin(hint) is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise UserError(f"{where}={value} is not a list; write [low, high] or a number a joint")
        expected = typing.get_args(hint)
        if Ellipsis not in expected and len(value) != len(expected):
            raise UserError(f"{where} has {len(value)} numbers; give {len(expected)}: [low, high]")
        return tuple(_value(float, number, where) for number in value)
    return value


def _check(limits: SafetyLimits) -> None:
    def need(sensible: bool, what: str) -> None:
        if not sensible:
            raise UserError(f"safety.{what}")

    def positive(section: str, *names: str) -> None:
        for name in names:
            value = getattr(getattr(limits, section), name)
            need(value > 0, f"{section}.{name}={value:g} switches a protection off; give a number above 0")

    def share(section: str, *names: str) -> None:
        for name in names:
            value = getattr(getattr(limits, section), name)
            need(0 < value <= 1, f"{section}.{name}={value:g} is no share; give a number above 0, at most 1")

    need(limits.model in (None, *MODELS), f"model={limits.model} is unknown; there is {', '.join(MODELS)}, or null")
    need(1 <= limits.rate_hz <= 500, f"rate_hz={limits.rate_hz:g} is no rate of a control loop; give 1 to 500")
    for name, joint in limits.joints.items():
        where = f"joints.{name}"
        need(joint.min < joint.max, f"{where}: min {joint.min:g} is not below max {joint.max:g}; swap or widen them")
        for field in ("speed", "acceleration", "jerk"):
            value = getattr(joint, field)
            need(value > 0, f"{where}.{field}={value:g} forbids every motion; give a number above 0")
        ticks = joint.speed / joint.acceleration * limits.rate_hz
        need(ticks <= 50, f"{where}: {joint.acceleration:g} takes over 50 ticks to stop from full speed; raise it")
        need(
            joint.acceleration * limits.rate_hz <= 50 * joint.jerk,
            f"{where}: with a jerk of {joint.jerk:g} full acceleration takes over 50 ticks; raise jerk",
        )
    box = limits.workspace
    for axis in ("x", "y"):
        low, high = getattr(box, axis)
        need(low < high, f"workspace.{axis}=[{low:g}, {high:g}] is empty; give [low, high]")
    need(box.table < box.z_max, f"workspace.z_max={box.z_max:g} is not above the table at {box.table:g}; raise it")
    for section in ("workspace", "self_collision"):
        clearance = getattr(limits, section).clearance
        need(0 <= clearance <= 0.1, f"{section}.clearance={clearance:g} m is senseless; give 0 to 0.1")
    servo = limits.servo
    share("servo", "load", "torque")
    positive("servo", "lag", "load_s", "lag_s", "clear_s")
    need(
        20 <= servo.temperature_resume < servo.temperature <= 80,
        f"servo.temperature={servo.temperature:g} and temperature_resume={servo.temperature_resume:g} do not go "
        "together; give 20 <= temperature_resume < temperature <= 80",
    )
    dog = limits.watchdog
    positive("watchdog", "hold_s", "state_s", "picture_s")
    share("watchdog", "retreat_speed", "torque")
    need(dog.then in AFTER_SILENCE, f"watchdog.then={dog.then} is unknown; there is {', '.join(AFTER_SILENCE)}")
    need(
        dog.hold_s * limits.rate_hz >= 1,
        f"watchdog.hold_s={dog.hold_s:g} is shorter than a tick, so the arm would never move; raise it",
    )
    need(dog.retreat_s > dog.hold_s, f"watchdog.retreat_s={dog.retreat_s:g} is not above hold_s; raise it")
    need(
        len(dog.retreat_pose) == len(limits.joints),
        f"watchdog.retreat_pose has {len(dog.retreat_pose)} numbers; give one for each of {', '.join(limits.joints)}",
    )
    for (name, joint), angle in zip(limits.joints.items(), dog.retreat_pose, strict=True):
        need(
            joint.min <= angle <= joint.max,
            f"watchdog.retreat_pose: {angle:g} of {name} is outside its limits {joint.min:g} to {joint.max:g}",
        )
    share("person", "probability")
    positive("person", "frame_s", "resume_s")
    delay = limits.emergency_stop.torque_off_s
    need(delay is None or delay >= 0, "emergency_stop.torque_off_s is negative; give seconds, or null")
