"""A policy on a server: the same actions as here, and one line for whatever is wrong with a message or a side."""

import ast
import contextlib
import shutil
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from tiny import write_so101_policy

import policies.remote
from policies import AsynchronousRunner, load_checkpoint
from policies.remote import RemoteRunner
from policies.remote import policy_service_pb2 as pb
from policies.remote.policy_store import BusyError, PolicyStore
from policies.remote.server import PolicyService, make_server
from policies.remote.sessions import SessionError, Sessions
from policies.remote.settings import ServerSettings, read_settings
from policies.remote.wire import MAX_REQUEST, SERVICE, MessageError, parse
from tinyvla.errors import UserError

TOKEN = "a-secret-of-more-than-16"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "checkpoints"
    write_so101_policy(folder / "reach")
    shutil.copytree(folder / "reach", folder.parent / "outside")
    (folder / "link").symlink_to(folder.parent / "outside")
    shutil.copytree(folder / "reach", folder / "broken")
    (folder / "broken/config.json").write_text('{"type": "tinyvla", "chunk_size": ')
    return folder


@contextlib.contextmanager
def running(settings):
    server, port = make_server(settings)
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


@pytest.fixture(scope="module")
def server(folder):
    with running(ServerSettings(folder, port=0)) as address:
        yield address


@pytest.fixture(scope="module")
def service(folder):
    return PolicyService(Sessions(PolicyStore(folder, "cpu", 1), 30, 60.0))


@pytest.fixture
def altered(service):
    """Start a server that passes each answer through `alter(method, bytes)`; its address."""
    servers = []

    def start(alter):
        methods = {"Open": service.open, "Predict": service.predict, "Close": service.close}
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                lambda data, _, name=name, method=method: alter(name, method(data, 10.0).SerializeToString())
            )
            for name, method in methods.items()
        }
        generic = grpc.method_handlers_generic_handler(SERVICE.strip("/"), handlers)
        servers.append(grpc.server(ThreadPoolExecutor(2), handlers=[generic]))
        port = servers[-1].add_insecure_port("127.0.0.1:0")
        servers[-1].start()
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(0).wait()


def observation(number, dtype=np.uint8):
    camera_images = np.random.default_rng(number).integers(0, 255, (2, 32, 32, 3), dtype=np.uint8).astype(dtype)
    return {
        "observation.images.front": camera_images[0],
        "observation.images.wrist": camera_images[1],
        "observation.state": np.array([0, -50, 30, 70, 5, 40], np.float32) + number,
        "task": "pick up the cube",
    }


def play(runner, steps=24, seed=3, dtype=np.uint8):
    runner.reset(seed)
    return np.stack([runner.act(observation(step, dtype)) for step in range(steps)])


def connect(address, **settings):
    return contextlib.closing(RemoteRunner.connect("reach", address, **settings))


# --- the same actions ---


@pytest.mark.parametrize(("guided", "dtype"), [(True, np.uint8), (False, np.uint8), (True, np.float32)])
def test_a_server_computes_what_the_policy_here_would(folder, server, guided, dtype):
    local = AsynchronousRunner(*load_checkpoint(folder / "reach", "cpu"), latency_steps=2)
    with connect(server, latency_steps=2) as remote:
        assert remote.guided
        local.guided = remote.guided = guided
        np.testing.assert_array_equal(play(remote, dtype=dtype), play(local, dtype=dtype))
        assert remote.cameras == local.cameras
        assert remote.state_size == local.state_size


def test_arms_on_one_server_do_not_disturb_each_other(server):
    with connect(server, latency_steps=1) as first, connect(server, latency_steps=1) as second:
        alone = play(first)
        first.reset(3)
        second.reset(8)
        together = []
        for step in range(24):
            together.append(first.act(observation(step)))
            second.act(observation(100 + step))
        np.testing.assert_array_equal(alone, together)


def test_in_the_background_the_loop_goes_on(server):
    with connect(server) as remote:
        assert np.isfinite(play(remote)).all()


# --- access ---


