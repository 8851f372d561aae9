"""Waypoints of demonstrations: later states that a policy may learn to predict from what it sees now.

Of every frame they are the states at the gripper's next change (where the hand grasps or lets go) and at the end of its
demonstration. They come from the demonstrations alone, so that they work for a simulator's and for people's own.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

WAYPOINTS = "observation.waypoints"  # key of a batch; LeRobot's pipelines keep what begins so
WAYPOINT_COUNT = 2
_GRIPPER = "gripper"  # part of an action's name


def waypoints_of(states: Tensor, actions: Tensor, action_names: Sequence[str] | None, last: Tensor) -> Tensor:
    """Waypoints (N, 2, S) of N frames, standardised over all frames.

    Args:
        states, actions: (N, S) and (N, A), of all demonstrations one after the other.
        action_names: of the A numbers of an action; without a gripper among them both waypoints are the end.
        last: (N,), number of the last frame of each frame's demonstration.
    """
    index = torch.stack([next_gripper_change(actions, action_names, last), last], dim=1)
    deviation = states.std(0, correction=0).clamp(min=1e-6)
    return ((states - states.mean(0)) / deviation)[index]


def next_gripper_change(actions: Tensor, action_names: Sequence[str] | None, last: Tensor) -> Tensor:
    """Number of the frame, (N,), in which the gripper next begins to close or to open; else the demonstration's last.

    The gripper's action counts as one of two, by the middle of its range over all frames.
    """
    grippers = [i for i, name in enumerate(action_names or ()) if _GRIPPER in name.lower()]
    if not grippers:
        return last
    gripper = actions[:, grippers[0]]
    closed = gripper > (gripper.min() + gripper.max()) / 2
    changes = torch.nonzero(closed[1:] != closed[:-1]).flatten() + 1
    frames = torch.arange(len(actions))
    position = torch.searchsorted(changes, frames, right=True)  # of the first change after each frame
    following = torch.cat([changes, changes.new_tensor([len(actions)])])[position]
    return following.minimum(last)
