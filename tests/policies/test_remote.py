"""A policy on a server: the same actions as here, and what happens when the server or its answers are not right."""

import numpy as np
import pytest
from tiny import write_so101_policy

from policies import AsynchronousRunner, load_checkpoint
from policies.remote import RemoteRunner
from policies.remote.server import make_server
from policies.remote.settings import ServerSettings
from tinyvla.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    write_so101_policy(folder / "reach")
    return folder


@pytest.fixture(scope="module")
def server(folder):
    server, port = make_server(ServerSettings(folder, port=0))
    server.start()
    yield f"127.0.0.1:{port}"
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


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_server_computes_what_the_policy_here_would(folder, server, guided, dtype):
    local = AsynchronousRunner(*load_checkpoint(folder / "reach", "cpu"), latency_steps=2)
    remote = RemoteRunner.connect("reach", server, latency_steps=2)
    assert remote.guided
    local.guided = remote.guided = guided
    np.testing.assert_array_equal(play(remote, dtype=dtype), play(local, dtype=dtype))
    assert remote.cameras == local.cameras
    assert remote.state_size == local.state_size
    remote.close()


def test_a_server_that_is_not_there(monkeypatch):
    monkeypatch.setattr("policies.remote.client._ANSWER_TIMEOUT", 0.5)
    with pytest.raises(UserError, match=r"the policy server localhost:1 does not answer"):
        RemoteRunner.connect("reach", "localhost:1")
