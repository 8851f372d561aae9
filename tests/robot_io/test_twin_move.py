"""Command `move` of the twin: visitors who come into view of its cameras."""

from functools import partial

import numpy as np
import pytest

from envs.so101.visitor import VisitedScene, draw_place
from robot_io.twin import TwinSettings
from robot_io.twin.twin import Twin
from tinyvla.errors import UserError


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """Not running."""
    twin = Twin(TwinSettings(scene=partial(VisitedScene, visitors=1)), tmp_path_factory.mktemp("twin"))
    yield twin
    twin.close()


def test_a_body_is_moved_and_turned(twin):
    place = draw_place(np.random.default_rng(0))
    commands = twin.commands
    commands.do("move visitor0 " + " ".join(map(str, [*place.position, *(2 * place.turn)])))
    mocap = twin.physics.model.body("visitor0").mocapid[0]
    assert twin.physics.data.mocap_pos[mocap] == pytest.approx(place.position)
    assert twin.physics.data.mocap_quat[mocap] == pytest.approx(place.turn)
    commands.do("move visitor0 0 0 -3")
    assert twin.physics.data.mocap_pos[mocap].tolist() == [0, 0, -3]
    assert twin.physics.data.mocap_quat[mocap] == pytest.approx(place.turn)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("move", "there are visitor0"),
        ("move cube 0 0 0", "there are visitor0"),
        ("move visitor0 1 2", "three finite numbers"),
        ("move visitor0 1 2 nan", "three finite numbers"),
        ("move visitor0 1 2 3 0 0 0 0", "a quaternion that is not zero"),
        ("move visitor0 here 2 3", "cannot read"),
    ],
)
def test_what_cannot_be_moved(line, what, twin):
    with pytest.raises(UserError, match=what):
        twin.commands.do(line)
