"""The rig's policy on a policy server in its own process, behind a line that may corrupt the answers."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

from benchmarks.machine import ROOT
from benchmarks.real_arm.rig import PATIENCE_S, Rig
from policies.remote import RemoteRunner
from tinyvla.errors import UserError


class Served(RemoteRunner):
    """Runner on a policy server of this machine; `trouble` strikes the server, `wake` ends it.

    trouble: "hangs" (the process is stopped), "killed", or "garbage" (random bytes arrive in place of its answers).
    """

    server: "ServerProcess"
    line: "Line"

    @property
    def trouble(self) -> str:
        return ""

    @trouble.setter
    def trouble(self, trouble: str) -> None:
        if trouble == "hangs":
            self.server.process.send_signal(signal.SIGSTOP)
        elif trouble == "killed":
            self.server.process.kill()
        elif trouble == "garbage":
            self.line.garbage.set()
        else:
            raise ValueError(f"unknown trouble {trouble}")

    def wake(self) -> None:
        """End all trouble, and open the policy again where the server or the connection is a new one."""
        self.server.process.send_signal(signal.SIGCONT)
        is_lost = self.server.process.poll() is not None or self.line.garbage.is_set()
        self.line.garbage.clear()
        if self.server.process.poll() is not None:
            self.server.start()
        if is_lost:
            _patiently(self.reconnect)


class ServerProcess:
    """Process of a policy server for the rig's checkpoint."""

    def __init__(self, rig: Rig) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._rig = rig
        self.start()

    def start(self) -> None:
        settings = [f"checkpoints={self._rig.checkpoint.parent}", f"port={self.port}"]
        command = [sys.executable, "-m", "policies.remote", *settings]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(command, cwd=self._rig.folder, env=environment, **quiet)  # type: ignore[call-overload]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait()


class Line:
    """TCP line to a port of this machine, in threads. While `garbage` is set, random bytes go to the clients."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.garbage = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, name="line", daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), name="line", daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port)) as server:
            back = threading.Thread(target=self._forward, args=(server, client, True), name="line", daemon=True)
            back.start()
            self._forward(client, server, False)
            back.join()

    def _forward(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(os.urandom(len(data)) if is_answer and self.garbage.is_set() else data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def served(rig: Rig) -> Iterator[Served]:
    """The rig's policy on a policy server in its own process."""
    server = ServerProcess(rig)
    with contextlib.closing(Line(server.port)) as line:
        try:
            runner = _patiently(lambda: Served.connect(rig.checkpoint.name, line.address))
            assert isinstance(runner, Served)
            runner.server, runner.line = server, line
            yield runner
            runner.wake()
            runner.close()
        finally:
            server.stop()


def _patiently[T](work: Callable[[], T]) -> T:
    """Result of `work`, tried until the server has started."""
    end = time.monotonic() + 2 * PATIENCE_S
    while True:
        try:
            return work()
        except UserError:
            if time.monotonic() > end:
                raise
            time.sleep(1)
