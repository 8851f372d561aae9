"""What can go wrong with an arm, on command: on the wire, in a servo, in a joint, at a camera."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tinyvla.errors import UserError

from .bare_arm import JOINTS
from .bus import Bus
from .camera_rendering import CameraProcess
from .physics import ArmPhysics
from .serial_port import SerialPort
from .servo import AMBIENT

_OVERHEATED = 90.0  # °C


@dataclass(frozen=True)
class Kind:
    """begin and end take (joint, value). on: "line", "motor" or "camera", what the fault strikes. value: the default
    of its number, None if it has none."""

    about: str
    on: str
    begin: Callable[[int, float], None]
    end: Callable[[int, float], None]
    value: float | None = None


@dataclass(frozen=True)
class Fault:
    """One that is in force. target: joint or camera; None strikes all."""

    kind: str
    target: str | None
    value: float
    until: float


class Faults:
    """The faults of one twin, in force until they are cleared or their time is up. Times are seconds of its clock."""

    def __init__(self, physics: ArmPhysics, bus: Bus, port: SerialPort, cameras: CameraProcess | None):
        self.active: list[Fault] = []
        self._cameras = cameras.cameras if cameras else []
        servos = physics.servos

        def nothing(*_: float) -> None:
            pass

        def heat(joint: int, to: float) -> None:
            servos[joint].heated_to = to
            servos[joint].temperature = max(to, AMBIENT)

        def line(**values: float) -> None:
            for name, value in values.items():
                setattr(port, name, value)

        self.kinds = {
            "drop": Kind("bytes get lost; number: share of them", "line",
                         lambda _, v: line(drop=v), lambda *_: line(drop=0.0), 0.02),
            "corrupt": Kind("bytes have a bit flipped; number: share of them", "line",
                            lambda _, v: line(corrupt=v), lambda *_: line(corrupt=0.0), 0.02),
            "late": Kind("answers are late; number: by how many seconds", "line",
                         lambda _, v: line(late=v), lambda *_: line(late=0.0), 0.1),
            "unplug": Kind("the USB cable is pulled", "line", lambda *_: port.unplug(), lambda *_: port.plug()),
            "sag": Kind("the supply is too weak", "line",
                        lambda *_: physics.power_sag(), lambda *_: physics.power_sag(False)),
            "silent": Kind("a servo hears and says nothing", "motor",
                           lambda j, _: bus.silent.add(j), lambda j, _: bus.silent.discard(j)),
            "overheat": Kind("a servo is too hot; number: °C", "motor", heat, lambda j, _: heat(j, 0.0), _OVERHEATED),
            "overload": Kind("something pushes against a joint; number: with N·m", "motor",
                             physics.push, lambda j, _: physics.push(j, 0.0), 3.2),
            "stuck": Kind("a joint does not move", "motor",
                          lambda j, _: physics.jam(j), lambda j, _: physics.jam(j, False)),
            "brown_out": Kind("a servo loses power for a moment and starts anew", "motor",
                              lambda j, _: physics.brown_out(j), nothing),
            "camera_stops": Kind("no new pictures", "camera", *_camera_fault(cameras, "stopped")),
            "camera_repeats": Kind("the same picture again and again", "camera", *_camera_fault(cameras, "repeating")),
            "camera_late": Kind("pictures come late; number: by how many seconds", "camera",
                                *_camera_fault(cameras, "late"), 1.0),
        }  # fmt: skip

    def inject(self, kind: str, target: str | None, value: float | None, until: float) -> Fault:
        """Make something go wrong until the time `until` (inf: until cleared). Raises UserError for what cannot."""
        entry = self.kinds.get(kind)
        if entry is None:
            raise UserError(f"no fault is called {kind!r}; there are {', '.join(self.kinds)}")
        targets = {"motor": list(JOINTS), "camera": self._cameras, "line": []}[entry.on]
        if target is not None and target not in targets:
            raise UserError(f"{kind} does not strike {target!r}; name one of {', '.join(targets) or 'none'}")
        if value is not None and entry.value is None:
            raise UserError(f"{kind} takes no number")
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise UserError(f"{kind} {value} is no fault; its number is finite and at least 0")
        fault = Fault(kind, target, entry.value or 0.0 if value is None else value, until)
        self.clear(kind, target)
        for index in _indices(fault.target, targets):
            entry.begin(index, fault.value)
        self.active.append(fault)
        return fault

    def clear(self, kind: str | None = None, target: str | None = None) -> None:
        """End all faults, or those of one kind, or of one kind and target."""
        self._end(f for f in self.active if kind in (None, f.kind) and target in (None, f.target))

    def expire(self, now: float) -> None:
        """End the faults whose time is up."""
        self._end(f for f in self.active if f.until <= now)

    def _end(self, faults: Iterable[Fault]) -> None:
        for fault in list(faults):
            entry = self.kinds[fault.kind]
            targets = {"motor": list(JOINTS), "camera": self._cameras, "line": []}[entry.on]
            for index in _indices(fault.target, targets):
                entry.end(index, fault.value)
            self.active.remove(fault)


def _indices(target: str | None, targets: list[str]) -> list[int]:
    """What a fault strikes, as indices; faults of the line strike once."""
    if not targets:
        return [0]
    return list(range(len(targets))) if target is None else [targets.index(target)]


def _camera_fault(
    cameras: CameraProcess | None, trouble: str
) -> tuple[Callable[[int, float], None], Callable[[int, float], None]]:
    def begin(camera: int, value: float) -> None:
        if cameras:
            cameras.disturb(camera, trouble, value or 1.0)

    def end(camera: int, _: float) -> None:
        if cameras:
            cameras.disturb(camera, trouble, 0.0)

    return begin, end
