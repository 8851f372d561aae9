"""Suite `language`: nothing but the instruction tells the two tasks of a pair apart, and both can still be solved."""

import mujoco
import numpy as np
import pytest
import torch

from envs import decode_env, make_env, resolve_tasks
from envs.demos.collect import spec_of
from envs.metaworld.shared_starts import PAIRS
from envs.metaworld.tasks import GOAL_IS_MARKER, INSTRUCTIONS
from envs.seeds import episode_seed
from envs.shifts import Shift
from tinyvla.errors import UserError
from tinyvla.intervals import wilson_interval

SEEDS = [episode_seed("evaluation", 0, episode) for episode in range(40)]
CAMERAS = ("corner2_table", "topview_table", "gripperPOV")
FAUCETS, DRAWERS, *OTHERS = PAIRS
ALL_PAIRS = [FAUCETS, *(pytest.param(pair, marks=pytest.mark.slow) for pair in (DRAWERS, *OTHERS))]
HIDDEN = {"goal_markers": False, "shared_start": True}


def environment(task, **changes):
    return make_env(decode_env({"name": "metaworld", "tasks": ["language"]} | changes), task)


def first_observations(task, **changes):
    env = environment(task, **changes)
    observations = [env.reset(seed=seed)[0] for seed in SEEDS]
    env.close()
    return observations


def purest_pixels(observation):
    """The state, and for each camera and primary colour: purity, row and column of the purest pixel."""
    numbers = [*observation["observation.state"]]
    for camera in CAMERAS:
        image = observation[f"observation.images.{camera}"].astype(float)
        for colour in range(3):
            purity = image[..., colour] - np.delete(image, colour, axis=-1).max(-1)
            numbers += [purity.max(), *np.unravel_index(purity.argmax(), purity.shape)]
    return np.array(numbers)


def small_images(observation):
    """A sixteenth of the pixels of all cameras."""
    return np.concatenate([observation[f"observation.images.{camera}"][::4, ::4].ravel() / 255 for camera in CAMERAS])


def logistic_regression(inputs, labels, unseen):
    """Labels of `unseen` by a regularised logistic regression on standardised inputs."""
    inputs, unseen = (torch.tensor((x - inputs.mean(0)) / (inputs.std(0) + 1e-3)) for x in (inputs, unseen))
    weights = torch.zeros(inputs.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100)

    def loss():
        optimizer.zero_grad()
        error = torch.nn.functional.binary_cross_entropy_with_logits(inputs @ weights, torch.tensor(labels))
        total = error + 0.01 * weights.square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    return (unseen @ weights > 0).double().numpy()


def nearest_neighbour(inputs, labels, unseen):
    """Labels of `unseen` by the nearest inputs."""
    return np.array([labels[np.square(inputs - row).sum(1).argmin()] for row in unseen])


def classified(pair, **changes):
    """Numbers of first observations that two classifiers assign to the right task, of 40 that they were not fitted to.

    Both tasks have the same seeds, half of which the classifiers are fitted to.
    """
    first, second = (first_observations(task, **changes) for task in pair)
    half = len(SEEDS) // 2
    labels = np.repeat([0.0, 1.0], half)
    counts = []
    for classify, describe in ((logistic_regression, purest_pixels), (nearest_neighbour, small_images)):
        fitted, unseen = (
            np.stack([describe(observation) for observation in (*first[part], *second[part])])
            for part in (slice(half), slice(half, None))
        )
        counts.append(int((classify(fitted, labels, unseen) == labels).sum()))
    return counts


@pytest.mark.parametrize("pair", ALL_PAIRS, ids=" ".join)
def test_classifiers_of_first_observations_are_at_chance(pair):
    for correct in classified(pair, **HIDDEN):
        low, high = wilson_interval(correct, len(SEEDS))
        assert low <= 0.5 <= high


@pytest.mark.parametrize("pair", ALL_PAIRS, ids=" ".join)
def test_the_same_classifiers_separate_metaworlds_own_scenes(pair):
    low, _ = wilson_interval(max(classified(pair)), len(SEEDS))
    assert low > 0.7


