"""Milliseconds per chunk on a policy server of this machine: this project's, LeRobot's, and without a server.

    python -m benchmarks.remote_policy                      # n=200 chunks each
    python -m benchmarks.remote_policy n=50 cases=[small-96]

The same policy with random weights computes the same images, in turn on each: one chunk here, one there, and so on, in
an order that changes. A chunk's time goes from the raw observation to the actions in the robot's units. With the small
policy most of the time is the server's. LeRobot's server cannot get the previous chunk, so only the others continue it
(guidance). Its messages are pickled: it runs here between two own processes only. Cases of an earlier call on this
machine are kept. Writes results/remote_policy.{json,md}.
"""

import contextlib
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import ROOT, Machine, keep, markdown, read_kept, warn_if_busy
from benchmarks.random_policy import TINY, write_random_policy
from benchmarks.settings import setting, start
from policies import AsynchronousRunner, load_checkpoint
from policies.remote import RemoteRunner
from tinyvla.errors import UserError

CAMERAS = ("front", "wrist")
# Policy's settings and side of the images in pixels.
CASES: dict[str, tuple[list[str], int]] = {"default-96": ([], 96), "small-96": (TINY, 96), "small-256": (TINY, 256)}
THEIRS, OURS, LOCAL = "LeRobot's server", "this project's server", "this process"
_LOW, _HIGH = (-20.0, -70.0, 10.0, 60.0, -20.0, 10.0), (20.0, -20.0, 60.0, 90.0, 30.0, 70.0)
_WARM_UP, _PATIENCE_S, _DELAY = 10, 120.0, 4
TITLES = {
    "case": "policy and images",
    "name": "where",
    "guidance": "guidance",
    "n": "n",
    "p10_ms": "p10 (ms)",
    "median_ms": "median (ms)",
    "p95_ms": "p95 (ms)",
    "difference_ms": "against LeRobot's server (ms)",
    "faster": "faster than it",
    "load": "load before",
}
_TEXT = """# Time per chunk on a policy server

`python -m benchmarks.remote_policy`, {title}. Policy servers on the loopback interface, in a process each;
policies with random weights, the default one and a small one, two cameras, chunks of 16 actions. In turn on the same
images, in a changing order. LeRobot's server cannot continue a chunk. "Against": median of the differences on the same
images, negative where LeRobot's is slower; "faster": share of the chunks that came sooner than its. The tenth
percentile (p10) is least disturbed by other programs.

{table}
"""
# LeRobot's server with this project's policy among those that it loads, and without its artificial latency.
_LEROBOT = """
import policies.factory
policies.factory.register_policies()
import lerobot.async_inference.constants as served
served.SUPPORTED_POLICIES.append("tinyvla")
from lerobot.async_inference.policy_server import serve
serve()
"""

type Compute = Callable[[Mapping[str, Any]], np.ndarray]


class LeRobotClient:
    """Client of LeRobot's policy server, with its own messages."""

    def __init__(self, checkpoint: Path, port: int, length: int) -> None:
        import grpc
        from lerobot.async_inference.helpers import RemotePolicyConfig
        from lerobot.transport import services_pb2, services_pb2_grpc
        from lerobot.transport.utils import grpc_channel_options

        self._messages, self._number = services_pb2, 0
        channel = grpc.insecure_channel(f"127.0.0.1:{port}", grpc_channel_options())
        self._stub = services_pb2_grpc.AsyncInferenceStub(channel)
        side = _side_of(checkpoint)
        images: dict[str, Any] = {
            f"observation.images.{camera}": {
                "dtype": "video",
                "shape": (side, side, 3),
                "names": ["height", "width", "channels"],
            }
            for camera in CAMERAS
        }
        names = [f"state_{i}" for i in range(len(_LOW))]
        features = images | {"observation.state": {"dtype": "float32", "shape": (len(names),), "names": names}}
        request = RemotePolicyConfig("tinyvla", str(checkpoint), features, length, "cpu")
        self._stub.Ready(services_pb2.Empty(), timeout=_PATIENCE_S, wait_for_ready=True)
        self._stub.SendPolicyInstructions(services_pb2.PolicySetup(data=pickle.dumps(request)), timeout=_PATIENCE_S)

    def compute(self, observation: Mapping[str, Any]) -> np.ndarray:
        """Actions (H, A) of an observation."""
        from lerobot.async_inference.helpers import TimedObservation
        from lerobot.transport.utils import send_bytes_in_chunks

        raw: dict[str, Any] = {camera: observation[f"observation.images.{camera}"] for camera in CAMERAS}
        raw |= {f"state_{i}": value for i, value in enumerate(observation["observation.state"].tolist())}
        self._number += 1
        timed = TimedObservation(time.time(), self._number, raw | {"task": observation["task"]}, must_go=True)
        message = send_bytes_in_chunks(pickle.dumps(timed), self._messages.Observation)
        self._stub.SendObservations(message, timeout=_PATIENCE_S)
        answer = self._stub.GetActions(self._messages.Empty(), timeout=_PATIENCE_S)
        return torch.stack([action.get_action() for action in pickle.loads(answer.data)]).float().numpy()


