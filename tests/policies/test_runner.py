"""A policy in a closed loop: what it checks, when it looks, and what fixes its draws."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tiny import SETTINGS, tiny_policy

from policies import PolicyRunner, load_policy, save_checkpoint_files
from tinyvla.errors import UserError


def space(cameras=("left", "right"), size=32, state=4):
    image = spaces.Box(0, 255, (size, size, 3), np.uint8)
    images = {f"observation.images.{camera}": image for camera in cameras}
    return spaces.Dict(images | {"observation.state": spaces.Box(-1, 1, (state,)), "task": spaces.Text(99)})


def actions(size=4):
    return spaces.Box(-1, 1, (size,), np.float32)


def observation(seed=0, task="open the drawer"):
    rng = np.random.default_rng(seed)
    images = {f"observation.images.{name}": rng.integers(0, 256, (32, 32, 3), np.uint8) for name in ("left", "right")}
    return images | {"observation.state": rng.normal(5, 2, 4), "task": task}


def play(runner, steps, seed=0, task="open the drawer"):
    runner.reset(seed)
    return np.stack([runner.act(observation(step, task)) for step in range(steps)])


@pytest.fixture
def runner(dataset):
    return PolicyRunner(*tiny_policy(dataset))


def test_an_environment_that_fits(runner):
    runner.check(space(), actions())
    runner.check(space(cameras=("above", "right", "left")), actions())  # more cameras than the policy needs


@pytest.mark.parametrize(
    ("observations", "action", "what"),
    [
        (
            space(cameras=("left", "above")),
            actions(),
            "needs the cameras left, right but there are above, left; add right",
        ),
        (space(size=48), actions(), "images of 32x32 pixels but .* has 48x48; set env.image_size=32"),
        (space(state=7), actions(), "trained with a 4-d observation.state but the environment has 7"),
        (space(), actions(6), "trained with a 4-d action but the environment has 6"),
    ],
)
def test_an_environment_that_does_not_fit_is_one_line(runner, observations, action, what):
    with pytest.raises(UserError, match=what) as mistake:
        runner.check(observations, action)
    assert "\n" not in str(mistake.value)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_policy_acts_in_the_robots_units(name, dataset):
    taken = play(PolicyRunner(*tiny_policy(dataset, name)), 12)
    assert (taken.shape, taken.dtype) == ((12, 4), np.float32)
    assert np.isfinite(taken).all()


@pytest.mark.parametrize("name", ["tinyvla", "diffusion"])
def test_a_seed_fixes_every_draw(name, dataset):
    runner = PolicyRunner(*tiny_policy(dataset, name))
    first = play(runner, 10, seed=1)
    np.testing.assert_array_equal(first, play(runner, 10, seed=1))
    assert not np.allclose(first, play(runner, 10, seed=2), atol=1e-3)


def test_images_state_and_instruction_reach_the_policy(runner):
    reference = play(runner, 1)
    assert not np.allclose(play(runner, 1, task="close the window"), reference, atol=1e-4)
    for key, value in {"observation.images.left": 0, "observation.images.right": 255, "observation.state": 0.0}.items():
        changed = observation()
        changed[key] = np.full_like(changed[key], value)
        runner.reset(0)
        assert not np.allclose(runner.act(changed), reference[0], atol=1e-4), key


def test_a_part_of_a_chunk_is_executed_before_looking_again(dataset):
    policy, *pipelines = tiny_policy(dataset, "tinyvla", "policy.chunk_size=16", "policy.n_action_steps=8")
    runner = PolicyRunner(policy, *pipelines)
    assert (type(policy.config)().n_action_steps, type(policy.config)().chunk_size) == (4, 16)  # the defaults
    looks = []
    for step in range(20):
        looks.append(runner.needs_observation)
        runner.act(observation(step) if looks[-1] else None)
    assert [step for step, looked in enumerate(looks) if looked] == [0, 8, 16]
    runner.reset()
    assert runner.needs_observation  # a new episode does not go on with the old one's chunk
    with pytest.raises(ValueError, match="needs an observation"):
        runner.act(None)


def test_temporal_ensembling_averages_what_chunks_say_about_a_step(dataset):
    settings = ("policy.n_action_steps=1", "policy.temporal_ensemble_coeff=0.5")
    policy, *pipelines = tiny_policy(dataset, "tinyvla", *settings)
    runner = PolicyRunner(policy, *pipelines)
    chunks = torch.rand(3, policy.config.chunk_size, 4, generator=torch.Generator().manual_seed(0))
    predictions = iter(chunks)
    policy.predict_action_chunk = lambda batch, noise=None: next(predictions)[None]
    taken = []
    for step in range(3):
        assert runner.needs_observation
        taken.append(runner.act(observation(step)))
    # The oldest chunk has the largest weight (arXiv 2304.13705, section IV-A).
    weights = np.exp(-0.5 * np.arange(3))
    third = sum(w * chunks[i, 2 - i] for i, w in enumerate(weights)) / weights.sum()
    np.testing.assert_allclose(taken[2], pipelines[1](third[None])[0], rtol=1e-4)
    runner.reset()
    assert policy._ensembler.ensembled_actions is None


def test_a_policy_that_puts_out_nan_is_stopped(runner):
    with torch.no_grad():
        next(runner.policy.model.decoder.parameters()).fill_(torch.nan)
    with pytest.raises(UserError, match="non-finite action"):
        runner.act(observation())


def test_from_a_checkpoint(dataset, runner, tmp_path):
    save_checkpoint_files(runner.policy, runner.preprocessor, runner.postprocessor, tmp_path / "pretrained_model")
    np.testing.assert_allclose(play(load_policy(tmp_path, "cpu"), 6), play(runner, 6), rtol=1e-4, atol=1e-5)