@pytest.mark.parametrize("pair", [FAUCETS, pytest.param(DRAWERS, marks=pytest.mark.slow)], ids=" ".join)
def test_the_same_classifiers_separate_shared_starts_with_markers(pair):
    low, _ = wilson_interval(max(classified(pair, shared_start=True)), len(SEEDS))
    assert low > 0.7


@pytest.mark.parametrize("shift", [None, ("position", "distractors")])
@pytest.mark.parametrize("pair", ALL_PAIRS, ids=" ".join)
def test_a_seed_gives_both_tasks_the_same_scene_to_the_last_bit(pair, shift):
    scenes = []
    for task in pair:
        env = environment(task, image_size=32, shift=shift and Shift(shift, 3), **HIDDEN)
        scenes.append([])
        for seed in SEEDS[:4]:
            observation, _ = env.reset(seed=seed)
            assert observation.pop("task") == INSTRUCTIONS[task]
            data = env.unwrapped.data
            scenes[-1].append(observation | {"qpos": data.qpos.copy(), "qvel": data.qvel.copy()})
        env.close()
    for first, second in zip(*scenes, strict=True):
        for key, value in first.items():
            np.testing.assert_array_equal(value, second[key])
    assert any((scenes[0][0][key] != scenes[0][1][key]).any() for key in first)


@pytest.mark.parametrize("pair", ALL_PAIRS, ids=" ".join)
def test_neither_task_is_solved_at_the_start_and_experts_solve_both(pair):
    for task in pair:
        env = environment(task, cameras=["corner2"], image_size=8, **HIDDEN)
        env.reset(seed=SEEDS[0])
        assert not any(env.apply(np.zeros(4))[3]["success"] for _ in range(200))
        solved = 0
        for seed in SEEDS[:10]:
            env.reset(seed=seed)
            steps = (env.apply(env.expert_action()) for _ in range(400))
            solved += any(info["success"] for *_, info in steps)
        env.close()
        assert solved >= 9


def test_hidden_markers_change_images_alone():
    """A marker of a mechanism disappears, and with it nothing else; a marker that is the goal stays."""
    for task, is_changed in (("drawer-open-v3", True), ("reach-v3", False)):
        shown, hidden = (environment(task, tasks=[task], goal_markers=markers) for markers in (True, False))
        first, second = (env.reset(seed=SEEDS[0])[0] for env in (shown, hidden))
        assert any((first[key] != second[key]).any() for key in first if key != "task") == is_changed
        for env in (shown, hidden):
            env.apply(np.ones(4))
        np.testing.assert_array_equal(shown.data.qpos, hidden.data.qpos)
        for env in (shown, hidden):
            env.close()


@pytest.mark.slow
@pytest.mark.parametrize("task", INSTRUCTIONS)
def test_a_marker_is_kept_where_no_object_stands_at_a_fixed_distance_from_the_goal(task):
    env = environment(task, tasks=[task], cameras=["corner2"], image_size=8)
    distances = []
    for seed in SEEDS[:4]:
        env.reset(seed=seed)
        mujoco.mj_forward(env.model, env.data)
        distances.append(env._sim._target_pos - env.data.xpos)
    env.close()
    is_fixed = np.ptp(distances, axis=0) < 0.005  # by body and axis; the first body is the table's frame
    assert is_fixed[:, :2].any(0).all() != (task in GOAL_IS_MARKER)


def test_tasks_without_a_partner_have_no_shared_start():
    with pytest.raises(UserError, match=r"reach-v3 shares its start with no task; use env.tasks=\[language\]"):
        decode_env({"name": "metaworld", "tasks": ["faucet-open-v3", "reach-v3"], "shared_start": True})
    assert resolve_tasks(decode_env({"name": "metaworld", "tasks": ["language"], "shared_start": True}))


def test_demonstrations_carry_the_settings_and_others_keep_their_names():
    hidden, stock = (spec_of(decode_env({"name": "metaworld", "tasks": ["language"]} | c), 0) for c in (HIDDEN, {}))
    assert hidden == stock | HIDDEN
    assert not HIDDEN.keys() & stock.keys()
