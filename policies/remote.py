"""A policy on another machine, through LeRobot's policy server: for an arm whose computer has no GPU.

Server: python -m policies.remote host=0.0.0.0 port=8080
Client: RemoteRunner.connect(checkpoint, "server:8080")

LeRobot's messages are pickled, so use it between machines that trust each other, on a private network.
"""

import pickle
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies import make_pre_post_processors
from lerobot.utils.constants import OBS_IMAGES, OBS_STATE

from tinyvla.errors import UserError, one_line
from tinyvla.extras import needs_extra

with needs_extra("robot", "a policy server"):
    import grpc
    import lerobot.async_inference.constants as served
    from lerobot.async_inference.helpers import RemotePolicyConfig, TimedObservation
    from lerobot.transport import services_pb2, services_pb2_grpc
    from lerobot.transport.utils import grpc_channel_options, send_bytes_in_chunks

from .asynchronous import AsynchronousRunner, Chunk
from .checkpoints import find_checkpoint
from .factory import Pipeline

_ANSWER_TIMEOUT = 10.0  # seconds for a chunk, and for the first contact
_LOAD_TIMEOUT = 600.0  # seconds to load a policy


class _RemotePolicy:
    """The client's view of the policy: its configuration, without weights."""

    def __init__(self, config: PreTrainedConfig) -> None:
        self.config = config

    def supports_rtc(self) -> bool:
        return False  # the server does not get the previous chunk

    def reset(self) -> None:
        pass


class RemoteRunner(AsynchronousRunner):
    """Runs a policy on a server, as `AsynchronousRunner` runs one in a thread: the control loop does not wait for it.

    Every chunk is cross-faded with the previous one. If the server does not answer, the next `act` raises UserError.
    """

    def __init__(self, config: PreTrainedConfig, processors: tuple[Pipeline, Pipeline], stub: Any) -> None:
        """stub: LeRobot's gRPC stub of a server that has the policy loaded."""
        self._stub = stub
        self._requests = 0  # numbers the requests, because the server answers each number once
        super().__init__(_RemotePolicy(config), *processors)  # type: ignore[arg-type]

    @classmethod
    def connect(cls, checkpoint: Path | str, address: str, device: str = "cpu") -> "RemoteRunner":
        """Load a policy on a server.

        Args:
            checkpoint: a checkpoint or run folder, at the same path on this machine (which reads its settings and
                statistics) and on the server.
            address: host:port of the server.
            device: of the server.

        Raises UserError for a checkpoint that cannot be loaded, or a server that does not answer or refuses it.
        """
        folder = find_checkpoint(checkpoint)
        config = PreTrainedConfig.from_pretrained(folder, cli_overrides=["--device=cpu"])
        overrides = {"device_processor": {"device": "cpu"}}
        processors = make_pre_post_processors(config, pretrained_path=str(folder), preprocessor_overrides=overrides)
        stub = services_pb2_grpc.AsyncInferenceStub(grpc.insecure_channel(address, grpc_channel_options()))
        length = getattr(config, "chunk_size", None) or getattr(config, "horizon", 16)
        request = RemotePolicyConfig(config.type, str(folder.absolute()), _features(config), length, device)
        try:
            stub.Ready(services_pb2.Empty(), timeout=_ANSWER_TIMEOUT)
            stub.SendPolicyInstructions(services_pb2.PolicySetup(data=pickle.dumps(request)), timeout=_LOAD_TIMEOUT)
        except grpc.RpcError as error:
            raise UserError(
                f"the policy server {address} does not load {folder}: {_line(error)}; start the server with "
                "python -m policies.remote, and give a checkpoint that is at the same path there"
            ) from error
        return cls(config, processors, stub)

    def _predict(self, step: int, observations: list[Mapping[str, Any]], plan: Chunk | None, delay: int) -> Chunk:
        newest = observations[-1]
        raw = {key.removeprefix(f"{OBS_IMAGES}."): newest[key] for key in newest if key.startswith(OBS_IMAGES)}
        raw |= {f"state_{i}": value for i, value in enumerate(newest[OBS_STATE].tolist())} | {"task": newest["task"]}
        self._requests += 1
        message = pickle.dumps(TimedObservation(time.time(), self._requests, raw, must_go=True))
        try:
            self._stub.SendObservations(
                send_bytes_in_chunks(message, services_pb2.Observation), timeout=_ANSWER_TIMEOUT
            )
            answer = self._stub.GetActions(services_pb2.Empty(), timeout=_ANSWER_TIMEOUT)
        except grpc.RpcError as error:
            raise UserError(f"the policy server does not answer: {_line(error)}; check it and the network") from error
        if not answer.data:
            raise UserError("the policy server failed to compute a chunk; see its log")
        actions = torch.stack([timed.get_action() for timed in pickle.loads(answer.data)]).float().cpu()
        if not actions.isfinite().all():
            raise UserError("the policy returned a non-finite action; train again or use another checkpoint")
        return Chunk(step, actions, np.asarray(actions), None)


def _features(config: PreTrainedConfig) -> dict[str, Any]:
    """Features of the observation, as in LeRobot's datasets. The values of the state are named state_0, state_1, ..."""
    images = {
        key: {"dtype": "video", "shape": (*feature.shape[1:], 3), "names": ["height", "width", "channels"]}
        for key, feature in config.image_features.items()
    }
    assert config.robot_state_feature is not None
    names = [f"state_{i}" for i in range(config.robot_state_feature.shape[0])]
    return images | {OBS_STATE: {"dtype": "float32", "shape": (len(names),), "names": names}}


def _line(error: grpc.RpcError) -> str:
    details = getattr(error, "details", lambda: None)()
    return one_line(details or error, 300)


def main() -> None:
    """Run LeRobot's policy server with TinyVLA among its policies; settings: host=... port=... fps=..."""
    if "tinyvla" not in served.SUPPORTED_POLICIES:
        served.SUPPORTED_POLICIES.append("tinyvla")
    from lerobot.async_inference.policy_server import serve

    sys.argv[1:] = [argument if argument.startswith("-") else f"--{argument}" for argument in sys.argv[1:]]
    serve()


if __name__ == "__main__":
    main()
