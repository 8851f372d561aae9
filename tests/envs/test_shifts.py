"""Shifts: every axis changes what it claims and nothing else, the same every time, and leaves nothing behind."""

from dataclasses import replace

import mujoco
import numpy as np
import pytest
import yaml
from block_env import BlockEnv

from envs import decode_env, make_env
from envs.metaworld import tasks as metaworld_tasks
from envs.metaworld.tasks import INSTRUCTIONS, paraphrases
from envs.registry import instruction_of
from envs.seeds import episode_seed
from envs.shifts import AXES, PHYSICAL, SEVERITIES, Shift, with_randomisation, with_shift
from envs.shifts.shifted_env import ShiftedEnv
from tinyvla.errors import UserError

CONFIG = decode_env({"name": "metaworld", "cameras": ["corner2"], "image_size": 48, "render": "fast", "max_steps": 500})
IMAGE = "observation.images.corner2"
UNSEEN = {"instruction", *PHYSICAL}  # that change no image, or not that alone


@pytest.fixture(scope="module")
def block():
    env = BlockEnv()
    yield env
    env.close()


@pytest.fixture(scope="module")
def drawer():
    """An unshifted drawer-open, which tests wrap: making a simulator takes longer than all else."""
    env = make_env(CONFIG, "drawer-open-v3")
    yield env
    env.close()


def wrapped(env, *axes, severity=3):
    return ShiftedEnv(env, Shift(axes, severity), lambda seed: f"do it, the {seed % 7}th time")


def model_bytes(env):
    buffer = np.empty(mujoco.mj_sizeModel(env.unwrapped.model), np.uint8)
    mujoco.mj_saveModel(env.unwrapped.model, None, buffer)
    return buffer.tobytes()


def play(env, seed, steps=6):
    """Full physical state after the reset and every step, and first and last image."""
    first, _ = env.reset(seed=seed)
    data = env.unwrapped.data
    states = [np.concatenate([data.qpos, data.qvel])]
    rng = np.random.default_rng(1)
    for _ in range(steps):
        env.apply(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))
        states.append(np.concatenate([data.qpos, data.qvel]))
    return np.array(states), first, env.observe()


def image(observation):
    (key,) = (key for key in observation if key.startswith("observation.images."))
    return observation[key].astype(int)


@pytest.fixture(scope="module", params=["block", "drawer"])
def plain(request):
    """An environment, its untouched model, and an episode of it."""
    env = request.getfixturevalue(request.param)
    episode = play(env, 5)
    return env, model_bytes(env), episode


@pytest.mark.parametrize("axis", AXES)
def test_an_axis_changes_what_it_claims_and_nothing_else(plain, axis):
    env, model, (states, first, last) = plain
    shifted = wrapped(env, axis)
    own_states, own_first, own_last = play(shifted, 5)
    again = play(shifted, 5)
    for left, right in zip(
        (own_states, image(own_first), image(own_last)), (again[0], *map(image, again[1:])), strict=True
    ):
        np.testing.assert_array_equal(left, right)  # a function of axis, severity and seed

    assert (own_first["task"] != first["task"]) == (axis == "instruction")
    if axis not in PHYSICAL:
        np.testing.assert_array_equal(own_states, states)
    for shown, unshifted in ((own_first, first), (own_last, last)):
        changed = np.abs(image(shown) - image(unshifted)).max(axis=-1) > 8
        assert changed.any() == (axis != "instruction"), changed.mean()
        assert (shown["observation.state"] != unshifted["observation.state"]).any() == (axis == "sensor_noise")
    if axis in ("instruction", "position", "distractors", "sensor_noise"):
        shifted.reset(seed=5)
        # Where objects lie, the environment itself writes to the model.
        assert axis == "position" or model_bytes(env) == model

    shifted.restore()
    env.reset(seed=5)
    assert model_bytes(env) == model
    for left, right in zip(play(env, 5), (states, first, last), strict=True):
        if isinstance(left, dict):
            left, right = image(left), image(right)
        np.testing.assert_array_equal(left, right)


def test_all_axes_at_once_leave_nothing_behind(plain):
    env, model, (states, first, _) = plain
    everything = wrapped(env, *AXES)
    for seed in range(3):
        everything.reset(seed=seed)
        assert model_bytes(env) != model
    everything.restore()
    own_states, own_first, _ = play(env, 5)
    assert model_bytes(env) == model
    np.testing.assert_array_equal(own_states, states)
    np.testing.assert_array_equal(image(own_first), image(first))


