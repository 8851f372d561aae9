"""Meta-World: its tasks, what a policy sees, what an action does, and mistakes answered in one line."""

import itertools
import json
from importlib import resources

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from metaworld.env_dict import ALL_V3_ENVIRONMENTS

from envs import decode_env, make_env, resolve_tasks
from envs.metaworld import CONTROL_HZ
from envs.metaworld.env import CAMERAS, MetaWorldEnv
from envs.metaworld.tasks import INSTRUCTIONS, SUITES
from envs.rendering import CameraRenderer
from tinyvla.errors import UserError

UP = np.array([0.0, 0.0, 1.0])
HAND = ("hand", "rightclaw", "leftclaw", "rightpad", "leftpad")


def config(**changes):
    settings = {"cameras": ["corner2", "topview"], "image_size": 48, "render": "fast", "max_steps": 500}
    return decode_env({"name": "metaworld"} | settings | changes)


@pytest.fixture(scope="module")
def drawer():
    env = make_env(config(), "drawer-open-v3")
    yield env
    env.close()


@pytest.fixture(scope="module")
def reach():
    env = make_env(config(cameras=["corner2"]), "reach-v3")
    yield env
    env.close()


def test_all_tasks_have_an_instruction_of_their_own():
    assert set(INSTRUCTIONS) == set(ALL_V3_ENVIRONMENTS)
    assert len(INSTRUCTIONS) == 50 == len(set(INSTRUCTIONS.values()))
    assert all(text.strip() for text in INSTRUCTIONS.values())


def test_difficulty_groups_are_those_of_lerobot_and_share_out_all_tasks():
    groups = {name: SUITES[name] for name in ("easy", "medium", "hard", "very_hard")}
    assert sorted(itertools.chain(*groups.values())) == sorted(INSTRUCTIONS)
    theirs = json.loads((resources.files("lerobot") / "envs/metaworld_config.json").read_text())["DIFFICULTY_TO_TASKS"]
    assert {name: set(tasks) for name, tasks in groups.items()} == {name: set(theirs[name]) for name in groups}


def test_mt10_is_metaworlds():
    from metaworld.env_dict import MT10_V3

    assert set(SUITES["mt10"]) == set(MT10_V3)


def test_suites_expand_in_order_and_each_task_once():
    assert resolve_tasks(config(tasks=["push-v3", "hard", "reach-v3"])) == [
        "push-v3", *(task for task in SUITES["hard"] if task != "push-v3"), "reach-v3",
    ]  # fmt: skip
    assert resolve_tasks(config(tasks="mt50")) == list(INSTRUCTIONS)
    with pytest.raises(UserError, match="empty"):
        resolve_tasks(config(tasks=[]))


@pytest.mark.parametrize("name", ["drawer-opne-v3", "pick-place", "mt-10"])
def test_an_unknown_task_names_the_nearest(name):
    with pytest.raises(UserError, match=f"unknown Meta-World task or suite '{name}'.*did you mean .*(drawer|pick|mt)"):
        resolve_tasks(config(tasks=[name]))


def test_gymnasium_accepts_the_environment():
    env = make_env(config(image_size=16, max_steps=5), "reach-v3")
    check_env(env)
    env.close()


def test_an_observation_is_images_proprioception_and_the_instruction(drawer):
    observation, info = drawer.reset(seed=3)
    assert set(observation) == {
        "observation.images.corner2", "observation.images.topview", "observation.state", "task",
    }  # fmt: skip
    for camera in drawer.cameras:
        image = observation[f"observation.images.{camera}"]
        assert image.shape == (48, 48, 3)
        assert image.dtype == np.uint8
        assert image.std() > 10  # not blank
    assert observation["observation.state"].dtype == np.float32
    np.testing.assert_allclose(observation["observation.state"][:3], drawer._sim.get_endeff_pos(), atol=1e-6)
    assert 0 <= observation["observation.state"][3] <= 1
    assert observation["task"] == INSTRUCTIONS["drawer-open-v3"]
    assert observation in drawer.observation_space
    assert info == {"success": False}
    assert drawer.metadata["render_fps"] == CONTROL_HZ == round(1 / drawer._sim.dt)
    assert drawer.render().shape == (256, 256, 3)


def test_only_images_tell_where_object_and_goal_are(reach):
    """At the start the hand is always in the same place: whatever else differs would be a leak."""
    first, second = (reach.reset(seed=seed)[0] for seed in (0, 1))
    goals = [reach.reset(seed=seed) and reach._sim._target_pos.copy() for seed in (0, 1)]
    assert np.abs(goals[0] - goals[1]).max() > 0.01
    np.testing.assert_array_equal(first["observation.state"], second["observation.state"])
    assert first["task"] == second["task"]
    assert (first["observation.images.corner2"] != second["observation.images.corner2"]).any()