def test_a_token_and_tls(folder, tmp_path, monkeypatch):
    if not shutil.which("openssl"):
        pytest.skip("certificates are made with openssl")
    for name in ("server", "other"):
        subprocess.run(
            f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={name} "
            f"-addext subjectAltName=IP:127.0.0.1 -keyout {name}.key -out {name}.pem".split(),
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    files = {"token_file": "token", "certificate": "server.pem", "key": "server.key"}
    arguments = [f"{key}={tmp_path / name}" for key, name in files.items()]
    settings = read_settings([f"checkpoints={folder}", "host=0.0.0.0", "port=0", *arguments])
    monkeypatch.setattr("policies.remote.client._ANSWER_TIMEOUT", 3.0)
    trusted, other = tmp_path / "server.pem", tmp_path / "other.pem"
    with running(settings) as address:
        with connect(address, token=TOKEN, certificate=trusted) as remote:
            remote.compute(0, [observation(0)], None, 0)
        for token in (None, "", TOKEN[:-1], f"{TOKEN}x"):
            with pytest.raises(UserError, match="refuses: the token is not the policy server's; give its token_file"):
                RemoteRunner.connect("reach", address, token, trusted)
        for certificate in (other, None):
            with pytest.raises(UserError, match="does not answer"):
                RemoteRunner.connect("reach", address, TOKEN, certificate)
    with pytest.raises(UserError, match=r"token is not a certificate in PEM"):
        RemoteRunner.connect("reach", address, TOKEN, tmp_path / "token")
    with pytest.raises(UserError, match=r"do not belong together.*make both anew"):
        read_settings([f"checkpoints={folder}", f"certificate={other}", f"key={tmp_path / 'server.key'}"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fps=30"], "fps=... was a setting of the former server"),
        (["--fps=30"], "was a setting of the former server"),
        (["host=0.0.0.0"], r"host=0\.0\.0\.0 is open to other machines; add token_file=FILE"),
        (["host=::"], "is open to other machines"),
        (["host=robot.local"], "is open to other machines"),
        (["prot=1"], "unknown setting 'prot=1'; did you mean port"),
        (["port=http"], "port=http does not fit; use a whole number from 0 to 65535"),
        (["port=70000"], "port=70000 does not fit"),
        (["port"], "port has no value"),
        (["port=1", "port=2"], "port is given twice"),
        (["device=cuda:77"], "device=cuda:77 is not there; this machine has cpu"),
        (["token_file=/no/such/file"], "cannot be read"),
        (["token_file=SHORT"], "holds 5 characters, which are too easy to guess"),
        (["token_file=LINES"], "does not hold one line"),
        (["certificate=SHORT"], "TLS needs both certificate=FILE and key=FILE"),
        (["certificate=SHORT", "key=SHORT"], "do not belong together, or are not in PEM"),
        (["sessions=0"], "sessions=0 does not fit"),
        (["checkpoints=/no/such/folder"], "checkpoints is given twice"),
    ],
)
def test_a_wrong_setting_is_one_line(folder, tmp_path, arguments, message):
    (tmp_path / "SHORT").write_text("12345")
    (tmp_path / "LINES").write_text("a secret\non two lines")
    arguments = [argument.replace("=SHORT", f"={tmp_path}/SHORT") for argument in arguments]
    arguments = [argument.replace("=LINES", f"={tmp_path}/LINES") for argument in arguments]
    with pytest.raises(UserError, match=message) as raised:
        read_settings([f"checkpoints={folder}", *arguments])
    assert "\n" not in str(raised.value)


def test_the_former_command_line_is_one_line():
    command = [sys.executable, "-m", "policies.remote", "host=0.0.0.0", "port=8080"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "error: checkpoints is not given; add checkpoints=FOLDER, whose run folders are then served by name\n"
    )


def test_a_port_in_use(folder, server):
    port = int(server.rpartition(":")[2])
    with pytest.raises(UserError, match=rf"cannot listen on 127\.0\.0\.1:{port}: another program may use the port"):
        make_server(ServerSettings(folder, port=port))


# --- checkpoints by name ---


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../outside", "/etc", "a/b", "reach/../reach", "reach\\..", "r\0", "ü"]
)
def test_a_path_is_not_a_name(service, server, name):
    with pytest.raises(UserError, match=r"a checkpoint has a name without / and \.\., such as broken, link, reach"):
        service.open(pb.OpenRequest(protocol=1, checkpoint=name).SerializeToString(), 1.0)
    with pytest.raises(UserError, match="is not a name"):
        RemoteRunner.connect(name, server)


