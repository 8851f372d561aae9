"""Doors in messages to the policy server; see `doors`."""

import pickle
import shutil
from pathlib import Path

from .doors import Door, careless_at, in_work, model, read
from .traps import Trap

_CLIENT = "LeRobot's message to"


def doors() -> list[Door]:
    listed = [
        Door(
            f"policy server: {_CLIENT} {method}",
            f"api server message.{method}",
            lambda work, trap, method=method: (work / f"message.{method}").write_bytes(trap.pickled()),  # type: ignore[misc]
            careless_at(in_work(f"message.{method}"), _unpickle),
        )
        for method in ("open", "predict", "close")
    ]
    return [
        *listed,
        Door(
            "policy server: a checkpoint elsewhere",
            "api server message.open",
            _plant_name,
            lambda work, trap: read(trap.bait),
        ),
    ]


def _unpickle(file: Path) -> None:
    pickle.loads(file.read_bytes())


def _plant_name(work: Path, trap: Trap) -> None:
    from policies.remote import policy_service_pb2 as pb
    from policies.remote.wire import PROTOCOL

    shutil.copytree(model(work), trap.bait, dirs_exist_ok=True)
    request = pb.OpenRequest(protocol=PROTOCOL, checkpoint=f"../../{trap.bait.name}")
    (work / "message.open").write_bytes(request.SerializeToString())
