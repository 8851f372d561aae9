"""A deployment with a policy server: the policy's facts come from there, and are checked as those of a checkpoint."""

from types import SimpleNamespace

import numpy as np
import pytest
from fake_arm import JOINTS
from tiny import SO101_HIGH, SO101_LOW, write_so101_policy

from configs.composing import as_dict, load_config
from policies.remote.server import make_server
from policies.remote.settings import ServerSettings
from robot_io.deployment import ServerAccess, check_fit
from robot_io.deployment.checks import other_views
from robot_io.deployment.command_sources import load_arm_runner
from robot_io.safety import SafetyLimits
from tinyvla.errors import UserError

FEATURES = {f"{joint}.pos": float for joint in JOINTS} | {"front": (32, 32, 3), "wrist": (32, 32, 3)}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    write_so101_policy(folder / "degrees")
    write_so101_policy(folder / "radians", np.radians(SO101_LOW).tolist(), np.radians(SO101_HIGH).tolist())
    server, port = make_server(ServerSettings(folder, port=0))
    server.start()
    yield ServerAccess(f"127.0.0.1:{port}")
    server.stop(0).wait()


def test_a_policy_on_a_server_is_checked_against_the_arm(server):
    limits = SafetyLimits.decode(as_dict(load_config("deploy", ["checkpoint=none"]).safety) | {"model": None})
    runner = load_arm_runner("degrees", server=server)
    check_fit(runner, FEATURES, limits, runner.value_names)
    webcam = FEATURES | {"front": (48, 64, 3)}
    check_fit(runner, webcam, limits)
    (line,) = other_views(runner, webcam)
    assert "front gives 64x48 pixels and the policy's recordings had 32x32" in line
    runner.close()
    runner = load_arm_runner("radians", server=server)
    with pytest.raises(UserError, match="as radians do"):
        check_fit(runner, FEATURES, limits)
    runner.close()
    with pytest.raises(UserError, match=r"checkpoint=outputs/run is not a name; .* such as run"):
        load_arm_runner("outputs/run", server=server)


def test_access_is_read_from_the_settings(tmp_path):
    settings = {"server": None, "server_token_file": None, "server_certificate": None}
    cfg = SimpleNamespace(**settings)
    assert ServerAccess.read(cfg) is None
    cfg.server = "host:8080"
    assert ServerAccess.read(cfg) == ServerAccess("host:8080")
    for name in ("server_token_file", "server_certificate"):
        with pytest.raises(UserError, match=f"{name} is set but server is not"):
            ServerAccess.read(SimpleNamespace(**settings | {name: "file"}))
        access = ServerAccess("host:8080", **{name.removeprefix("server_"): str(tmp_path / "missing")})
        with pytest.raises(UserError, match="missing cannot be read"):
            access.connect("run")