@pytest.mark.parametrize("axis", sorted(set(AXES) - UNSEEN))
def test_what_is_seen_differs_more_with_severity(block, axis):
    unshifted = image(block.reset(seed=2)[0])
    differences = []
    for severity in SEVERITIES:
        shifted = wrapped(block, axis, severity=severity)
        differences.append(np.abs(image(shifted.reset(seed=2)[0]) - unshifted).mean())
        shifted.restore()
    assert differences[0] > 0.2
    assert differences == sorted(differences)
    assert differences[2] > 1.3 * differences[0]


def changed_by(env, axis, field):
    before = getattr(env.unwrapped.model, field).copy()
    shifted = wrapped(env, axis)
    shifted.reset(seed=4)
    changed = np.flatnonzero((before != getattr(env.unwrapped.model, field)).any(axis=-1))
    shifted.restore()
    return set(changed.tolist())


def test_colours_are_those_of_the_parts_that_an_axis_names(block, drawer):
    for env in (block, drawer):
        scene, model = env.scene_elements(), env.model
        names = {"object": set(), "other": set()}
        for geom in range(model.ngeom):
            root = model.body_rootid[model.geom_bodyid[geom]]
            names["object" if root in scene.objects else "other"].add(geom)
        assert changed_by(env, "object_colour", "geom_rgba") == names["object"]
        assert changed_by(env, "background", "geom_rgba") <= set(scene.background)
        assert changed_by(env, "table_texture", "geom_rgba") <= set(scene.table)
        resized = changed_by(env, "object_size", "geom_size")
        assert resized
        assert resized <= names["object"]


def test_parts_of_one_colour_keep_one_colour(block):
    shifted = wrapped(block, "object_colour")
    shifted.reset(seed=0)
    block_geom, roof, knob = (block.model.geom_rgba[i].tolist() for i in range(2, 5))
    assert block_geom == knob != roof
    assert block_geom[3] == 1
    shifted.restore()


@pytest.mark.parametrize("seed", range(4))
def test_objects_keep_their_proportions(block, seed):
    model = block.model
    before = model.geom_size[2, 0], np.ptp(model.mesh_vert, axis=0), model.body_pos[model.body("knob").id, 2]
    shifted = wrapped(block, "object_size")
    shifted.reset(seed=seed)
    after = model.geom_size[2, 0], np.ptp(model.mesh_vert, axis=0), model.body_pos[model.body("knob").id, 2]
    scales = np.hstack(after) / np.hstack(before)
    np.testing.assert_allclose(scales, scales[0], rtol=1e-5)
    assert 0.2 < abs(np.log(scales[0])) < 0.3
    np.testing.assert_array_equal(model.body_pos[model.body("block").id], [0, 0, 0.03])  # where it stands
    # The block, dropped, rests on the table as high as its new half side is: contacts follow the new size.
    for _ in range(60):
        shifted.apply(np.zeros(1))
    height = block.data.body("block").xpos[2]
    assert height == pytest.approx(model.geom_size[2, 2], abs=2e-3)
    shifted.restore()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_positions_lie_outside_the_range_of_training_in_reach(drawer, severity):
    shifted = wrapped(drawer, "position", severity=severity)
    sim = drawer._sim
    low, high = sim._random_reset_space.low[0], sim._random_reset_space.high[0]
    distances = []
    for seed in range(4):
        shifted.reset(seed=seed)
        x = drawer.data.body("drawer").xpos[0]
        distances.append(max(low - x, x - high))
        assert sim.hand_low[0] < x < sim.hand_high[0]
    assert 0.02 * severity - 1e-6 <= min(distances)
    assert max(distances) <= 0.02 * (severity + 0.5)
    shifted.restore()


def test_every_camera_is_displaced(drawer):
    def views():
        drawer.reset(seed=1)
        return [drawer.renderers.draw(drawer.data, camera, 48).astype(int) for camera in cameras]

    cameras = ["corner2", "topview", "gripperPOV", "behindGripper"]
    unshifted = views()
    shifted = wrapped(drawer, "camera_pose", severity=1)
    shifted.reset(seed=1)
    for camera, plain in zip(cameras, unshifted, strict=True):
        assert np.abs(drawer.renderers.draw(drawer.data, camera, 48) - plain).mean() > 3, camera
    shifted.restore()
    np.testing.assert_array_equal(views(), unshifted)


