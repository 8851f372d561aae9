"""Commands of a running twin: lines of words over a socket in its folder, or typed at simulate_arm.py's terminal."""

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tinyvla.arms.so101 import SO101
from tinyvla.errors import UserError

from .bus import Bus
from .faults import Faults
from .physics import ArmPhysics

SOCKET = "control"
_CHUNK = 65536

HELP = """\
state                          the true state of the simulation
reset [SEED] [stay]            begin an episode of the scene; stay: the arm remains where it is
place Q1 Q2 ...                set the whole qpos of MuJoCo, at rest
move BODY X Y Z [W X Y Z]      place a mocap body of the scene: metres, and a quaternion
hand JOINT=DEGREES ...         move joints by hand and hold them there
hand middle | sweep | release  hold all at the middle; move each through its whole range; release
attach JOINT ... | all         only these servos are plugged into the bus
clear [FAULT [TARGET]]         end faults
FAULT [TARGET] [NUMBER] [for SECONDS]
stop                           end the twin"""


class Commands:
    """Commands of one twin, each a line of words (`HELP`).

    Args:
        physics, bus, faults: of the twin.
        clock: the twin's, in seconds.
        state: returns the true state of the simulation.
        stop: ends the twin.
    """

    def __init__(
        self,
        physics: ArmPhysics,
        bus: Bus,
        faults: Faults,
        clock: Callable[[], float],
        state: Callable[[], dict[str, Any]],
        stop: Callable[[], None],
    ):
        self._physics, self._bus, self._faults, self._clock = physics, bus, faults, clock
        self._verbs: dict[str, Callable[[list[str]], dict[str, Any] | None]] = {
            "help": lambda _: {"help": f"{HELP}\n{self._fault_table()}"},
            "state": lambda _: state(),
            "reset": self._reset,
            "place": self._place,
            "move": self._move,
            "hand": self._hand,
            "attach": self._attach,
            "clear": lambda words: faults.clear(*words[:2]),
            "stop": lambda _: stop(),
        }

    def do(self, line: str) -> dict[str, Any]:
        """Obey one line and return the answer. Raises UserError for a line that is not a command."""
        verb, *words = line.split() or ["help"]
        try:
            answer = self._verbs[verb](words) if verb in self._verbs else self._inject_fault(verb, words)
        except ValueError as error:
            raise UserError(f"cannot read {line!r}: {error}; 'help' lists the commands") from error
        return answer or {}

    def _inject_fault(self, kind: str, words: list[str]) -> dict[str, Any]:
        if kind not in self._faults.kinds:
            known = ", ".join([*self._verbs, *self._faults.kinds])
            raise UserError(f"unknown command {kind!r}; there are {known}")
        until = float("inf")
        if "for" in words:
            *words, _, seconds = words
            until = self._clock() + float(seconds)
        target = words.pop(0) if words and not _is_number(words[0]) else None
        fault = self._faults.inject(kind, target, float(words[0]) if words else None, until)
        return {"fault": fault.kind, "target": fault.target, "value": fault.value}

    def _reset(self, words: list[str]) -> None:
        stay = words[-1:] == ["stay"]
        seed = int(words[0]) if len(words) > stay else 0
        self._physics.reset(seed, move_arm=not stay)

    def _hand(self, words: list[str]) -> None:
        if words == ["release"]:
            self._physics.release()
        elif words == ["middle"]:
            self._physics.hold(dict(zip(SO101.joints, self._physics.limits.mean(axis=1), strict=True)))
        elif words == ["sweep"]:
            self._physics.sweep()
        else:
            goals = dict(word.split("=") for word in words)
            if unknown := set(goals) - set(SO101.joints):
                raise UserError(f"there is no joint {unknown.pop()!r}; there are {', '.join(SO101.joints)}")
            self._physics.hold({joint: np.radians(float(degrees)) for joint, degrees in goals.items()})

    def _place(self, words: list[str]) -> None:
        qpos = [float(word) for word in words]
        if len(qpos) != self._physics.model.nq or not np.isfinite(qpos).all():
            raise UserError(f"place takes the {self._physics.model.nq} finite numbers of the scene's qpos")
        self._physics.place(qpos)

    def _move(self, words: list[str]) -> None:
        model, data = self._physics.model, self._physics.data
        bodies = {model.body(index).name: int(mocap) for index, mocap in enumerate(model.body_mocapid) if mocap >= 0}
        if not words or words[0] not in bodies:
            raise UserError(f"move takes a mocap body of the scene; there are {', '.join(bodies) or 'none'}")
        numbers = [float(word) for word in words[1:]]
        if len(numbers) not in (3, 7) or not np.isfinite(numbers).all() or (numbers[3:] and not any(numbers[3:])):
            raise UserError("move takes three finite numbers, and four more of a quaternion that is not zero")
        data.mocap_pos[bodies[words[0]]] = numbers[:3]
        if quaternion := numbers[3:]:
            data.mocap_quat[bodies[words[0]]] = np.array(quaternion) / np.linalg.norm(quaternion)

    def _attach(self, words: list[str]) -> None:
        if unknown := set(words) - {*SO101.joints, "all"}:
            raise UserError(f"there is no servo {unknown.pop()!r}; there are {', '.join(SO101.joints)}")
        attached = SO101.joints if "all" in words else words
        self._bus.unplugged = {index for index, joint in enumerate(SO101.joints) if joint not in attached}

    def _fault_table(self) -> str:
        return "\n".join(f"  {name:<16} {kind.on:<7} {kind.about}" for name, kind in self._faults.kinds.items())


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


class CommandServer:
    """Source of command lines: a socket in the twin's folder, and if `typed` stdin as well."""

    def __init__(self, commands: Commands, folder: Path, typed: bool):
        self._commands = commands
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / SOCKET))
        self._listener.listen()
        self._clients: dict[int, tuple[socket.socket, bytearray]] = {}
        self._stdin = sys.stdin.fileno() if typed else -1
        self._typed = bytearray()

    @property
    def filenos(self) -> list[int]:
        """File descriptors to wait for."""
        typed = [self._stdin] if self._stdin >= 0 else []
        return [self._listener.fileno(), *self._clients, *typed]

    def serve(self, readable: list[int]) -> None:
        """Obey the lines that have come in on `readable`, some of `filenos`."""
        if self._listener.fileno() in readable:
            client, _ = self._listener.accept()
            self._clients[client.fileno()] = (client, bytearray())
        for number in set(readable) & set(self._clients):
            client, received = self._clients[number]
            if not self._receive(number, received, lambda answer, to=client: to.sendall(answer + b"\n")):  # type: ignore[misc]
                del self._clients[number]
                client.close()
        if self._stdin in readable and not self._receive(self._stdin, self._typed, _show):
            self._stdin = -1

    def close(self) -> None:
        for client, _ in self._clients.values():
            client.close()
        self._listener.close()

    def _receive(self, number: int, received: bytearray, reply: Callable[[bytes], None]) -> bool:
        """Read and obey whole lines; returns False at the end of the stream."""
        try:
            data = os.read(number, _CHUNK)
            received += data
            while (end := received.find(b"\n")) >= 0:
                line = received[:end].decode(errors="replace")
                del received[: end + 1]
                reply(json.dumps(self._answer(line)).encode())
        except OSError:
            return False
        return bool(data)

    def _answer(self, line: str) -> dict[str, Any]:
        try:
            return self._commands.do(line)
        except UserError as error:
            return {"error": str(error)}


def _show(answer: bytes) -> None:
    content = json.loads(answer)
    print(content.get("help") or content.get("error") or json.dumps(content), flush=True)