@pytest.mark.parametrize("name", ["link", "nothing"])
def test_a_link_out_of_the_folder_is_no_checkpoint(server, name):
    with pytest.raises(UserError, match=f"has no checkpoint {name}; it has broken, link, reach"):
        RemoteRunner.connect(name, server)


def test_a_checkpoint_that_does_not_load_is_one_line_and_the_server_goes_on(folder, server):
    with pytest.raises(UserError, match=r"refuses: the checkpoint broken cannot be loaded: .*config.json") as raised:
        RemoteRunner.connect("broken", server)
    assert str(folder) not in str(raised.value)
    with connect(server) as remote:
        play(remote, 2)


# --- requests ---


def request_message(session, sequence=1, **changes):
    request = pb.PredictRequest(session=session, sequence=sequence, step=0)
    request.observations.add(task="reach")
    for name, value in list(observation(0).items())[:3]:
        dtype = pb.UINT8 if value.dtype == np.uint8 else pb.FLOAT32
        request.observations[0].tensors.add(name=name, dtype=dtype, shape=value.shape, data=value.tobytes())
    return request


def first_tensor(**fields):
    def change(request):
        tensor = request.observations[0].tensors[0]
        for name, value in fields.items():
            if name == "shape":
                del tensor.shape[:]
                tensor.shape.extend(value)
            else:
                setattr(tensor, name, value)

    return change


def previous(length, size, value=0.0):
    def change(request):
        data = np.full((length, size), value, np.float32)
        request.previous.CopyFrom(pb.Tensor(name="previous", dtype=pb.FLOAT32, shape=data.shape, data=data.tobytes()))

    return change


def set_state(value):
    def change(request):
        request.observations[0].tensors[2].data = np.full(6, value, np.float32).tobytes()

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (first_tensor(name="observation.images.other"), "'observation.images.other' is where .*front belongs"),
        (first_tensor(dtype=pb.UNKNOWN), "has another type; send uint8 or float32"),
        (first_tensor(dtype=7), "has another type"),
        (first_tensor(dtype=pb.FLOAT32), "has 3072 bytes, which is not the size of its shape"),
        (first_tensor(shape=(32, 32)), r"has the shape \(32, 32\) and must have \(32, 32, 3\)"),
        (first_tensor(shape=(2**31, 2**31, 2**31)), r"must have \(32, 32, 3\)"),
        (first_tensor(shape=()), "must have"),
        (first_tensor(data=b""), "has 0 bytes"),
        (first_tensor(data=b"0" * 3073), "has 3073 bytes"),
        (set_state(np.nan), "observation.state holds a number that is not finite"),
        (set_state(np.inf), "observation.state holds a number that is not finite"),
        (lambda request: request.observations[0].tensors.pop(), "an observation has 2 tensors"),
        (lambda request: request.observations.add(), "there are 2 observations; send 1 to 1"),
        (lambda request: request.observations.pop(), "there are 0 observations"),
        (lambda request: setattr(request, "delay", 17), "delay is 17 and at most 16"),
        (previous(0, 6), "must have"),
        (previous(17, 6), "previous has 17 actions and at most 16"),
        (previous(4, 5), r"previous has the shape \(4, 5\) and must have \(n, 6\)"),
        (previous(4, 6, np.nan), "previous holds a number that is not finite"),
        (lambda request: setattr(request.observations[0], "task", "a" * 5000), "task is longer than 4096 bytes"),
    ],
)
def test_a_request_that_does_not_fit_is_one_line(service, change, message):
    session = service.open(pb.OpenRequest(protocol=1, checkpoint="reach").SerializeToString(), 1.0).session
    request = request_message(session)
    change(request)
    with pytest.raises(MessageError, match=message):
        service.predict(request.SerializeToString(), 5.0)
    answer = service.predict(request_message(session, 2).SerializeToString(), 5.0)
    assert (answer.sequence, list(answer.actions.shape)) == (2, [16, 6])
    service.close(pb.CloseRequest(session=session).SerializeToString(), 1.0)


