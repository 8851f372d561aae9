"""Commands to a running twin: lines of words over a socket in its folder, or typed at simulate_arm.py's terminal."""

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyvla.errors import UserError

from .scene import JOINTS

if TYPE_CHECKING:
    from .twin import Twin

SOCKET = "control"
_TIMEOUT = 10.0  # seconds a client waits for an answer
_CHUNK = 65536

HELP = """\
state                          the true state of the simulation
reset [SEED] [stay]            begin an episode of the scene; stay: the arm remains where it is
place Q1 Q2 ...                put the scene where these numbers, MuJoCo's whole qpos, say
move BODY X Y Z [W X Y Z]      put a mocap body of the scene there, in metres, turned by the quaternion
hand JOINT=DEGREES ...         take joints by the hand, move them there and hold them
hand middle | sweep | release  hold all at the middle; move each through its whole range; let go
attach JOINT ... | all         only these servos are plugged into the bus
clear [FAULT [TARGET]]         end faults
FAULT [TARGET] [NUMBER] [for SECONDS]
stop                           end the twin"""


class Commands:
    """Does what a line of words says to one twin."""

    def __init__(self, twin: "Twin"):
        self._twin = twin
        self._verbs: dict[str, Callable[[list[str]], Any]] = {
            "help": lambda _: {"help": f"{HELP}\n{self._fault_table()}"},
            "state": lambda _: twin.state(),
            "reset": self._reset,
            "place": self._place,
            "move": self._move,
            "hand": self._hand,
            "attach": self._attach,
            "clear": lambda words: twin.faults.clear(*words[:2]),
            "stop": lambda _: twin.stop(),
        }

    def do(self, line: str) -> dict[str, Any]:
        """Obey one line. Raises UserError for one that means nothing."""
        verb, *words = line.split() or ["help"]
        try:
            answer = self._verbs[verb](words) if verb in self._verbs else self._fault(verb, words)
        except ValueError as error:
            raise UserError(f"cannot read {line!r}: {error}; 'help' lists the commands") from error
        return answer or {}

    def _fault(self, kind: str, words: list[str]) -> dict[str, Any]:
        twin = self._twin
        if kind not in twin.faults.kinds:
            raise UserError(f"unknown command {kind!r}; there are {', '.join([*self._verbs, *twin.faults.kinds])}")
        until = float("inf")
        if "for" in words:
            *words, _, seconds = words
            until = twin.now + float(seconds)
        target = words.pop(0) if words and not _is_number(words[0]) else None
        fault = twin.faults.inject(kind, target, float(words[0]) if words else None, until)
        return {"fault": fault.kind, "target": fault.target, "value": fault.value}

    def _reset(self, words: list[str]) -> None:
        stay = words[-1:] == ["stay"]
        seed = int(words[0]) if len(words) > stay else 0
        self._twin.plant.reset(seed, move_arm=not stay)

    def _hand(self, words: list[str]) -> None:
        plant = self._twin.plant
        if words == ["release"]:
            plant.release()
        elif words == ["middle"]:
            plant.hold(dict(zip(JOINTS, plant.limits.mean(axis=1), strict=True)))
        elif words == ["sweep"]:
            plant.sweep()
        else:
            goals = dict(word.split("=") for word in words)
            if unknown := set(goals) - set(JOINTS):
                raise UserError(f"there is no joint {unknown.pop()!r}; there are {', '.join(JOINTS)}")
            plant.hold({joint: np.radians(float(degrees)) for joint, degrees in goals.items()})

    def _place(self, words: list[str]) -> None:
        numbers = [float(word) for word in words]
        if len(numbers) != self._twin.plant.model.nq or not np.isfinite(numbers).all():
            raise UserError(f"place takes the {self._twin.plant.model.nq} finite numbers of the scene's qpos")
        self._twin.plant.place(numbers)

    def _move(self, words: list[str]) -> None:
        model, data = self._twin.plant.model, self._twin.plant.data
        bodies = {model.body(index).name: int(mocap) for index, mocap in enumerate(model.body_mocapid) if mocap >= 0}
        if not words or words[0] not in bodies:
            raise UserError(f"move takes a mocap body of the scene; there are {', '.join(bodies) or 'none'}")
        numbers = [float(word) for word in words[1:]]
        if len(numbers) not in (3, 7) or not np.isfinite(numbers).all() or (numbers[3:] and not any(numbers[3:])):
            raise UserError("move takes three finite numbers, and four more of a quaternion that is not zero")
        data.mocap_pos[bodies[words[0]]] = numbers[:3]
        if turn := numbers[3:]:
            data.mocap_quat[bodies[words[0]]] = np.array(turn) / np.linalg.norm(turn)

    def _attach(self, words: list[str]) -> None:
        if unknown := set(words) - {*JOINTS, "all"}:
            raise UserError(f"there is no servo {unknown.pop()!r}; there are {', '.join(JOINTS)}")
        attached = JOINTS if "all" in words else words
        self._twin.bus.unplugged = {index for index, joint in enumerate(JOINTS) if joint not in attached}

    def _fault_table(self) -> str:
        return "\n".join(f"  {name:<16} {kind.on:<7} {kind.about}" for name, kind in self._twin.faults.kinds.items())


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


