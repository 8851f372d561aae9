"""A policy that computes on another machine: LeRobot's policy server, for an arm whose computer has no GPU.

There:  python -m policies.remote host=0.0.0.0 port=8080
Here:   RemoteRunner.connect(checkpoint, "there:8080")

What LeRobot sends over the wire is pickled, so use it between machines that trust each other, on a private network.
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

from tinyvla.errors import UserError
from tinyvla.extras import needs_extra

with needs_extra("robot", "a policy server"):
    import grpc
    import lerobot.async_inference.constants as served
    from lerobot.async_inference.helpers import RemotePolicyConfig, TimedObservation
    from lerobot.transport import services_pb2, services_pb2_grpc
    from lerobot.transport.utils import grpc_channel_options, send_bytes_in_chunks

from .asynchronous import AsynchronousRunner, Chunk
from .factory import Pipeline, find_checkpoint

_ANSWERS_S = 10.0  # seconds that the server has for a chunk, and to say that it is there
_LOADS_S = 600.0  # to load a policy


class _Elsewhere:
    """The policy here: what it is, without its weights."""

    def __init__(self, config: PreTrainedConfig) -> None:
        self.config = config

    def supports_rtc(self) -> bool:
        return False  # the server is not told of the chunk before

    def reset(self) -> None:
        pass


class RemoteRunner(AsynchronousRunner):
    """Runs a policy on a server, as `AsynchronousRunner` runs one in a thread: the control loop never waits for it, and
    a chunk that comes later than foreseen is cross-faded with the one before.

    A server that does not answer is an error of the next `act`.
    """

    def __init__(self, config: PreTrainedConfig, processors: tuple[Pipeline, Pipeline], stub: Any) -> None:
        """stub: LeRobot's gRPC stub of a server that has the policy loaded."""
        self._stub = stub
        self._asked_for = 0  # counts all requests, as the server answers none of a number twice
        super().__init__(_Elsewhere(config), *processors)  # type: ignore[arg-type]

    @classmethod
    def connect(cls, checkpoint: Path | str, address: str, device: str = "cpu") -> "RemoteRunner":
        """Have a server load a policy.

        Args:
            checkpoint: a checkpoint or run folder, at the same path here (for its settings and statistics) and there.
            address: host:port of the server.
            device: of the server's, to compute on.

        Raises UserError for a checkpoint that cannot be loaded, or a server that is not there or refuses it.
        """
        folder = find_checkpoint(checkpoint)
        config = PreTrainedConfig.from_pretrained(folder, cli_overrides=["--device=cpu"])
        overrides = {"device_processor": {"device": "cpu"}}
        processors = make_pre_post_processors(config, pretrained_path=str(folder), preprocessor_overrides=overrides)
        stub = services_pb2_grpc.AsyncInferenceStub(grpc.insecure_channel(address, grpc_channel_options()))
        length = getattr(config, "chunk_size", None) or getattr(config, "horizon", 16)
        request = RemotePolicyConfig(config.type, str(folder.absolute()), _features(config), length, device)
        try:
            stub.Ready(services_pb2.Empty(), timeout=_ANSWERS_S)
            stub.SendPolicyInstructions(services_pb2.PolicySetup(data=pickle.dumps(request)), timeout=_LOADS_S)
        except grpc.RpcError as error:
            raise UserError(
                f"the policy server {address} does not load {folder}: {_line(error)}; start it there with "
                "python -m policies.remote, and give a checkpoint that is at that path there too"
            ) from error
        return cls(config, processors, stub)

    def _predict(self, step: int, seen: list[Mapping[str, Any]], plan: Chunk | None, delay: int) -> Chunk:
        newest = seen[-1]
        raw = {key.removeprefix(f"{OBS_IMAGES}."): newest[key] for key in newest if key.startswith(OBS_IMAGES)}
        raw |= {f"state_{i}": value for i, value in enumerate(newest[OBS_STATE].tolist())} | {"task": newest["task"]}
        self._asked_for += 1
        message = pickle.dumps(TimedObservation(time.time(), self._asked_for, raw, must_go=True))
        try:
            self._stub.SendObservations(send_bytes_in_chunks(message, services_pb2.Observation), timeout=_ANSWERS_S)
            answer = self._stub.GetActions(services_pb2.Empty(), timeout=_ANSWERS_S)
        except grpc.RpcError as error:
            raise UserError(f"the policy server does not answer: {_line(error)}; look at it and the network") from error
        if not answer.data:
            raise UserError("the policy server has failed to compute a chunk; its own log says why")
        actions = torch.stack([timed.get_action() for timed in pickle.loads(answer.data)]).float().cpu()
        if not actions.isfinite().all():
            raise UserError("the policy put out a non-finite action; train again or use another checkpoint")
        return Chunk(step, actions, np.asarray(actions), None)


def _features(config: PreTrainedConfig) -> dict[str, Any]:
    """The observation's, as LeRobot's datasets have them. The numbers of the state are called state_0, state_1, ..."""
    pictures = {
        key: {"dtype": "video", "shape": (*feature.shape[1:], 3), "names": ["height", "width", "channels"]}
        for key, feature in config.image_features.items()
    }
    assert config.robot_state_feature is not None
    names = [f"state_{i}" for i in range(config.robot_state_feature.shape[0])]
    return pictures | {OBS_STATE: {"dtype": "float32", "shape": (len(names),), "names": names}}


def _line(error: grpc.RpcError) -> str:
    details = getattr(error, "details", lambda: None)()
    return " ".join(str(details or error).split())[:300]


def main() -> None:
    """LeRobot's policy server, which knows TinyVLA then; its settings as host=... port=... fps=..."""
    if "tinyvla" not in served.SUPPORTED_POLICIES:
        served.SUPPORTED_POLICIES.append("tinyvla")
    from lerobot.async_inference.policy_server import serve

    sys.argv[1:] = [argument if argument.startswith("-") else f"--{argument}" for argument in sys.argv[1:]]
    serve()


if __name__ == "__main__":
    main()