def test_late_and_repeated_requests(service):
    session = service.open(pb.OpenRequest(protocol=1, checkpoint="reach").SerializeToString(), 1.0).session
    service.predict(request_message(session, 5).SerializeToString(), 5.0)
    for sequence in (5, 4, 0):
        with pytest.raises(SessionError, match=f"request {sequence} is late or repeated, the last one was 5"):
            service.predict(request_message(session, sequence).SerializeToString(), 5.0)
    service.close(pb.CloseRequest(session=session).SerializeToString(), 1.0)
    for unknown in (session, "", "f" * 32):
        with pytest.raises(SessionError, match="has no such session"):
            service.predict(request_message(unknown, 6).SerializeToString(), 5.0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x22\x00" * 5000, "it has more than 4096 fields"),
        (b"\x22\x02\x0a\x00" * 4000, "it has more than 4096 fields"),
        (b"\x7a\x00", "there is no field 15"),
        (b"\x0a\x05abc", "are damaged"),
        (b"\x0a\xff\xff\xff\xff\x0f", "session is longer"),
        (b"\x22\xff\xff\xff\xff\x0f", "are damaged"),
        (b"\x0a\x02\xff\xfe", "are damaged"),
        (b"\x08\x01", "session has another type"),
        (b"\x10" + b"\xff" * 11, "a number is too long"),
        (b"\xff", "are damaged"),
    ],
)
def test_bytes_that_are_no_request(data, message):
    with pytest.raises(MessageError, match=message) as raised:
        parse(pb.PredictRequest, data)
    assert "\n" not in str(raised.value)


def test_large_and_compressed_messages_are_refused_unread(server):
    with grpc.insecure_channel(server) as channel:
        call = channel.unary_unary(f"{SERVICE}Close")
        with pytest.raises(grpc.RpcError) as raised:
            call(b"\0" * (MAX_REQUEST + 1), timeout=20)
        assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.RpcError):
            call(b"\0" * (1 << 20), timeout=20, compression=grpc.Compression.Gzip)
        assert call(b"", timeout=20) == b""


def test_the_number_of_sessions_and_policies_is_bounded(folder):
    now = 0.0
    store = PolicyStore(folder, "cpu", 1)
    sessions = Sessions(store, 2, idle_s=10.0, clock=lambda: now)
    first = sessions.open("reach")
    sessions.open("reach")
    with pytest.raises(BusyError, match="has 2 arms"):
        sessions.open("reach")
    now = 8.0
    sessions.use(first.id, 1)
    now = 12.0
    sessions.open("reach")  # in the place of the second, which was silent for 12 s
    assert len(sessions) == 2
    shutil.copytree(folder / "reach", folder / "second")
    sessions.close(first.id)
    with pytest.raises(BusyError, match="has 1 policies in use"):
        sessions.open("second")
    now = 50.0
    sessions.open("second")
    shutil.rmtree(folder / "second")


def test_an_arm_that_was_switched_off_gives_way_where_there_is_no_room(folder):
    now = 0.0
    sessions = Sessions(PolicyStore(folder, "cpu", 1), 2, idle_s=1000.0, clock=lambda: now)
    off, on = sessions.open("reach"), sessions.open("reach")
    now = 59.0
    sessions.use(on.id, 1)
    with pytest.raises(BusyError, match="has 2 arms"):
        sessions.open("reach")
    now = 61.0
    sessions.open("reach")
    sessions.use(on.id, 2)
    with pytest.raises(SessionError, match="no such session"):
        sessions.use(off.id, 1)


# --- answers ---


def edited(edit):
    def alter(method, data):
        if method != "Predict":
            return data
        answer = pb.PredictAnswer.FromString(data)
        edit(answer)
        return answer.SerializeToString()

    return alter


