"""A missing optional package is one line that names the extra."""

import subprocess
import sys

import pytest

from tinyvla.errors import UserError
from tinyvla.extras import needs_extra


def test_a_missing_package_names_its_extra():
    message = r"launcher=ray needs no_such_ray; .*uv sync --extra ray .*pip install 'lerobot_policy_tinyvla\[ray\]'"
    with pytest.raises(UserError, match=message), needs_extra("ray", "launcher=ray"):
        import no_such_ray  # noqa: F401


def test_other_errors_pass():
    with pytest.raises(ValueError, match="a bug"), needs_extra("ray", "launcher=ray"):
        raise ValueError("a bug")


WITHOUT_EXTRAS = """
import sys

for name in ("ray", "sklearn", "pycocotools", "onnx", "onnxscript", "onnxruntime", "openvino", "torchao", "grpc",
             "scservo_sdk", "dynamixel_sdk", "rerun", "pygame"):
    sys.modules[name] = None

import envs.demos, envs.evaluation, lerobot_policy_tinyvla, policies, policies.export, robot_io.deployment
import tinyvla_scripts.deploy, tinyvla_scripts.train
from tinyvla.errors import UserError

optional = {"envs.ray_pool": "ray", "tinyvla.frontends.tinysam": "frontends", "policies.remote": "robot"}
for module, extra in optional.items():
    try:
        __import__(module)
    except UserError as error:
        assert f"lerobot_policy_tinyvla[{extra}]" in str(error), error
    else:
        raise AssertionError(f"{module} was imported")
"""


@pytest.mark.slow
def test_everything_else_is_imported_without_the_extras():
    result = subprocess.run([sys.executable, "-c", WITHOUT_EXTRAS], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
