"""The client's end: a runner whose chunks are computed by a policy server."""

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import torch
from google.protobuf.message import Message
from torch import Tensor

from tinyvla.errors import UserError

from ..asynchronous import AsynchronousRunner
from ..image_size import ImageSizeStep
from . import policy_service_pb2 as pb
from .messages import (
    ACTION,
    IMAGES,
    STATE,
    Feature,
    PolicyDescription,
    read_chunk,
    read_description,
    write_observation,
    write_tensor,
)
from .settings import read_certificate
from .wire import (
    CHANNEL_OPTIONS,
    MAX_ANSWER,
    MAX_REQUEST,
    MAX_TEXT,
    PROTOCOL,
    SERVICE,
    MessageError,
    is_checkpoint_name,
    parse,
    printable,
)

_ANSWER_TIMEOUT = 10.0  # seconds for a chunk, and for the first contact
_LOAD_TIMEOUT = 600.0  # seconds to load a policy
_OPTIONS = CHANNEL_OPTIONS | {
    "grpc.max_receive_message_length": MAX_ANSWER,
    "grpc.max_send_message_length": MAX_REQUEST,
    "grpc.enable_http_proxy": 0,
    "grpc.keepalive_time_ms": 20_000,  # notices a server that hangs while it loads
    "grpc.keepalive_timeout_ms": 10_000,
    "grpc.max_reconnect_backoff_ms": 2_000,
}
_ADDRESS = re.compile(r"([\w.-]+|\[[0-9a-fA-F:]+\]):(\d{1,5})", re.ASCII)
_NO_ANSWER = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


class Connection:
    """A channel to a policy server. Every fault of it, or of its answers, is a UserError."""

    def __init__(self, address: str, token: str | None, certificate: bytes | None) -> None:
        """certificate: in PEM, that of the server or of its issuer; None: no TLS. Raises UserError for no address."""
        if not _ADDRESS.fullmatch(address) or int(address.rpartition(":")[2]) > 65535:
            raise UserError(f"server={address} is not an address; write host:port, such as 192.168.1.20:8080")
        self.address = address
        options = list(_OPTIONS.items())
        if certificate is None:
            self._channel = grpc.insecure_channel(address, options)
        else:
            self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(certificate), options)
        self._metadata = [("authorization", f"Bearer {token}")] if token is not None else []

    def call[M: Message](self, method: str, request: Message, answer_class: type[M], timeout: float) -> M:
        """Answer to a request, checked for its form only. Raises UserError."""
        call = self._channel.unary_unary(f"{SERVICE}{method}")
        try:
            data = call(request.SerializeToString(), timeout=timeout, metadata=self._metadata)
            return parse(answer_class, data)
        except grpc.RpcError as error:
            raise self._user_error(error, timeout) from error
        except MessageError as error:
            raise UserError(f"the policy server {self.address} answers with nonsense: {error}") from error

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _user_error(self, error: grpc.RpcError, timeout: float) -> UserError:
        code, details = error.code(), printable(error.details() or str(error.code()))
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            details = f"nothing within {timeout:.0f} s"
        if code in _NO_ANSWER:
            return UserError(
                f"the policy server {self.address} does not answer: {details}; check it, the network, and that both "
                "sides use TLS or neither"
            )
        if code == grpc.StatusCode.UNKNOWN:
            return UserError(f"the policy server {self.address} answers with nonsense: {details}; check server=")
        if code == grpc.StatusCode.UNIMPLEMENTED:
            return UserError(f"{self.address} is not a policy server of this program: {details}; check server=")
        return UserError(f"the policy server {self.address} refuses: {details}")


class _RemotePolicy:
    """The client's view of the policy: its configuration, without weights."""

    def __init__(self, description: PolicyDescription) -> None:
        images = {name: feature for name, feature in description.inputs.items() if name.startswith(IMAGES)}
        self.config = SimpleNamespace(
            image_features=images,
            robot_state_feature=description.inputs[STATE],
            action_feature=description.action,
            n_obs_steps=description.observation_steps,
            n_action_steps=description.execution_steps,
            device="cpu",
        )
        self._guided = description.guided

    def supports_rtc(self) -> bool:
        return self._guided

    def reset(self) -> None:
        pass