@pytest.mark.parametrize("env_name", ["block", "drawer"])
def test_distractors_stand_on_the_table_off_the_task(request, env_name):
    env = request.getfixturevalue(env_name)
    scene, model = env.scene_elements(), env.model
    for severity in SEVERITIES:
        shifted = wrapped(env, "distractors", severity=severity)
        counts = set()
        for seed in range(6):
            shifted.reset(seed=seed)
            props = env.renderers.props
            counts.add(len(props))
            for i, prop in enumerate(props):
                x, y = prop.position[:2]
                assert scene.surface[0] <= x <= scene.surface[2]
                assert scene.surface[1] <= y <= scene.surface[3]
                for other in props[:i]:
                    assert np.linalg.norm(other.position[:2] - prop.position[:2]) > 0.04
                for geom in range(model.ngeom):
                    if model.body_rootid[model.geom_bodyid[geom]] in scene.objects:
                        distance = np.linalg.norm(env.data.geom_xpos[geom][:2] - prop.position[:2])
                        assert distance > model.geom_aabb[geom, 3:].min()
        assert counts <= {2 * severity, 2 * severity + 1}
        shifted.restore()
        assert not env.renderers.props


def test_the_policys_sensors_are_noisy_not_the_experts(drawer):
    shifted = wrapped(drawer, "sensor_noise")
    observation, _ = shifted.reset(seed=0)
    state = drawer._full_state[:4]
    errors = [np.abs(observation["observation.state"] - state).max()]
    for _ in range(3):
        np.testing.assert_array_equal(shifted.expert_action(), drawer.expert_action())
        shifted.apply(np.zeros(4, np.float32))
        first, second = shifted.observe(), shifted.observe()
        np.testing.assert_array_equal(image(first), image(second))  # looking twice shows the same
        errors.append(np.abs(first["observation.state"] - drawer._full_state[:4]).max())
    assert len(set(errors)) == 4
    assert 1e-3 < max(errors) < 0.3
    assert (shifted.render() != drawer.render()).any()
    assert first in shifted.observation_space
    shifted.restore()


def test_strengths_of_training_and_of_evaluation_do_not_overlap():
    for axis in ("lighting", "position"):
        training = [Shift((axis,), None).strength(axis, episode_seed("train", 0, i)) for i in range(200)]
        assert 0 <= min(training) < 0.1
        assert 0.9 < max(training) < 1
        for severity in SEVERITIES:
            shift = Shift((axis,), severity)
            tests = [shift.strength(axis, episode_seed("evaluation", 0, i)) for i in range(200)]
            assert severity <= min(tests)
            assert max(tests) < severity + 0.5


def test_training_and_evaluation_draw_from_disjoint_seeds():
    seeds = {
        split: {episode_seed(split, seed, i) for seed in (0, 1, 9999) for i in (0, 1, 9999)}
        for split in ("train", "validation", "evaluation")
    }
    assert not seeds["train"] & (seeds["evaluation"] | seeds["validation"])
    first = Shift(("lighting",), None).rng("lighting", min(seeds["train"])).random()
    assert first != Shift(("lighting",), 1).rng("lighting", min(seeds["evaluation"])).random()


def test_shapes_of_distractors_in_training_are_others(block):
    shapes = {}
    for severity in (None, 3):
        shifted = ShiftedEnv(block, Shift(("distractors",), severity))
        shapes[severity] = set()
        for seed in range(12):
            shifted.reset(seed=seed)
            shapes[severity] |= {prop.kind for prop in block.renderers.props}
        shifted.restore()
    assert shapes[None]
    assert shapes[3]
    assert not shapes[None] & shapes[3]


def test_held_out_paraphrases_are_never_trained_on():
    texts = yaml.safe_load((metaworld_tasks.Path(metaworld_tasks.__file__).with_name("paraphrases.yaml")).read_text())
    assert list(texts) == list(INSTRUCTIONS)
    trained = {text for task in INSTRUCTIONS for text in [INSTRUCTIONS[task], *paraphrases(task, None)]}
    held_out = [text for task in INSTRUCTIONS for severity in SEVERITIES for text in paraphrases(task, severity)]
    assert len(held_out) == len(set(held_out)) == 300
    assert len(trained) == 200
    assert not trained & set(held_out)
    assert all(text.isascii() and 3 < len(text) < 256 for text in [*trained, *held_out])


