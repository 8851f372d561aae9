"""A policy on LeRobot's server: the same actions as here, and what happens when it is not there."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from lerobot.transport import services_pb2_grpc
from tiny import write_so101_policy

from policies import AsynchronousRunner, load_policy
from policies.remote import RemoteRunner, served
from tinyvla.errors import UserError

served.SUPPORTED_POLICIES.append("tinyvla")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_so101_policy(tmp_path_factory.mktemp("run"))


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # LeRobot writes its log there, from when it is imported
    from lerobot.async_inference.configs import PolicyServerConfig
    from lerobot.async_inference.policy_server import PolicyServer

    server = grpc.server(ThreadPoolExecutor(4))
    services_pb2_grpc.add_AsyncInferenceServicer_to_server(
        PolicyServer(PolicyServerConfig(fps=30, inference_latency=0.0)), server
    )
    port = server.add_insecure_port("localhost:0")
    server.start()
    yield f"localhost:{port}", server
    server.stop(0)


def observation(number):
    camera_images = np.random.default_rng(number).integers(0, 255, (2, 32, 32, 3), dtype=np.uint8)
    return {
        "observation.images.front": camera_images[0],
        "observation.images.wrist": camera_images[1],
        "observation.state": np.array([0, -50, 30, 70, 5, 40], np.float32) + number,
        "task": "pick up the cube",
    }


def test_a_server_computes_what_the_policy_here_would(checkpoint, server):
    address, process = server
    local = load_policy(checkpoint, "cpu")
    remote = RemoteRunner.connect(checkpoint, address)
    assert isinstance(remote, AsynchronousRunner)
    local.reset(3)
    chunk = local.policy.predict_action_chunk(local._batch(observation(0)))
    expected = local._unnormalise(chunk.squeeze(0))
    remote.reset(3)  # the server runs in this process, so the seed holds for it too
    first = remote.act(observation(0))
    assert first == pytest.approx(expected[0], abs=0.05)
    actions = [remote.act(observation(step)) for step in range(1, 12)]
    assert np.isfinite(actions).all()
    process.stop(0).wait()
    remote.reset(4)
    with pytest.raises(UserError, match="the policy server does not answer"):
        remote.act(observation(0))
    remote.close()


def test_a_server_that_is_not_there(checkpoint, monkeypatch):
    monkeypatch.setattr("policies.remote._ANSWER_TIMEOUT", 0.5)
    with pytest.raises(UserError, match=r"the policy server localhost:1 does not load .*python -m policies\.remote"):
        RemoteRunner.connect(checkpoint, "localhost:1")