def replaced(data):
    return lambda method, answer: data if method == "Predict" else answer


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (edited(lambda answer: setattr(answer, "sequence", 7)), "it answers request 7 of step 0, not 1 of step 0"),
        (edited(lambda answer: setattr(answer, "step", 9)), "it answers request 1 of step 9, not 1 of step 0"),
        (edited(lambda answer: answer.actions.shape.append(1)), r"actions has the shape \(16, 6, 1\) and must have"),
        (edited(lambda answer: setattr(answer.actions, "dtype", pb.UINT8)), "actions has another type; send float32"),
        (
            edited(lambda answer: setattr(answer.actions, "data", b"\0\0\xc0\x7f" * 96)),
            "actions holds a number that is not finite",
        ),
        (edited(lambda answer: answer.ClearField("normalised")), "the tensor '' is where normalised belongs"),
        (replaced(b""), "it answers request 0"),
        (replaced(bytes(range(256))), "are not valid|are damaged"),
        (replaced(b"\0" * (5 << 20)), "larger than max"),
    ],
)
def test_an_answer_that_does_not_fit_is_one_line(altered, alter, message):
    with connect(altered(alter), latency_steps=0) as remote:
        remote.reset()
        with pytest.raises(UserError, match=message) as raised:
            remote.act(observation(0))
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [("protocol", 9), ("session", "../x"), ("chunk_size", 2**31), ("chunk_size", 0), ("observation_steps", 10**6)],
)
def test_a_policy_that_cannot_be_is_not_opened(altered, field, value):
    def alter(method, data):
        if method != "Open":
            return data
        answer = pb.OpenAnswer.FromString(data)
        setattr(answer, field, value)
        return answer.SerializeToString()

    with pytest.raises(UserError, match=r"it speaks version|session's id|it lies between"):
        RemoteRunner.connect("reach", altered(alter))


def test_a_server_that_hangs_or_ends_is_one_line_at_the_next_act(folder, altered, monkeypatch):
    monkeypatch.setattr("policies.remote.client._ANSWER_TIMEOUT", 0.5)
    hanging, leaving = threading.Event(), threading.Event()

    def alter(method, data):
        if method == "Predict" and hanging.is_set():
            leaving.wait(10)
        return data

    with connect(altered(alter)) as remote:
        play(remote, 3)
        hanging.set()
        remote.reset()
        with pytest.raises(UserError, match=r"does not answer: nothing within 0 s|does not answer: nothing within 1 s"):
            remote.act(observation(0))
        leaving.set()
    with running(ServerSettings(folder, port=0)) as address:
        remote = RemoteRunner.connect("reach", address)
        play(remote, 3)
    remote.reset()
    with pytest.raises(UserError, match="does not answer"):
        remote.act(observation(0))
    remote.close()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n\r\nhello", bytes(range(256)) * 100])
def test_something_that_is_no_policy_server(answer, monkeypatch):
    monkeypatch.setattr("policies.remote.client._ANSWER_TIMEOUT", 1.0)
    listener = socket.create_server(("127.0.0.1", 0))

    def chatter():
        with contextlib.suppress(OSError):
            while True:
                client = listener.accept()[0]
                client.sendall(answer)

    threading.Thread(target=chatter, daemon=True).start()
    with listener, pytest.raises(UserError, match=r"does not answer|nonsense|is not a policy server"):
        RemoteRunner.connect("reach", f"127.0.0.1:{listener.getsockname()[1]}")


@pytest.mark.parametrize("address", ["localhost", "unix:/tmp/socket", "xds:///a:1", "a b:1", "host:99999", ""])
def test_an_address_that_is_none(address):
    with pytest.raises(UserError, match="is not an address; write host:port"):
        RemoteRunner.connect("reach", address)


def test_no_module_reads_pickles():
    files = sorted(Path(policies.remote.__file__).parent.glob("*.py"))
    assert len(files) > 6
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names if name} & {"pickle", "dill", "marshal", "shelve"}
            assert not (isinstance(node, ast.Attribute) and node.attr in ("load", "loads")), file
            assert not (isinstance(node, ast.Name) and node.id in ("eval", "exec")), file
