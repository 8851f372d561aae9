"""Fixtures of the environments' tests."""

import pytest
from so101_settings import config

from envs import make_env


@pytest.fixture(scope="module")
def lift():
    """The SO-101 with the task pick-lift."""
    env = make_env(config(), "pick-lift")
    yield env
    env.close()
