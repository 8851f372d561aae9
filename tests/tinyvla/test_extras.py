"""A missing optional package is one line that names the extra."""

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