def test_the_goal_marker_is_in_place_in_the_first_image(reach):
    for seed in (0, 1):
        reach.reset(seed=seed)
        np.testing.assert_allclose(reach._sim.data.site("goal").xpos, reach._sim._target_pos)


def play(env, seed, steps=15):
    """States and last image of an episode with actions drawn from the seed."""
    states = [env.reset(seed=seed)[0]["observation.state"]]
    rng = np.random.default_rng(7)
    for _ in range(steps):
        env.apply(rng.uniform(-1, 1, 4))
        states.append(env._full_state.copy()[:4])
    return np.array(states), env._full_state.copy(), env.observe()["observation.images.corner2"]


def test_an_episode_is_a_function_of_task_seed_and_actions(drawer):
    first = play(drawer, 11)
    play(drawer, 12)
    other_env = make_env(config(cameras=["corner2"]), "drawer-open-v3")
    for env in (drawer, other_env):
        for left, right in zip(first, play(env, 11), strict=True):
            np.testing.assert_array_equal(left, right)
    other_env.close()
    assert (play(drawer, 12)[1] != first[1]).any()


def test_resetting_without_a_seed_goes_on_with_new_episodes(reach):
    def episodes():
        reach.reset(seed=5)
        return [reach.reset() and reach._sim._target_pos.copy() for _ in range(3)]

    first = episodes()
    assert len({tuple(goal) for goal in first}) == 3
    np.testing.assert_array_equal(first, episodes())


def centre_of(env, bodies):
    """Centre (row, column) in the first camera's image of some bodies: of the pixels that change when painted."""
    model = env._sim.model
    geoms = [i for i in range(model.ngeom) if model.body(model.geom_bodyid[i]).name in bodies]
    plain = env._draw(env.cameras[0], 96).astype(int)
    materials, colours = model.geom_matid[geoms].copy(), model.geom_rgba[geoms].copy()
    model.geom_matid[geoms], model.geom_rgba[geoms] = -1, (0, 0, 1, 1)
    painted = env._draw(env.cameras[0], 96).astype(int)
    model.geom_matid[geoms], model.geom_rgba[geoms] = materials, colours
    rows, columns = np.nonzero(np.abs(painted - plain).max(axis=-1) > 20)
    assert len(rows) > 5
    return np.array([rows.mean(), columns.mean()])


@pytest.mark.parametrize("camera", sorted(set(CAMERAS) - {"gripperPOV", "topview", "topview_table"}))
def test_images_are_upright_and_not_mirrored(camera):
    env = MetaWorldEnv("reach-v3", [camera], 96)
    env.reset(seed=0)
    right = np.cross(-env._sim.data.camera(camera.removesuffix("_table")).xmat.reshape(3, 3)[:, 2], UP)
    right /= np.linalg.norm(right)
    # Where the hand goes, it goes in the image; from a camera on the hand everything else goes the other way.
    bodies, sign = (["obj"], -1) if camera == "behindGripper" else (HAND, 1)
    start = centre_of(env, bodies)
    for _ in range(12):
        env.apply([0, 0, 1, 0])
    raised = centre_of(env, bodies)
    assert sign * (start[0] - raised[0]) > 2  # upwards is towards the first row
    for _ in range(12):
        env.apply([*right, 0])
    assert sign * (centre_of(env, bodies)[1] - raised[1]) > 2
    env.close()


def test_fast_and_faithful_show_the_same_scene_differently(drawer):
    faithful = make_env(config(render="faithful"), "drawer-open-v3")
    images = [env.reset(seed=0)[0]["observation.images.corner2"].astype(float) for env in (drawer, faithful)]
    assert np.abs(images[0] - images[1]).mean() > 1
    assert np.corrcoef(images[0].ravel(), images[1].ravel())[0, 1] > 0.4  # the sky is black in one, grey in the other
    faithful.close()


def test_fast_rendering_changes_no_physics(drawer):
    faithful = make_env(config(render="faithful", image_size=16), "drawer-open-v3")
    assert drawer.model.mesh_facenum.sum() < faithful.model.mesh_facenum.sum() / 3
    rng = np.random.default_rng(0)
    for env in (drawer, faithful):
        env.reset(seed=0)
    for _ in range(80):
        action = (drawer.expert_action() + rng.normal(0, 0.3, 4)).clip(-1, 1).astype(np.float32)
        for env in (drawer, faithful):
            env.apply(action)
        np.testing.assert_array_equal(drawer.data.qpos, faithful.data.qpos)
    faithful.close()


