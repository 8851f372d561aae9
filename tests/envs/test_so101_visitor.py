"""Visitors at the SO-101's table: out of view until they are placed, and without contact to the arm."""

import mujoco
import numpy as np
import pytest

from envs.so101.twin import Judge, TwinScene
from envs.so101.visitor import AWAY, VISIBLE, VisitedScene, draw_place, place_visitor, visible_share, visitor_images


@pytest.fixture(scope="module")
def scenes():
    both = TwinScene(), VisitedScene(visitors=2)
    yield both
    for scene in both:
        scene.close()


def test_out_of_sight_they_change_nothing(scenes):
    plain, visited = scenes
    assert plain.model.nq == visited.model.nq
    images = [scene.draw(scene.data, "front", 64, 64) for scene in scenes]
    assert (images[0] == images[1]).all()
    Judge("reach").success({"qpos": visited.data.qpos.tolist(), "qvel": visited.data.qvel.tolist()})


def test_in_view_they_are_seen_and_touch_nothing(scenes):
    _, visited = scenes
    model, data = visited.model, visited.data
    before, rng = visited.draw(data, "front", 64, 64).copy(), np.random.default_rng(0)
    contacts, changed = data.ncon, []
    for index in range(20):
        place_visitor(model, data, f"visitor{index % 2}", draw_place(rng))
        mujoco.mj_forward(model, data)
        assert data.ncon == contacts
        changed.append(visible_share(visited.draw(data, "front", 64, 64), before))
    assert min(changed) > VISIBLE / 2
    assert np.median(changed) > 0.05
    away = data.mocap_pos[model.body("visitor0").mocapid[0]]
    assert tuple(away) == AWAY
    place_visitor(model, data, None, draw_place(rng))
    mujoco.mj_forward(model, data)
    assert (visited.draw(data, "front", 64, 64) == before).all()


def test_images_of_the_table_with_and_without_visitors():
    images, labels = visitor_images(6, "front", 48, seed=3, visitors=2)
    assert images.shape == (6, 48, 48, 3)
    assert [label["person"] for label in labels] == [0, 1] * 3
    again, _ = visitor_images(6, "front", 48, seed=3, visitors=2)
    assert (images == again).all()
    assert len(np.unique(images.reshape(6, -1), axis=0)) == 6
