"""The policy server: answers the requests of `policy_service.proto`, whatever their bytes are."""

import hmac
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import grpc

from tinyvla.errors import UserError, one_line

from . import policy_service_pb2 as pb
from .messages import read_observations, read_previous, write_description, write_tensor
from .policy_store import BusyError, PolicyStore
from .sessions import Sessions
from .settings import ServerSettings
from .wire import CHANNEL_OPTIONS, MAX_REQUEST, PROTOCOL, SERVICE, MessageError, parse, printable

_WORKERS = 4  # requests that are read or wait at a time; of those, one is computed
_WAITING = 8  # requests at a time; further ones are refused
_PATIENCE_S = 60.0  # seconds that a request without a deadline may wait
_GRACE_S = 1.0
_OPTIONS = CHANNEL_OPTIONS | {
    "grpc.max_receive_message_length": MAX_REQUEST,
    "grpc.so_reuseport": 0,  # a second server on the port is an error
    "grpc.http2.min_ping_interval_without_data_ms": 5000,
    "grpc.keepalive_permit_without_calls": 1,
}
_CODES = {MessageError: grpc.StatusCode.INVALID_ARGUMENT, BusyError: grpc.StatusCode.RESOURCE_EXHAUSTED}


class PolicyService:
    """The three requests, each from the bytes of its message to those of the answer."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def open(self, data: bytes, patience_s: float) -> pb.OpenAnswer:
        """Open a checkpoint for a new session. Raises UserError."""
        request = parse(pb.OpenRequest, data)
        if request.protocol != PROTOCOL:
            raise MessageError(
                f"the policy server speaks version {PROTOCOL} of the protocol, not {request.protocol}; use the same "
                "version of this program on both machines"
            )
        session = self._sessions.open(request.checkpoint)
        log(f"{session.name} is open for {len(self._sessions)} arms")
        return write_description(session.policy.description, session.id)

    def predict(self, data: bytes, patience_s: float) -> pb.PredictAnswer:
        """Compute a chunk and wait at most `patience_s` seconds for others. Raises UserError."""
        request = parse(pb.PredictRequest, data)
        session = self._sessions.use(request.session, request.sequence)
        description = session.policy.description
        observations = read_observations(request.observations, description)
        previous = read_previous(request, description)
        random_state = request.seed if request.HasField("seed") else session.random_state
        normalised, actions, session.random_state = session.policy.compute(
            request.step, observations, previous, request.delay, random_state, patience_s
        )
        return pb.PredictAnswer(
            sequence=request.sequence,
            step=request.step,
            normalised=write_tensor("normalised", normalised),
            actions=write_tensor("actions", actions),
        )

    def close(self, data: bytes, patience_s: float) -> pb.CloseAnswer:
        """End a session; an empty one is allowed, with which clients see that the server is there."""
        self._sessions.close(parse(pb.CloseRequest, data).session)
        return pb.CloseAnswer()


def make_server(settings: ServerSettings) -> tuple[grpc.Server, int]:
    """Server that listens, but has not started, and its port. Raises UserError for an address that cannot be used."""
    store = PolicyStore(settings.checkpoints, settings.device, settings.policies)
    service = PolicyService(Sessions(store, settings.sessions, settings.idle_s))
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(_handler(method, settings.token))
        for name, method in (("Open", service.open), ("Predict", service.predict), ("Close", service.close))
    }
    server = grpc.server(
        ThreadPoolExecutor(_WORKERS, "requests"),
        handlers=[grpc.method_handlers_generic_handler(SERVICE.strip("/"), handlers)],
        options=list(_OPTIONS.items()),
        maximum_concurrent_rpcs=_WAITING,
    )
    try:
        if settings.credentials is not None:
            port = server.add_secure_port(settings.address, grpc.ssl_server_credentials([settings.credentials]))
        else:
            port = server.add_insecure_port(settings.address)
    except RuntimeError as error:
        raise UserError(
            f"the policy server cannot listen on {settings.address}: another program may use the port, or this machine "
            f"may not have the address; use another port= or host= ({one_line(error, 120)})"
        ) from error
    return server, port


def _handler(
    method: Callable[[bytes, float], Any], token: str | None
) -> Callable[[bytes, grpc.ServicerContext], bytes]:
    """Handler of a request that checks its token and reports every fault as one line, here and to the client."""

    def handle(data: bytes, context: grpc.ServicerContext) -> bytes:
        if token is not None:
            _check_token(context, token)
        try:
            remaining_s = context.time_remaining()
            patience_s = _PATIENCE_S if remaining_s is None else min(remaining_s, _PATIENCE_S)
            return method(data, patience_s).SerializeToString()
        except UserError as error:
            code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), None)
            _refuse(context, code or grpc.StatusCode.FAILED_PRECONDITION, str(error))
        except Exception as error:  # a policy's libraries fail with any error there is, and the server goes on
            fault = f"{type(error).__name__}: {one_line(error)}"
            _refuse(context, grpc.StatusCode.INTERNAL, f"the policy server failed ({fault}); try another checkpoint")

    return handle


def _check_token(context: grpc.ServicerContext, token: str) -> None:
    sent = dict(context.invocation_metadata()).get("authorization", "")
    if not hmac.compare_digest(str(sent).encode(), f"Bearer {token}".encode()):  # takes the same time for any token
        _refuse(context, grpc.StatusCode.UNAUTHENTICATED, "the token is not the policy server's; give its token_file")


def _refuse(context: grpc.ServicerContext, code: grpc.StatusCode, fault: str) -> NoReturn:
    fault = printable(fault, 600)
    log(f"refused {printable(context.peer(), 60)}: {fault}")
    context.abort(code, fault)
    raise AssertionError  # abort has raised


def log(line: str) -> None:
    """Write a line to stderr; stdout is redirected while a policy is loaded."""
    print(line, file=sys.stderr, flush=True)


def serve(settings: ServerSettings) -> None:
    """Serve until SIGINT or SIGTERM. Raises UserError for an address that cannot be used."""
    server, port = make_server(settings)
    leaving = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: leaving.set())
    server.start()
    protection = "TLS" if settings.credentials else "no TLS"
    access = "token" if settings.token else "no token"
    log(f"serving {settings.checkpoints} on {settings.host}:{port} ({protection}, {access}, {settings.device})")
    if settings.token is not None and settings.credentials is None:
        log("without certificate= and key= the token and all images can be read on the network")
    leaving.wait()
    server.stop(_GRACE_S).wait()
