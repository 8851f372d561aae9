"""Experts, success and demonstrations of the SO-101's tasks in simulation."""

import mujoco
import numpy as np
import pytest
from lerobot.datasets import LeRobotDataset
from so101_settings import config

from envs import make_env
from envs.demos import ensure_dataset
from envs.demos.episode import record_demo
from envs.so101 import CONTROL_HZ, FEATURE_NAMES, HIGH, LOW
from envs.so101.simulation import CUBE, HOME, Simulation
from envs.so101.tasks import INSTRUCTIONS


def expert_steps(env, seed):
    """Number of steps the expert takes to succeed, None if it does not."""
    env.reset(seed=seed)
    for step in range(env.max_steps):
        _, success, truncated, _ = env.apply(env.expert_action())
        if success:
            return step + 1
    assert truncated
    return None


@pytest.mark.parametrize("task", INSTRUCTIONS)
def test_the_expert_solves_its_task_in_five_seconds(task):
    env = make_env(config(max_steps=150), task)
    assert all(expert_steps(env, seed) for seed in range(5))
    env.close()


@pytest.mark.parametrize("task", INSTRUCTIONS)
def test_the_expert_recovers_from_noise(task):
    env = make_env(config(image_size=16, cameras=["top"]), task)
    demos = [record_demo(env, seed, 1.0, np.random.default_rng(seed)) for seed in range(3)]
    assert all(demos)
    for demo in demos:
        assert demo.action.shape == demo.state.shape == (len(demo.action), 6)
        assert (demo.action >= LOW).all()
        assert (demo.action <= HIGH).all()
    env.close()


@pytest.mark.slow
@pytest.mark.parametrize("task", INSTRUCTIONS)
def test_the_expert_solves_nearly_every_episode(task):
    env = make_env(config(max_steps=150), task)
    assert sum(expert_steps(env, seed) is not None for seed in range(50)) >= 48
    env.close()


def test_a_task_is_not_done_by_itself_nor_by_another_tasks_expert():
    sim = Simulation("push")
    for seed in range(200):
        sim.reset(np.random.default_rng(seed))
        for task in INSTRUCTIONS:
            sim.task = task
            assert not sim.success()


def set_cube(sim, height, speed=0.0):
    """Put the cube's centre at a height in metres above the disc, with a speed in m/s."""
    cube = sim.data.joint(CUBE)
    cube.qpos[:3] = *sim.disc[:2], height
    cube.qvel[:3] = speed, 0, 0
    mujoco.mj_forward(sim.model, sim.data)


def test_a_cube_in_the_air_is_lifted_only_between_both_jaws(lift):
    lift.reset(seed=0)
    sim = lift.simulation
    set_cube(sim, 0.2)  # thrown up
    assert sim.cube_height > 0.1
    assert sim.touches() == (False, False)
    assert not sim.success()
    assert expert_steps(lift, 0)
    for _ in range(5):
        lift.apply(lift.expert_action())
    assert sim.touches() == (True, True)
    sim.data.joint("gripper").qpos[:] = sim.model.joint("gripper").range[1]  # leaves the cube on the other jaw
    mujoco.mj_forward(sim.model, sim.data)
    assert sim.touches() == (True, False)
    assert sim.cube_height > 0.05
    assert not sim.success()


def test_a_cube_is_on_the_disc_only_while_it_rests_on_the_table():
    sim = Simulation("push")
    sim.reset(np.random.default_rng(0))
    at_rest = sim.model.geom(CUBE).size[2]
    for height, speed, success in ((at_rest, 0, True), (at_rest + 0.01, 0, False), (at_rest, 0.1, False)):
        set_cube(sim, height, speed)
        assert sim.success() == success


@pytest.mark.parametrize("touches", [(False, False), (True, False), (False, True), (True, True)])
def test_a_cube_that_a_jaw_still_touches_is_not_placed(touches, monkeypatch):
    sim = Simulation("pick-place")
    sim.reset(np.random.default_rng(0))
    set_cube(sim, sim.model.geom(CUBE).size[2])
    assert sim.success()
    monkeypatch.setattr(sim, "touches", lambda: touches)
    assert sim.success() == (not any(touches))


def test_collected_demonstrations_are_a_dataset_that_lerobot_reads(tmp_path, in_process):
    env_cfg = config(tasks=["reach"], image_size=32, noise={"share": 0.5, "std": 1.0})
    root = ensure_dataset(env_cfg, ["reach"], 2, 0, tmp_path, workers=1)
    dataset = LeRobotDataset("local/so101", root=root, video_backend="pyav")
    assert dataset.fps == CONTROL_HZ
    assert dataset.meta.robot_type == "so_follower"
    assert dataset.num_episodes == 2
    assert dataset.features["observation.state"]["names"] == dataset.features["action"]["names"] == FEATURE_NAMES
    frame = dataset[0]
    assert frame["observation.images.front"].shape == frame["observation.images.wrist"].shape == (3, 32, 32)
    np.testing.assert_allclose(frame["observation.state"], HOME, atol=2.1)
    assert np.abs(frame["action"] - frame["observation.state"]).max() < 5  # the next control step's goal
    assert frame["task"] == INSTRUCTIONS["reach"]
