"""Faults of an arm on command: on the wire, in a servo, in a joint, at a camera."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tinyvla.arms.so101 import SO101
from tinyvla.errors import UserError

from ..feetech.protocol import ErrorBit
from .bus import Bus
from .camera_rendering import CameraProcess
from .physics import ArmPhysics
from .serial_port import SerialPort
from .servo import AMBIENT

_OVERHEATED = 90.0  # °C
_ALL_ERRORS = 0x7F


@dataclass(frozen=True)
class FaultKind:
    """FaultKind of fault.

    Args:
        about: help text.
        on: "line", "motor" or "camera".
        begin, end: called with the index of the joint or camera (0 for the line) and the fault's number.
        value: default of the number; None if the kind takes no number.
    """

    about: str
    on: str
    begin: Callable[[int, float], None]
    end: Callable[[int, float], None]
    value: float | None = None


@dataclass(frozen=True)
class Fault:
    """Active fault. target: joint or camera, None for all; until: time of its end on the twin's clock."""

    kind: str
    target: str | None
    value: float
    until: float


class Faults:
    """Faults of one twin, active until they are cleared or expire. Times are seconds on its clock."""

    def __init__(
        self,
        physics: ArmPhysics,
        bus: Bus,
        port: SerialPort,
        cameras: CameraProcess | None,
        clock: Callable[[], float],
    ):
        self.active: list[Fault] = []
        self._targets = {"motor": list(SO101.joints), "camera": cameras.cameras if cameras else [], "line": []}
        servos = physics.servos

        def nothing(*_: float) -> None:
            pass

        def heat(joint: int, to: float) -> None:
            servos[joint].heated_to = to
            servos[joint].temperature = max(to, AMBIENT)

        def line_fault(about: str, name: str, value: float) -> FaultKind:
            def begin(_: int, value: float) -> None:
                port.faults[name] = value

            return FaultKind(about, "line", begin, lambda *_: begin(0, 0.0), value)

        def use_next_id(joint: int, _: float) -> None:
            port.senders[servos[joint].id] = servos[(joint + 1) % len(servos)].id

        def use_own_id(joint: int, _: float) -> None:
            port.senders.pop(servos[joint].id, None)

        def report(joint: int, error: float) -> None:
            port.errors[servos[joint].id] = int(error) & _ALL_ERRORS

        self.kinds = {
            "drop": line_fault("bytes get lost; number: share of them", "drop", 0.02),
            "corrupt": line_fault("bytes have a bit flipped; number: share of them", "corrupt", 0.02),
            "late": line_fault("answers are late; number: by how many seconds", "late", 0.1),
            "stall": FaultKind("answers are held back once, then all arrive; number: for how many seconds", "line",
                               lambda _, s: port.hold(clock() + s), lambda *_: port.hold(0.0), 0.1),
            "double": line_fault("the next answers are sent twice; number: of answers", "double", 6),
            "wrong_id": FaultKind("a servo answers with the id of the next", "motor", use_next_id, use_own_id),
            "error_byte": FaultKind("a servo reports a fault with every answer; number: its error bits", "motor",
                                    report, lambda j, _: report(j, 0), ErrorBit.OVERLOAD),
            "unplug": FaultKind("the USB cable is pulled", "line", lambda *_: port.unplug(), lambda *_: port.plug()),
            "sag": FaultKind("the supply is too weak", "line",
                             lambda *_: physics.power_sag(), lambda *_: physics.power_sag(False)),
            "silent": FaultKind("a servo does not answer", "motor",
                                lambda j, _: bus.silent.add(j), lambda j, _: bus.silent.discard(j)),
            "overheat": FaultKind("a servo is too hot; number: °C", "motor",
                                  heat, lambda j, _: heat(j, 0.0), _OVERHEATED),
            "overload": FaultKind("something pushes against a joint; number: with N·m", "motor",
                                  physics.push, lambda j, _: physics.push(j, 0.0), 3.2),
            "stuck": FaultKind("a joint does not move", "motor",
                               lambda j, _: physics.jam(j), lambda j, _: physics.jam(j, False)),
            "brown_out": FaultKind("a servo loses power for a moment and starts again", "motor",
                                   lambda j, _: physics.brown_out(j), nothing),
            "camera_stops": FaultKind("no new images", "camera", *_camera_fault(cameras, "stopped")),
            "camera_repeats": FaultKind("the same image again", "camera", *_camera_fault(cameras, "repeating")),
            "camera_late": FaultKind("images come late; number: by how many seconds", "camera",
                                     *_camera_fault(cameras, "late"), 1.0),
        }  # fmt: skip

    def inject(self, kind: str, target: str | None, value: float | None, until: float) -> Fault:
        """Begin a fault until the time `until` (inf: until cleared). Raises UserError if there is no such fault."""
        entry = self.kinds.get(kind)
        if entry is None:
            raise UserError(f"no fault is called {kind!r}; there are {', '.join(self.kinds)}")
        targets = self._targets[entry.on]
        if target is not None and target not in targets:
            raise UserError(f"{kind} does not strike {target!r}; name one of {', '.join(targets) or 'none'}")
        if value is not None and entry.value is None:
            raise UserError(f"{kind} takes no number")
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise UserError(f"{kind} {value} is not a fault; its number is finite and at least 0")
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
        """End the faults that are due."""
        self._end(f for f in self.active if f.until <= now)

    def _end(self, faults: Iterable[Fault]) -> None:
        for fault in list(faults):
            entry = self.kinds[fault.kind]
            targets = self._targets[entry.on]
            for index in _indices(fault.target, targets):
                entry.end(index, fault.value)
            self.active.remove(fault)


def _indices(target: str | None, targets: list[str]) -> list[int]:
    """Indices of the joints or cameras that a fault strikes; faults of the line strike once."""
    if not targets:
        return [0]
    return list(range(len(targets))) if target is None else [targets.index(target)]


def _camera_fault(
    cameras: CameraProcess | None, fault: str
) -> tuple[Callable[[int, float], None], Callable[[int, float], None]]:
    def begin(camera: int, value: float) -> None:
        if cameras:
            cameras.set_fault(camera, fault, value or 1.0)

    def end(camera: int, _: float) -> None:
        if cameras:
            cameras.set_fault(camera, fault, 0.0)

    return begin, end
