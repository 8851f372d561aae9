"""The policy server of a deployment: where it is, and what it asks for."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tinyvla.errors import UserError

if TYPE_CHECKING:
    from policies.remote import RemoteRunner


@dataclass(frozen=True)
class ServerAccess:
    """Address of a policy server, and the files that give access to it.

    Args:
        address: host:port.
        token_file: file with its token; None: it has none.
        certificate: PEM file with its certificate, or its issuer's; None: no TLS.
    """

    address: str
    token_file: str | None = None
    certificate: str | None = None

    @classmethod
    def read(cls, cfg: Any) -> "ServerAccess | None":
        """Access from the settings `server`, `server_token_file` and `server_certificate`; None: no server.

        Raises UserError for a token or a certificate without a server.
        """
        if cfg.server is not None:
            return cls(str(cfg.server), cfg.server_token_file, cfg.server_certificate)
        for name in ("server_token_file", "server_certificate"):
            if getattr(cfg, name) is not None:
                raise UserError(f"{name} is set but server is not; add server=host:port, or leave {name} out")
        return None

    def connect(self, checkpoint: str) -> "RemoteRunner":
        """Runner of a checkpoint by its name on the server. Raises UserError."""
        from policies.remote import RemoteRunner  # needs gRPC
        from policies.remote.settings import read_certificate, read_token

        token = None if self.token_file is None else read_token(self.token_file, "server_token_file")
        if self.certificate is not None:
            read_certificate(self.certificate, "server_certificate")
        return RemoteRunner.connect(checkpoint, self.address, token, self.certificate)