class ControlServer:
    """The twin's end: a socket in its folder, and if `typed` the lines of stdin as well."""

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
        """What to wait on."""
        typed = [self._stdin] if self._stdin >= 0 else []
        return [self._listener.fileno(), *self._clients, *typed]

    def serve(self, readable: list[int]) -> None:
        """Obey what has come in on these of `filenos`."""
        if self._listener.fileno() in readable:
            client, _ = self._listener.accept()
            self._clients[client.fileno()] = (client, bytearray())
        for number in set(readable) & set(self._clients):
            client, received = self._clients[number]
            if not self._take(number, received, lambda answer, to=client: to.sendall(answer + b"\n")):  # type: ignore[misc]
                del self._clients[number]
                client.close()
        if self._stdin in readable and not self._take(self._stdin, self._typed, _show):
            self._stdin = -1

    def close(self) -> None:
        for client, _ in self._clients.values():
            client.close()
        self._listener.close()

    def _take(self, number: int, received: bytearray, reply: Callable[[bytes], None]) -> bool:
        """Read, and obey whole lines; False at the end of the stream."""
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


class TwinControl:
    """The other end: talks to the twin of a folder.

    Raises UserError if none runs there.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        self.port = str(self.folder / "port")
        self.calibration_dir = self.folder / "calibration"
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_TIMEOUT)
        try:
            self._socket.connect(str(self.folder / SOCKET))
        except OSError as error:
            self._socket.close()
            raise UserError(f"no twin runs in {folder}; start one with simulate_arm.py") from error
        self._replies = self._socket.makefile("r")

    def send(self, line: str) -> dict[str, Any]:
        """Have the twin obey a command (`HELP`); its answer. Raises UserError for one that it refuses."""
        try:
            self._socket.sendall(f"{line}\n".encode())
            answer = self._replies.readline()
        except OSError as error:
            raise UserError(f"the twin in {self.folder} does not answer; start it anew") from error
        if not answer:
            raise UserError(f"the twin in {self.folder} has ended; start it anew")
        content = json.loads(answer)
        if "error" in content:
            raise UserError(content["error"])
        return content

    def state(self) -> dict[str, Any]:
        """The true state of the simulation, see `Twin.state`."""
        return self.send("state")

    def place(self, qpos: np.ndarray) -> None:
        """Put the scene at rest where `qpos` (nq,) says."""
        self.send("place " + " ".join(map(repr, map(float, qpos))))

    def close(self) -> None:
        self._replies.close()
        self._socket.close()
