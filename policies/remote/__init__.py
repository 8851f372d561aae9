"""A policy on another machine: a server that computes action chunks, and a runner that asks it for them.

    python -m policies.remote checkpoints=outputs                        # on the machine with the GPU
    runner = RemoteRunner.connect("my_run", "127.0.0.1:8080")            # on the arm's

Messages are those of `policy_service.proto`: numbers, names and raw tensors. Nothing in them is run, and both sides
check every message that they read. See docs/real-arm.md.
"""

from typing import TYPE_CHECKING, Any

from tinyvla.extras import needs_extra

with needs_extra("robot", "a policy server"):
    import google.protobuf  # noqa: F401
    import grpc  # noqa: F401

if TYPE_CHECKING:
    from .client import RemoteRunner

__all__ = ["RemoteRunner"]


def __getattr__(name: str) -> Any:
    if name != "RemoteRunner":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .client import RemoteRunner  # imports PyTorch, which the server's checks of its settings do not need

    return RemoteRunner