class RemoteRunner(AsynchronousRunner):
    """Runs a policy on a server, as `AsynchronousRunner` runs one in a thread: the control loop does not wait for it.

    Chunks are joined as there: the server's policy continues the previous one if it can. If the server does not answer
    in time, or answers with anything but the chunk that was asked for, the next `act` raises UserError.
    """

    def __init__(
        self, connection: Connection, checkpoint: str, answer: pb.OpenAnswer, latency_steps: int | None = None
    ) -> None:
        """answer: the server's, to opening the checkpoint. Raises UserError for an answer that no server gives."""
        self._connection, self._checkpoint = connection, checkpoint
        self.description, self._session = read_description(answer), answer.session
        self._sequence = 0
        self._seed: int | None = None
        self._answer_timeout = _ANSWER_TIMEOUT
        features = {STATE: self.description.inputs[STATE], ACTION: self.description.action}
        self.fps = self.description.fps or None
        self.value_names = {name: feature.names for name, feature in features.items() if feature.names}
        state, action = (_statistics(name, feature) for name, feature in features.items())
        if self.description.image_fit:
            state.steps.append(_image_step(self.description))
        policy = _RemotePolicy(self.description)
        super().__init__(policy, state, action, latency_steps)  # type: ignore[arg-type]

    @classmethod
    def connect(
        cls,
        checkpoint: str,
        address: str,
        token: str | None = None,
        certificate: Path | str | None = None,
        latency_steps: int | None = None,
    ) -> "RemoteRunner":
        """Open a checkpoint on a server. Nothing of it is needed on this machine.

        Args:
            checkpoint: name of a run folder or checkpoint in the folder that the server serves.
            address: host:port of the server.
            token: the server's shared secret; None: it has none.
            certificate: PEM file with the server's certificate, or its issuer's; None: no TLS.
            latency_steps: as of `AsynchronousRunner`.

        Raises UserError for a checkpoint that cannot be loaded, or a server that does not answer or refuses it.
        """
        if not is_checkpoint_name(checkpoint):
            raise UserError(
                f"checkpoint={printable(checkpoint, 80)} is not a name; with a policy server give the name of a run in "
                f"the folder that it serves, such as {re.sub(r'[^A-Za-z0-9_-]', '', Path(checkpoint).name) or 'my_run'}"
            )
        pem = None if certificate is None else read_certificate(certificate, "certificate")
        connection = Connection(address, token, pem)
        try:
            return cls(connection, checkpoint, _open(connection, checkpoint), latency_steps)
        except BaseException:
            connection.close()
            raise

    def reconnect(self) -> None:
        """Open the checkpoint again on a server that was started again. Raises UserError if it is another policy."""
        answer = _open(self._connection, self._checkpoint)
        if read_description(answer) != self.description:
            raise UserError(f"{self._checkpoint} has changed on the policy server; start this program again")
        self._session, self._sequence = answer.session, 0

    def reset(self, seed: int | None = None) -> None:
        super().reset(seed)
        self._seed = None if seed is None else seed % 2**64

    def close(self) -> None:
        """End the background thread, after its current chunk, and the session."""
        super().close()
        with contextlib.suppress(UserError):  # a server that is gone has no session either
            self._connection.call("Close", pb.CloseRequest(session=self._session), pb.CloseAnswer, timeout=1.0)
        self._connection.close()

    def compute(
        self, step: int, observations: Sequence[Mapping[str, Any]], previous: Tensor | None, delay: int
    ) -> tuple[Tensor, np.ndarray]:
        request = self._request_message(step, observations, previous, delay)
        answer = self._connection.call("Predict", request, pb.PredictAnswer, self._answer_timeout)
        try:
            normalised, actions = read_chunk(answer, request.sequence, step, self.description)
        except MessageError as error:
            raise UserError(f"the policy server {self._connection.address} answers with nonsense: {error}") from error
        self._seed = None
        return torch.from_numpy(normalised), actions

    def _request_message(
        self, step: int, observations: Sequence[Mapping[str, Any]], previous: Tensor | None, delay: int
    ) -> pb.PredictRequest:
        for observation in observations:
            self.check_observation(observation)
            if len(observation["task"].encode()) > MAX_TEXT:
                raise UserError(f"the instruction is longer than {MAX_TEXT} bytes; shorten it")
        self._sequence += 1
        return pb.PredictRequest(
            session=self._session,
            sequence=self._sequence,
            step=step,
            observations=[self._observation_message(observation) for observation in observations],
            previous=None if previous is None else write_tensor("previous", previous.numpy()),
            delay=min(delay, self.description.chunk_size),
            seed=self._seed,
        )

    def _observation_message(self, observation: Mapping[str, Any]) -> pb.Observation:
        """Message of an observation, with images of the policy's size, which are fewer bytes than a camera's."""
        images = {key: image.permute(1, 2, 0).numpy() for key, image in self._images(observation).items()}
        return write_observation({**observation, **images}, self.description)


def _open(connection: Connection, checkpoint: str) -> pb.OpenAnswer:
    # Closing no session is answered at once, so that a server that is not there is noticed before the long wait.
    connection.call("Close", pb.CloseRequest(), pb.CloseAnswer, _ANSWER_TIMEOUT)
    request = pb.OpenRequest(protocol=PROTOCOL, checkpoint=checkpoint)
    return connection.call("Open", request, pb.OpenAnswer, _LOAD_TIMEOUT)


def _image_step(description: PolicyDescription) -> ImageSizeStep:
    """The step of the server's pre-processor that fits images, which is done here."""
    images = {name: feature for name, feature in description.inputs.items() if name.startswith(IMAGES)}
    height, width = next(iter(images.values())).shape[1:]
    recorded = {name: list(feature.recorded) for name, feature in images.items() if feature.recorded}
    return ImageSizeStep(height, width, description.image_fit, recorded)


def _statistics(name: str, feature: Feature) -> SimpleNamespace:
    """Stands for the pipeline that normalises a feature, which is the server's: its statistics are known here."""
    stats = {key: np.array(values) for key, values in feature.statistics.items()}
    return SimpleNamespace(steps=[SimpleNamespace(stats={name: stats} if stats else {})])