@pytest.mark.parametrize("camera", ["corner2", "topview"])
def test_a_view_of_the_table_shows_the_goal_larger_and_still_whole(camera):
    views = [camera, f"{camera}_table"]
    env = make_env(config(cameras=views, image_size=96), "pick-place-v3")
    observations = [env.reset(seed=seed)[0] for seed in range(6)]
    before = observations[-1][f"observation.images.{camera}"]
    np.testing.assert_array_equal(env.observe()[f"observation.images.{camera}"], before)  # the camera is put back
    env.close()
    sizes = []
    for view in views:
        images = np.stack([observation[f"observation.images.{view}"] for observation in observations]).astype(int)
        blue = (images[..., 2] > 100) & (images[..., :2] < 60).all(-1)  # the goal marker
        assert not blue[:, [0, -1]].any()
        assert not blue[:, :, [0, -1]].any()
        sizes.append(blue.sum((1, 2)))
    assert sizes[1].min() >= 4
    assert sizes[1].sum() > 1.5 * sizes[0].sum()


def test_faithful_is_the_stock_look():
    env = make_env(config(render="faithful", cameras=["corner3"], image_size=64), "drawer-open-v3")
    ours = env.reset(seed=0)[0]["observation.images.corner3"]
    stock = env._sim.mujoco_renderer
    stock.width = stock.height = 64
    stock.camera_id = env._sim.model.camera("corner3").id
    np.testing.assert_allclose(ours, stock.render("rgb_array")[::-1, ::-1], atol=2)
    env.close()


def test_renderers_of_different_sizes_share_a_model(drawer):
    drawer.reset(seed=0)
    small = drawer.observe()["observation.images.corner2"]
    drawer.render()
    np.testing.assert_array_equal(small, drawer.observe()["observation.images.corner2"])
    large = CameraRenderer(drawer._sim.model, 800)
    assert large.draw(drawer._sim.data, "corner2").shape == (800, 800, 3)
    large.close()


def test_actions_are_clipped_and_reported_as_applied(reach):
    outcomes = []
    for action in ([3.0, -9.0, 0.5, 1.0], [1.0, -1.0, 0.5, 1.0]):
        reach.reset(seed=0)
        _, _, _, info = reach.apply(action)
        outcomes.append(reach._full_state.copy())
        np.testing.assert_array_equal(info["action"], np.array([1.0, -1.0, 0.5, 1.0], np.float32))
    np.testing.assert_array_equal(*outcomes)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ([0.0, np.nan, 0.0, 0.0], "not finite"),
        ([0.0, np.inf, 0.0, 0.0], "not finite"),
        ([0.0] * 7, r"shape \(4,\), got \(7,\)"),
        ([[0.0] * 4], r"shape \(4,\), got \(1, 4\)"),
    ],
)
def test_an_action_that_cannot_be_applied_is_one_clear_error(reach, action, message):
    reach.reset(seed=0)
    with pytest.raises(UserError, match=message):
        reach.step(np.array(action))


def test_stepping_or_looking_before_a_reset_is_refused():
    env = make_env(config(), "reach-v3")
    for act in (lambda: env.step(np.zeros(4)), env.observe):
        with pytest.raises(gym.error.ResetNeeded):
            act()
    env.close()


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("raech-v3", {}, "did you mean .*reach-v3"),
        ("reach-v3", {"cameras": ["corner9"]}, "unknown camera 'corner9'.*corner2"),
        ("reach-v3", {"cameras": []}, "env.cameras is empty"),
        ("reach-v3", {"render": "pretty"}, "env.render is 'pretty'; use fast or faithful"),
        ("reach-v3", {"max_steps": 501}, "env.max_steps is 501.*1 to 500"),
        ("reach-v3", {"image_size": 0}, "env.image_size is 0"),
        ("reach-v3", {"name": "metawrold"}, "unknown env.name 'metawrold'; did you mean metaworld"),
    ],
)
def test_a_setting_that_cannot_be_is_one_clear_error(task, changes, message):
    with pytest.raises(UserError, match=message) as error:
        make_env(config(**changes), task)
    assert "\n" not in str(error.value)


def test_the_expert_ends_its_episode_by_success(reach):
    reach.reset(seed=0)
    for _ in range(100):
        observation, _, terminated, truncated, info = reach.step(reach.expert_action())
        if terminated or truncated:
            break
    assert terminated
    assert not truncated
    assert info["success"]
    assert observation in reach.observation_space


def test_an_episode_is_cut_after_max_steps():
    env = make_env(config(image_size=16, max_steps=3), "drawer-open-v3")
    env.reset(seed=0)
    endings = [env.step(np.zeros(4))[2:4] for _ in range(3)]
    assert endings == [(False, False), (False, False), (False, True)]
    env.reset(seed=0)
    assert env.step(np.zeros(4))[2:4] == (False, False)
    env.close()


@pytest.mark.slow
@pytest.mark.parametrize("task", INSTRUCTIONS)
def test_every_task_can_be_reset_seen_and_acted_in(task):
    env = make_env(config(), task)
    states = [env.reset(seed=seed) and env._full_state.copy() for seed in (0, 1, 0)]
    np.testing.assert_array_equal(states[0], states[2])
    for _ in range(3):
        action = env.expert_action()
        assert action.shape == (4,)
        assert np.isfinite(action).all()
        observation, *_ = env.step(action)
    assert observation in env.observation_space
    env.close()
