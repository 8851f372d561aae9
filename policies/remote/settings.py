"""Settings of the policy server, all checked before it listens. Light imports: mistakes show at once."""

import dataclasses
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tinyvla.errors import UserError, did_you_mean, one_line
from tinyvla.untrusted import check_regular

from .wire import MAX_TOKEN

SHORTEST_TOKEN = 16
_MAX_FILE = 1 << 20  # bytes of a certificate or a key
_FORMER = ("fps", "inference_latency", "obs_queue_timeout")  # of LeRobot's server, which had this place
_USAGE = """Policy server: computes action chunks for arms whose computer has no GPU.

  python -m policies.remote checkpoints=outputs

  checkpoints=FOLDER  its run folders and checkpoints are served, by their names
  host=127.0.0.1      address to listen on; any but this machine's own needs token_file
  port=8080
  token_file=FILE     a shared secret of 16 or more characters, which clients have to present
  certificate=FILE    with key=FILE: TLS (PEM)
  device=cpu          cpu, cuda, cuda:1, mps
  sessions=8          arms at a time
  policies=2          policies in memory
  idle_s=1800         seconds after which the session of a silent arm ends"""


@dataclass(frozen=True)
class ServerSettings:
    """Settings of the policy server.

    Args:
        checkpoints: folder whose run folders and checkpoints are served by name.
        host, port: address to listen on; port 0: any free one.
        token: shared secret; None: not asked for.
        credentials: private key and certificate in PEM; None: no TLS.
        device: that computes.
        sessions: greatest number of clients at a time.
        policies: greatest number of policies in memory.
        idle_s: seconds without a request after which a session ends.
    """

    checkpoints: Path
    host: str = "127.0.0.1"
    port: int = 8080
    token: str | None = dataclasses.field(default=None, repr=False)
    credentials: tuple[bytes, bytes] | None = dataclasses.field(default=None, repr=False)
    device: str = "cpu"
    sessions: int = 8
    policies: int = 2
    idle_s: int = 1800

    @property
    def address(self) -> str:
        """host:port, an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_settings(arguments: Sequence[str]) -> ServerSettings | None:
    """Settings of a command line of `key=value`; None if it asks for help. Raises UserError for any mistake in it."""
    if {"--help", "-h", "help"} & set(arguments):
        print(_USAGE)
        return None
    values = _split(arguments)
    if "checkpoints" not in values:
        raise UserError("checkpoints is not given; add checkpoints=FOLDER, whose run folders are then served by name")
    folder = Path(values["checkpoints"])
    if not folder.is_dir():
        raise UserError(f"checkpoints={folder} is not a folder; give a folder of run folders or checkpoints")
    host = values.get("host", ServerSettings.host)
    token = read_token(values["token_file"], "token_file") if "token_file" in values else None
    if token is None and not _is_loopback(host):
        raise UserError(
            f"host={host} is open to other machines; add token_file=FILE, a file with {SHORTEST_TOKEN} or more random "
            "characters (openssl rand -hex 32 > token), or use host=127.0.0.1"
        )
    return ServerSettings(
        checkpoints=folder,
        host=host,
        port=_number(values, "port", 0, 65535),
        token=token,
        credentials=_read_credentials(values.get("certificate"), values.get("key")),
        device=_check_device(values.get("device", ServerSettings.device)),
        sessions=_number(values, "sessions", 1, 1000),
        policies=_number(values, "policies", 1, 100),
        idle_s=_number(values, "idle_s", 1, 10**6),
    )


def read_token(file: Path | str, setting: str) -> str:
    """Shared secret in a file. Raises UserError naming the setting for a file without a usable one."""
    check_regular(Path(file), 4096)
    token = _read(Path(file), setting).decode(errors="replace").strip()
    if not token.isascii() or not token.isprintable() or " " in token or len(token) > MAX_TOKEN:
        raise UserError(
            f"{setting}={file} does not hold one line of at most {MAX_TOKEN} letters, digits and signs; "
            f"write one: openssl rand -hex 32 > {file}"
        )
    if len(token) < SHORTEST_TOKEN:
        raise UserError(
            f"{setting}={file} holds {len(token)} characters, which are too easy to guess; write {SHORTEST_TOKEN} or "
            f"more: openssl rand -hex 32 > {file}"
        )
    return token


def read_certificate(file: Path | str, setting: str) -> bytes:
    """Certificate in PEM. Raises UserError naming the setting for a file that holds none."""
    content = _read(Path(file), setting)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=content.decode())
    except (ssl.SSLError, ValueError) as error:
        raise UserError(
            f"{setting}={file} is not a certificate in PEM ({one_line(error)}); give the server's"
        ) from error
    return content


def _split(arguments: Sequence[str]) -> dict[str, str]:
    known = ["checkpoints", "host", "port", "token_file", "certificate", "key", *_NUMBERS, "device"]
    values: dict[str, str] = {}
    for argument in arguments:
        key, sign, value = argument.partition("=")
        if key.lstrip("-") in _FORMER:
            raise UserError(
                f"{key}=... was a setting of the former server, LeRobot's; leave it out, and see --help for the others"
            )
        if key not in known:
            raise UserError(f"unknown setting '{argument}'; {did_you_mean(key.lstrip('-'), known)}")
        if not sign or not value:
            raise UserError(f"{key} has no value; write {key}=...")
        if key in values:
            raise UserError(f"{key} is given twice; leave one out")
        values[key] = value
    return values


_NUMBERS = ("sessions", "policies", "idle_s")


def _number(values: dict[str, str], key: str, low: int, high: int) -> int:
    defaults = {field.name: field.default for field in dataclasses.fields(ServerSettings)}
    text = values.get(key, str(defaults[key]))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
        raise UserError(f"{key}={text} does not fit; use a whole number from {low} to {high}")
    return int(text)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read_credentials(certificate: str | None, key: str | None) -> tuple[bytes, bytes] | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise UserError("TLS needs both certificate=FILE and key=FILE; add the other one, or leave both out")
    contents = _read(Path(key), "key"), _read(Path(certificate), "certificate")
    try:
        # An empty password, because a key that asks for one would wait for the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: "")
    except (ssl.SSLError, ValueError, OSError) as error:
        raise UserError(
            f"certificate={certificate} and key={key} do not belong together, or are not in PEM without a password "
            f"({one_line(error)}); make both anew, see docs/real-arm.md"
        ) from error
    return contents


def _read(file: Path, setting: str) -> bytes:
    try:
        check_regular(file, _MAX_FILE)
        return file.read_bytes()
    except (OSError, UserError) as error:
        raise UserError(f"{setting}={file} cannot be read ({one_line(error)}); check the path") from error


def _check_device(device: str) -> str:
    import torch

    from ..pipelines import is_device

    has = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind, _, number = device.partition(":")
    is_there = is_device(device) and has.get(kind, False) and (not number or int(number) < torch.cuda.device_count())
    if not is_there:
        choices = ", ".join(name for name in has if has[name])
        raise UserError(f"device={device} is not there; this machine has {choices}")
    return device
