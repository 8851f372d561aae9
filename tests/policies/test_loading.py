"""Policies for use in a program."""

import numpy as np
import pytest
from tiny import write_metaworld_policy

from policies import load_policy
from tinyvla.errors import UserError


def test_a_policy_acts_on_an_observation(tmp_path):
    checkpoint = write_metaworld_policy(tmp_path / "policy")
    policy = load_policy(checkpoint, "cpu")
    assert policy.checkpoint == checkpoint
    image, state = np.zeros((32, 32, 3), np.uint8), np.zeros(4, np.float32)
    observation = {"observation.images.corner2": image, "observation.state": state, "task": "open the drawer"}
    policy.reset(seed=0)
    action = policy.act(observation)
    assert (action.shape, action.dtype) == ((4,), np.float32)
    policy.reset(seed=0)
    np.testing.assert_array_equal(policy.act(observation), action)
    policy.reset()
    with pytest.raises(UserError, match=r"the observation has no observation.state; the policy needs"):
        policy.act({key: value for key, value in observation.items() if key != "observation.state"})