def test_an_instruction_is_the_seeds(drawer):
    shift = with_shift(CONFIG, ["instruction"], 2)
    instructions = {instruction_of(shift, "drawer-open-v3", seed) for seed in range(20)}
    assert instructions == set(paraphrases("drawer-open-v3", 2))
    trained = with_randomisation(CONFIG, ["instruction"])
    instructions = {instruction_of(trained, "drawer-open-v3", seed) for seed in range(60)}
    assert instructions == {INSTRUCTIONS["drawer-open-v3"], *paraphrases("drawer-open-v3", None)}
    assert instruction_of(shift, "drawer-open-v3") == INSTRUCTIONS["drawer-open-v3"]
    assert instruction_of(with_shift(CONFIG, ["lighting"], 2), "drawer-open-v3", 1) == INSTRUCTIONS["drawer-open-v3"]


def test_make_env_wraps_what_the_configuration_shifts():
    env = make_env(with_shift(replace(CONFIG, image_size=16), ["instruction", "distractors"], 1), "drawer-open-v3")
    observation, _ = env.reset(seed=7)
    assert observation["task"] == env.instruction in paraphrases("drawer-open-v3", 1)
    assert observation in env.observation_space
    assert env.action_space.contains(env.expert_action().clip(-1, 1))
    assert len(env.step(np.zeros(4, np.float32))) == 5
    assert env.render().shape == (256, 256, 3)
    first = env.reset(seed=7)[0]
    np.testing.assert_array_equal(image(first), image(observation))
    env.reset()
    env.close()


@pytest.mark.parametrize(
    ("names", "severity", "message"),
    [
        (["lightning"], 1, "unknown axis 'lightning' in shift; did you mean lighting"),
        (["lighting", "color"], 1, "unknown axis 'color' in shift.*object_colour"),
        (["xyz"], 1, "there is: instruction, object_colour"),
        (["lighting"], 4, "severity is 4; use 1, 2 or 3"),
        (["lighting"], 0, "severity is 0"),
        ([], 9, "severity is 9"),
    ],
)
def test_a_shift_that_cannot_be_is_one_clear_error(names, severity, message):
    with pytest.raises(UserError, match=message) as error:
        with_shift(CONFIG, names, severity)
    assert "\n" not in str(error.value)
    if names and severity == 1:
        with pytest.raises(UserError, match="in randomise"):
            with_randomisation(CONFIG, names)


def test_an_environment_without_other_words_says_so(block):
    with pytest.raises(UserError, match="leave instruction out"):
        ShiftedEnv(block, Shift(("instruction",), 1))


def test_the_order_of_axes_makes_no_difference():
    assert with_shift(CONFIG, ["lighting", "background"], 1) == with_shift(CONFIG, ["background", "lighting"], 1)
    with pytest.raises(UserError, match="shift names lighting twice"):
        with_shift(CONFIG, ["lighting", "background", "lighting"], 1)
    assert with_shift(CONFIG, [], 1) == CONFIG == with_randomisation(CONFIG, [])


def shift_every_way(task):
    env = make_env(replace(CONFIG, image_size=32), task)
    env.reset(seed=3)
    model, scene = model_bytes(env), env.scene_elements()
    assert scene.objects
    assert len(scene.table) >= 3
    assert env.model.geom("floor").id in scene.background
    everything = wrapped(env, *AXES)
    for seed in range(2):
        everything.reset(seed=seed)
        low = min(prop.position[2] - prop.size.max() for prop in env.renderers.props)
        assert -0.02 < low - scene.surface[-1] < 0.03  # on the table, neither in it nor above
        everything.step(np.zeros(4, np.float32))
    everything.restore()
    env.reset(seed=3)
    assert model_bytes(env) == model
    env.close()


def test_a_table_with_a_hole():
    """It is higher than the others and has no wall around it."""
    shift_every_way("sweep-into-v3")


@pytest.mark.slow
@pytest.mark.parametrize("task", INSTRUCTIONS)
def test_every_task_can_be_shifted_every_way(task):
    shift_every_way(task)