def _side_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("_")[2])


@contextlib.contextmanager
def server(*command: str) -> Iterator[int]:
    """Port of a server process, which is started with `{port}` replaced."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:  # LeRobot's writes its log into the working directory
        process = subprocess.Popen(
            [sys.executable, *(argument.format(port=port) for argument in command)],
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield port
        finally:
            process.terminate()
            process.wait()


def connect(name: str, port: int) -> RemoteRunner:
    """Runner on this project's server, once it has started."""
    end = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return RemoteRunner.connect(name, f"127.0.0.1:{port}", latency_steps=0)
        except UserError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


def unguided(runner: AsynchronousRunner) -> Compute:
    return lambda observation: runner.compute(0, [observation], None, 0)[1]


def guided(runner: AsynchronousRunner, previous: torch.Tensor) -> Compute:
    return lambda observation: runner.compute(0, [observation], previous, _DELAY)[1]


def measure(case: str, checkpoint: Path, n: int) -> list[dict[str, Any]]:
    """Rows of the table for one policy."""
    local = AsynchronousRunner(*load_checkpoint(checkpoint, "cpu"), latency_steps=0)
    side, rng = _side_of(checkpoint), np.random.default_rng(0)
    first, _ = local.compute(0, [_observation(rng, side)], None, 0)
    previous = first[len(first) // 2 :]
    settings = [f"checkpoints={checkpoint.parent}", "port={port}"]
    theirs = ["-c", _LEROBOT, "--host=127.0.0.1", "--port={port}", "--fps=30", "--inference_latency=0"]
    with (
        server("-m", "policies.remote", *settings) as port,
        server(*theirs) as their_port,
        contextlib.closing(connect(checkpoint.name, port)) as remote,
    ):
        ways: dict[tuple[str, str], Compute] = {
            (LOCAL, "off"): unguided(local),
            (THEIRS, "off"): LeRobotClient(checkpoint, their_port, len(first)).compute,
            (OURS, "off"): unguided(remote),
            (LOCAL, "on"): guided(local, previous),
            (OURS, "on"): guided(remote, previous),
        }
        times: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
        for number in range(_WARM_UP + n):
            observation = _observation(rng, side)
            for way in (list(ways)[index] for index in rng.permutation(len(ways))):
                begin = time.perf_counter()
                actions = ways[way](observation)
                if number >= _WARM_UP:
                    times[way].append(1e3 * (time.perf_counter() - begin))
                assert actions.shape == tuple(first.shape), f"{way}: {actions.shape}"
    return [row(case, way, values, times[THEIRS, "off"]) for way, values in times.items()]


def row(case: str, way: tuple[str, str], times: list[float], theirs: list[float]) -> dict[str, Any]:
    """Row of the table; `theirs`: the times of the same chunks on LeRobot's server."""
    differences = np.subtract(times, theirs)
    is_theirs = way[0] == THEIRS
    return {
        "case": case,
        "name": way[0],
        "guidance": way[1],
        "n": len(times),
        "p10_ms": round(float(np.percentile(times, 10)), 2),
        "median_ms": round(float(np.median(times)), 2),
        "p95_ms": round(float(np.percentile(times, 95)), 2),
        "difference_ms": "" if is_theirs else round(float(np.median(differences)), 2),
        "faster": "" if is_theirs else f"{100 * np.mean(differences < 0):.0f}%",
    }


def _observation(rng: np.random.Generator, side: int) -> dict[str, Any]:
    images = rng.integers(0, 255, (len(CAMERAS), side, side, 3), dtype=np.uint8)
    observation = {f"observation.images.{camera}": images[i] for i, camera in enumerate(CAMERAS)}
    return observation | {"observation.state": rng.uniform(_LOW, _HIGH).astype(np.float32), "task": "pick up the cube"}


@dataclass
class Settings:
    """Settings of the command line."""

    n: int = setting(200, "chunks of each")
    cases: list[str] = setting(list(CASES), "policies and images", CASES)


def main(settings: Settings) -> None:
    torch.set_num_threads(1)
    machine = Machine()
    conditions = {"machine": machine.summary, "n": settings.n}
    results = read_kept("remote_policy", conditions).get("results", {})
    for case in settings.cases:
        overrides, side = CASES[case]
        load = warn_if_busy("times are too long, on all sides")
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = Path(folder) / "checkpoints" / f"policy_{side}"
            write_random_policy(checkpoint, dict.fromkeys(CAMERAS, side), _LOW, _HIGH, overrides)
            results[case] = {"load": load, "rows": measure(case, checkpoint, settings.n)}
        rows = [row | {"load": result["load"]} for result in results.values() for row in result["rows"]]
        text = _TEXT.format(title=machine.title(1), table=markdown(rows, TITLES))
        keep("remote_policy", machine.describe(1) | {"asked": conditions, "results": results}, text)
    print(text)


if __name__ == "__main__":
    start(main, Settings, __doc__)
