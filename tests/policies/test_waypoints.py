"""Waypoints: the states at the gripper's next change and at the demonstration's end, per frame."""

import pytest
import torch

from policies.tinyvla.waypoints import next_gripper_change, waypoints_of

GRIPPER = [-1, -1, 1, 1, -1, -1, -1, 0.9, 0.9, 0.8]
LAST = torch.tensor([5] * 6 + [9] * 4)  # two demonstrations
ACTIONS = torch.stack([torch.arange(10.0), torch.tensor(GRIPPER)], dim=1)


def test_the_next_change_is_the_frame_in_which_the_gripper_begins_to_move():
    assert next_gripper_change(ACTIONS, ["dx", "gripper.pos"], LAST).tolist() == [2, 2, 4, 4, 5, 5, 7, 9, 9, 9]


@pytest.mark.parametrize("names", [["dx", "dy"], [], None])
def test_without_a_gripper_both_waypoints_are_the_end(names):
    assert next_gripper_change(ACTIONS, names, LAST).equal(LAST)


def test_a_gripper_that_never_moves_has_no_change():
    assert next_gripper_change(ACTIONS[:, [0, 0]] * 0, ["dx", "gripper"], LAST).equal(LAST)


def test_waypoints_are_standardised_states():
    states = torch.arange(10.0)[:, None] * torch.tensor([2.0, 0.0])  # the second one stands still
    waypoints = waypoints_of(states, ACTIONS, ["dx", "gripper"], LAST)
    assert waypoints.shape == (10, 2, 2)
    expected = (torch.tensor([[2.0, 5.0], [9.0, 9.0]]) - 4.5) / torch.arange(10.0).std(correction=0)
    torch.testing.assert_close(waypoints[[0, 8], :, 0], expected)
    assert not waypoints[..., 1].any()
