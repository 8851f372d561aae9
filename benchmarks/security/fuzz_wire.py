"""Mutated messages between a policy server and its client, in both directions, and random bytes on the connection.

    python -m benchmarks.security.fuzz_wire             # 3000 of each kind
    python -m benchmarks.security.fuzz_wire n=200 seed=5

Each mutated message is refused with one line, or is answered because the change did no harm. After each batch the
server answers a good request with the same actions as before, and the client takes a good answer. Faults are all
others: an exception that is not a UserError, an error inside the server, more than one line, a server that has ended,
another file in the server's folders, more memory than MAX_GROWTH_MB. Writes results/fuzz_wire.{json,md}.
Exit code 1 with faults.
"""

import contextlib
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks.machine import ROOT, Machine, keep, markdown
from benchmarks.random_policy import TINY, write_random_policy
from benchmarks.security.wire_mutations import mutate_bytes, mutate_fields
from benchmarks.settings import setting, start
from policies.remote import RemoteRunner
from policies.remote import policy_service_pb2 as pb
from policies.remote.messages import write_observation, write_tensor
from policies.remote.wire import PROTOCOL, SERVICE
from tinyvla.errors import UserError

BATCH = 100
MAX_GROWTH_MB = 300  # of the server and of the client, over all messages; a message may have 32 MB, and four are read
_LOW, _HIGH = (-20.0, -70.0, 10.0, 60.0, -20.0, 10.0), (20.0, -20.0, 60.0, 90.0, 30.0, 70.0)
_TIMEOUT = 30.0
_BEGINNINGS = (b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n")
# Codes of an orderly refusal; gRPC's own INTERNAL is that of a compressed or half message.
_REFUSALS = ("INVALID_ARGUMENT", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED")
TITLES = {
    "kind": "messages",
    "n": "n",
    "refused": "refused with one line",
    "answered": "harmless",
    "faults": "faults",
    "good": "good ones between",
    "growth_mb": "memory growth (MB)",
}
_TEXT = """# Mutated messages of the policy server

`python -m benchmarks.security.fuzz_wire n={n} seed={seed}`, {machine}. A random policy of two cameras of 32 pixels on a
server in its own process; {total} mutated messages. "Good ones between": after every {batch} messages, good requests
that got the same actions as at the start, or good answers that were taken. Memory: peak of the resident set of the
process that read the messages, over its value before.

{table}

No file appeared or changed in the server's folders, and the server ended cleanly."""


@dataclass
class Outcomes:
    """Counts of one kind of message."""

    kind: str
    n: int = 0
    refused: int = 0
    answered: int = 0
    good: int = 0
    growth_mb: float = 0.0

    def __post_init__(self) -> None:
        self.faults: list[str] = []

    def add(self, fault: str | None, is_refused: bool) -> None:
        self.n += 1
        if fault is not None:
            self.faults.append(fault)
        elif is_refused:
            self.refused += 1
        else:
            self.answered += 1

    @property
    def row(self) -> dict[str, Any]:
        counts = {key: getattr(self, key) for key in ("kind", "n", "refused", "answered", "good")}
        return counts | {"faults": len(self.faults), "growth_mb": round(self.growth_mb, 1)}


class Target:
    """Policy server in its own process, with one policy `reach`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "cwd").mkdir()
        write_random_policy(folder / "checkpoints/reach", {"front": 32, "wrist": 32}, _LOW, _HIGH, TINY)
        settings = [f"checkpoints={folder}/checkpoints", "port=0", "sessions=1000", "idle_s=100000"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "policies.remote", *settings],
            cwd=folder / "cwd",
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            stderr=(folder / "log").open("w"),
        )
        self.address = self._wait()
        self.files = self.list_files()

    def _wait(self) -> str:
        for _ in range(1200):
            if match := re.search(r"on ([\d.]+:\d+) \(", (self.folder / "log").read_text()):
                return match[1]
            if self.process.poll() is not None:
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.1)
        raise RuntimeError((self.folder / "log").read_text())

    def list_files(self) -> dict[str, tuple[int, int]]:
        """Size and time of every file but the log."""
        files = (path for path in self.folder.rglob("*") if path.name != "log")
        return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}

    def stop(self) -> None:
        """End the server. Raises AssertionError unless it ends cleanly and its folders are as before."""
        self.process.terminate()
        code = self.process.wait(30)
        assert code == 0, f"the server ended with {code}: {(self.folder / 'log').read_text()[-500:]}"
        assert "Traceback" not in (self.folder / "log").read_text(), "a traceback in the server's log"
        assert self.list_files() == self.files, "files have changed"


def peak_mb(pid: int | str) -> float:
    """Peak of the resident set of a process since `reset_peak`."""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) / 1e3 if match else 0.0


def reset_peak(pid: int | str) -> float:
    """Begin to measure the peak anew; returns the present one."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak_mb(pid)


def observation(rng: np.random.Generator) -> dict[str, Any]:
    images = rng.integers(0, 255, (2, 32, 32, 3), dtype=np.uint8)
    state = np.array([0, -50, 30, 70, 5, 40], np.float32)
    return {
        "observation.images.front": images[0],
        "observation.images.wrist": images[1],
        "observation.state": state,
        "task": "reach",
    }


class ToServer:
    """Client to server: mutated requests."""

    def __init__(self, target: Target, rng: random.Random) -> None:
        self._target, self._rng = target, rng
        self._runner = RemoteRunner.connect("reach", target.address, latency_steps=0)
        self._observation = observation(np.random.default_rng(0))
        self._channel = grpc.insecure_channel(target.address)
        self._session, self._sequence = "", 0
        self._expected = self._good_chunk()

    def close(self) -> None:
        self._channel.close()
        self._runner.close()

    def _good_chunk(self) -> np.ndarray:
        self._runner.reset(0)
        return self._runner.compute(0, [self._observation], None, 0)[1]

    def run(self, outcomes: Outcomes, n: int, mutate: Callable[[Any, list[bytes]], bytes]) -> None:
        """Send n mutated requests, and a good one after each batch."""
        before = reset_peak(self._target.process.pid)
        for number in range(n):
            if number % BATCH == 0:
                self._open()
            messages = self._messages()
            method = self._rng.choices(list(messages), (2, 6, 1))[0]
            data = mutate(messages[method], [message.SerializeToString() for message in messages.values()])
            outcomes.add(*self._send(method, data))
            if number % BATCH == BATCH - 1 or number == n - 1:
                self._check_good(outcomes)
        outcomes.growth_mb = peak_mb(self._target.process.pid) - before

    def _messages(self) -> dict[str, Any]:
        self._sequence += 1
        description = self._runner.description
        request = pb.PredictRequest(
            session=self._session,
            sequence=self._sequence,
            step=self._sequence,
            observations=[write_observation(self._observation, description)],
            delay=2,
        )
        if self._sequence % 2:
            request.previous.CopyFrom(write_tensor("previous", np.zeros((8, 6), np.float32)))
            request.seed = self._sequence
        opening = pb.OpenRequest(protocol=PROTOCOL, checkpoint="reach")
        return {"Open": opening, "Predict": request, "Close": pb.CloseRequest(session="0" * 32)}

    def _open(self) -> None:
        if self._session:
            self._call("Close", pb.CloseRequest(session=self._session).SerializeToString())
        data = pb.OpenRequest(protocol=PROTOCOL, checkpoint="reach").SerializeToString()
        self._session, self._sequence = pb.OpenAnswer.FromString(self._call("Open", data)).session, 0

    def _call(self, method: str, data: bytes) -> bytes:
        return self._channel.unary_unary(f"{SERVICE}{method}")(data, timeout=_TIMEOUT)

    def _send(self, method: str, data: bytes) -> tuple[str | None, bool]:
        """Fault, if there is one, and whether the request was refused."""
        try:
            answer = self._call(method, data)
        except grpc.RpcError as error:
            line = error.details() or ""
            if "late or repeated" in line or "no such session" in line:
                self._open()  # the mutated number was taken for the next one
            is_orderly = error.code().name in _REFUSALS and line and line.isprintable() and len(line) < 1000
            return None if is_orderly else f"{method}: {error.code().name} {line[:200]}", True
        if method == "Open":
            session = pb.OpenAnswer.FromString(answer).session
            self._call("Close", pb.CloseRequest(session=session).SerializeToString())
        return None, False

    def _check_good(self, outcomes: Outcomes) -> None:
        try:
            if np.array_equal(self._good_chunk(), self._expected):
                outcomes.good += 1
            else:
                outcomes.faults.append("a good request gets other actions")
        except UserError as error:
            outcomes.faults.append(f"a good request is refused: {error}")
            self._runner.reconnect()

    def run_connections(self, outcomes: Outcomes, n: int) -> None:
        """Send random bytes on n connections, some of which begin as HTTP/2 does."""
        host, port = self._target.address.split(":")
        before = reset_peak(self._target.process.pid)
        for number in range(n):
            begin = self._rng.choice(_BEGINNINGS)
            with socket.create_connection((host, int(port)), timeout=_TIMEOUT) as line, contextlib.suppress(OSError):
                line.sendall(begin + self._rng.randbytes(self._rng.choice((1, 9, 100, 10_000))))
                line.settimeout(0.02)
                line.recv(4096)
            outcomes.add(None if self._target.process.poll() is None else "the server has ended", True)
            if number % BATCH == BATCH - 1 or number == n - 1:
                self._check_good(outcomes)
        outcomes.growth_mb = peak_mb(self._target.process.pid) - before


class ToClient:
    """Server to client: mutated answers, from a server in this process."""

    def __init__(self, target: Target, rng: random.Random) -> None:
        self._rng = rng
        self._answers: dict[str, bytes] = {}
        self._replacement: tuple[str, bytes] = ("", b"")
        self._observation = observation(np.random.default_rng(0))
        self._record(target.address)
        handlers = {name: grpc.unary_unary_rpc_method_handler(self._handler(name)) for name in self._answers}
        generic = grpc.method_handlers_generic_handler(SERVICE.strip("/"), handlers)
        self._server = grpc.server(ThreadPoolExecutor(2), handlers=[generic])
        self._address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        self._runner = RemoteRunner.connect("reach", self._address, latency_steps=0)

    def close(self) -> None:
        self._runner.close()
        self._server.stop(0).wait()

    def run(self, outcomes: Outcomes, n: int, mutate: Callable[[Any, list[bytes]], bytes]) -> None:
        """Give n mutated answers to clients, and a good one after each batch."""
        classes: dict[str, Any] = {"Open": pb.OpenAnswer, "Predict": pb.PredictAnswer, "Close": pb.CloseAnswer}
        before = reset_peak("self")
        for number in range(n):
            method = self._rng.choices(list(classes), (3, 6, 1))[0]
            message = classes[method].FromString(self._answers[method])
            self._replacement = method, mutate(message, list(self._answers.values()))
            outcomes.add(*self._ask(method))
            if number % BATCH == BATCH - 1 or number == n - 1:
                self._replacement = "", b""
                fault, is_refused = self._ask("Predict")
                outcomes.good += not is_refused
                outcomes.faults += [fault or "a good answer is refused"] if fault or is_refused else []
        outcomes.growth_mb = peak_mb("self") - before

    def _ask(self, method: str) -> tuple[str | None, bool]:
        try:
            if method == "Predict":
                self._runner._sequence = 0  # the recorded answer is that to the first request
                normalised, actions = self._runner.compute(1, [self._observation], None, 0)
                is_good = normalised.shape == actions.shape == (16, 6) and np.isfinite(actions).all()
                return None if is_good else "a chunk of another shape or with NaN was taken", False
            RemoteRunner.connect("reach", self._address, latency_steps=0).close()
            return None, False
        except UserError as error:
            line = str(error)
            return None if line.isprintable() and len(line) < 1000 else f"not one line: {line[:200]}", True
        except Exception as error:
            return f"{method}: {type(error).__name__}: {error}", True

    def _record(self, address: str) -> None:
        """Record good answers of the real server."""
        with contextlib.closing(RemoteRunner.connect("reach", address, latency_steps=0)) as runner:
            call = runner._connection.call

            def record(method: str, request: Any, answer_class: Any, timeout: float) -> Any:
                answer = call(method, request, answer_class, timeout)
                self._answers[method] = answer.SerializeToString()
                return answer

            runner._connection.call = record  # type: ignore[method-assign]
            runner.reconnect()
            runner.compute(1, [self._observation], None, 0)

    def _handler(self, name: str) -> Callable[[bytes, Any], bytes]:
        def handle(data: bytes, context: Any) -> bytes:
            method, replacement = self._replacement
            return replacement if method == name else self._answers[name]

        return handle


@contextlib.contextmanager
def running() -> Iterator[Target]:
    """Server of a fresh policy, which must end cleanly."""
    with tempfile.TemporaryDirectory() as folder:
        target = Target(Path(folder))
        try:
            yield target
        except BaseException:
            target.process.kill()
            raise
        target.stop()


@dataclass
class Settings:
    """Settings of the command line."""

    n: int = setting(3000, "messages of each kind")
    seed: int = setting(0, "of the mutations")


def main(settings: Settings) -> None:
    rng = random.Random(settings.seed)

    def of_bytes(message: Any, intact: list[bytes]) -> bytes:
        return mutate_bytes(message.SerializeToString(), intact, rng)

    def of_fields(message: Any, intact: list[bytes]) -> bytes:
        mutate_fields(message, rng)
        return message.SerializeToString()[: 30 << 20]

    results: list[Outcomes] = []
    with running() as target:
        for side, name in ((ToServer, "client to server"), (ToClient, "server to client")):
            with contextlib.closing(side(target, rng)) as fuzzed:
                for change, mutate in (("bytes", of_bytes), ("fields", of_fields)):
                    results.append(Outcomes(f"{name}, {change}"))
                    fuzzed.run(results[-1], settings.n, mutate)
                    print(results[-1].row, file=sys.stderr, flush=True)
                if isinstance(fuzzed, ToServer):
                    results.append(Outcomes("client to server, connections"))
                    fuzzed.run_connections(results[-1], settings.n // 6)
                    print(results[-1].row, file=sys.stderr, flush=True)
    for outcomes in results:
        if outcomes.growth_mb > MAX_GROWTH_MB:
            outcomes.faults.append(f"the memory grew by {outcomes.growth_mb:.0f} MB")
    rows, machine = [outcomes.row for outcomes in results], Machine()
    text = _TEXT.format(
        n=settings.n,
        seed=settings.seed,
        machine=machine.summary,
        total=sum(outcomes.n for outcomes in results),
        batch=BATCH,
        table=markdown(rows, TITLES),
    )
    faults = {outcomes.kind: outcomes.faults[:50] for outcomes in results}
    figures = {"n": settings.n, "seed": settings.seed, "rows": rows, "faults": faults}
    keep("fuzz_wire", machine.describe(1) | figures, text)
    print(text)
    if any(faults.values()):
        print(*(f"{kind}: {fault}" for kind in faults for fault in faults[kind]), sep="\n", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    start(main, Settings, __doc__)
