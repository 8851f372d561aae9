"""Offline evaluation: episodes that are never trained on, errors at the right time, one result for every policy."""

import json
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lerobot.datasets import LeRobotDataset
from tiny import FPS, LENGTHS, SETTINGS, run_config, tiny_policy, write_dataset

from configs.composing import as_dict, load_config
from policies import save_checkpoint_files
from policies.data import DatasetConfig, TrainingData, cache_frames, open_dataset, stream_batches
from policies.model_card import CARD
from policies.offline_evaluation import evaluate_offline, held_out_episodes, write_held_out
from policies.offline_evaluation.baselines import HOLD, MEAN, NEAREST, baseline_chunks
from policies.offline_evaluation.demonstrations import Demonstrations
from policies.offline_evaluation.errors import summarise_errors, units_of
from policies.offline_evaluation.evaluation import MEASURE, POLICY, TRAJECTORIES, Comparison, OfflineOptions
from policies.training import decode_run, hold_out_episodes, train
from tinyvla.arms.so101 import SO101
from tinyvla.errors import UserError
from tinyvla.training import Tracker, make_accelerator

STARTS = np.cumsum([0, *LENGTHS])


@pytest.fixture(scope="module")
def demonstrations(dataset):
    return Demonstrations(dataset)


def save(dataset, folder, policy="tinyvla", held_out=None):
    """A checkpoint of a fresh policy; `held_out`: as it says."""
    fresh_policy, *pipelines = tiny_policy(dataset, policy)
    save_checkpoint_files(fresh_policy, *pipelines, folder, features=dataset.meta.features)
    if held_out is not None:
        write_held_out(folder, dataset.meta, held_out)
    return folder


class TestHeldOut:
    def test_one_of_ten_is_held_out_and_stays_so_when_more_are_recorded(self):
        fifty = held_out_episodes(50)
        assert [number // 10 for number in fifty] == [0, 1, 2, 3, 4]
        for count in range(10, 50):
            assert held_out_episodes(count) == [number for number in fifty if number < count]

    @pytest.mark.parametrize("count", [2, 3, 4, 5, 9])
    def test_of_a_few_episodes_one_is_held_out(self, count):
        assert len(held_out_episodes(count)) == 1
        assert held_out_episodes(count)[0] < count

    def test_a_single_episode_and_a_share_of_zero_hold_none_out(self):
        assert held_out_episodes(1) == held_out_episodes(30, 0) == []

    def test_a_larger_share_holds_more_out(self):
        assert len(held_out_episodes(20, 0.5)) == 10

    def test_no_sample_is_of_a_held_out_episode(self, dataset):
        config = tiny_policy(dataset)[0].config
        data = TrainingData(dataset, config, cache_frames(dataset, 0), held_out=[1])
        assert len(data) == sum(LENGTHS) - LENGTHS[1]
        batch = data.batch(torch.arange(len(data)))
        states = Demonstrations(dataset).states[STARTS[1] : STARTS[2]]
        assert torch.cdist(batch["observation.state"], torch.from_numpy(states)).min() > 0

    def test_no_sample_of_a_stream_is_of_a_held_out_episode(self, dataset, dataset_root):
        config = tiny_policy(dataset)[0].config
        source = DatasetConfig(root=str(dataset_root), shuffle_buffer=30)
        count = sum(LENGTHS) - LENGTHS[1]
        batch = stream_batches(source, config, count, seed=0, held_out=[1])()
        states = Demonstrations(dataset).states
        owners = torch.cdist(batch["observation.state"], torch.from_numpy(states)).argmin(1)
        assert sorted(owners.tolist()) == [*range(STARTS[1]), *range(STARTS[2], STARTS[4])]


def settings(root, run_dir, *options):
    return decode_run(as_dict(load_config("train", [f"dataset.root={root}", f"run_dir={run_dir}", *options])))


class TestChoice:
    """The rule that decides between a simulator and held-out episodes."""

    def test_a_recording_with_cameras_of_its_own_is_judged_offline(self, dataset_root, tmp_path):
        run_settings = settings(dataset_root, tmp_path)
        assert hold_out_episodes(run_settings, dataset_root, ["corner2"]) == dataset_root
        assert run_settings.held_out == held_out_episodes(4)

    def test_demonstrations_of_the_environment_are_played(self, dataset_root, tmp_path):
        run_settings = settings(dataset_root, tmp_path)
        assert hold_out_episodes(run_settings, dataset_root, ["left", "right"]) is None
        assert run_settings.held_out == []

    def test_a_share_holds_out_of_any_dataset(self, dataset_root, tmp_path):
        run_settings = settings(dataset_root, tmp_path, "dataset.held_out=0.5")
        assert hold_out_episodes(run_settings, dataset_root, ["left", "right"]) == dataset_root
        assert len(run_settings.held_out) == 2

    def test_a_run_of_before_the_setting_goes_on_with_all_episodes(self, dataset_root, tmp_path):
        run_settings = settings(dataset_root, tmp_path)
        run_settings.dataset = DatasetConfig(root=str(dataset_root))  # as its config.yaml is decoded
        assert hold_out_episodes(run_settings, dataset_root, ["corner2"]) == dataset_root
        assert run_settings.held_out == []

    def test_a_stream_from_the_hub_cannot_be_judged(self, dataset, dataset_root, tmp_path, monkeypatch):
        monkeypatch.setattr("policies.training.trainable.open_metadata", lambda *_: dataset.meta)
        run_settings = settings(dataset_root, tmp_path)
        run_settings.dataset = DatasetConfig(repo_id="user/recording", held_out=None)
        with pytest.raises(UserError, match=r"user/recording is streamed .* leave out trainer\.streaming"):
            hold_out_episodes(run_settings, None, ["corner2"])


def test_recordings_in_hundreds_are_compared_in_degrees(tmp_path):
    names = [f"{joint}.pos" for joint in SO101.joints]
    vector = {"dtype": "float32", "shape": (6,), "names": names}
    features = {"observation.state": vector, "action": vector}
    recording = LeRobotDataset.create(
        "local/hundreds", 30, features, tmp_path / "hundreds", robot_type="so101_follower"
    )
    for step in range(5):
        values = np.full(6, 10.0 * step, np.float32)
        recording.add_frame({"observation.state": values, "action": values, "task": "go"})
    recording.save_episode()
    recording.finalize()
    ranges = {joint: {"range_min": 1024, "range_max": 3072, "drive_mode": 0} for joint in SO101.joints}
    (tmp_path / "arm.json").write_text(json.dumps(ranges))  # half a turn: 0.9 degrees per unit
    demonstrations = Demonstrations(open_dataset(tmp_path / "hundreds"), tmp_path / "arm.json")
    for values in (demonstrations.states, demonstrations.actions):
        np.testing.assert_allclose(values[3], [27, 27, 27, 27, 27, 30], rtol=1e-3)


class TestErrors:
    def test_an_error_of_two_is_two_at_every_time_within_the_chunk(self):
        recorded = np.zeros((3, 12, 2))
        predicted = recorded + np.array([2.0, 4.0])
        errors = summarise_errors(predicted, recorded, 4, fps=20, joints=["a", "b"])
        assert errors["a"] == {"executed": 2.0, "p95": 2.0, "0.1": 2.0, "0.2": 2.0, "0.5": 2.0, "1": None}
        assert errors["mean"]["executed"] == 3.0

    def test_a_time_is_that_many_actions_after_the_observation(self):
        predicted = np.arange(12.0)[None, :, None]
        errors = summarise_errors(predicted, np.zeros((1, 12, 1)), 3, fps=20, joints=["a"])
        assert (errors["a"]["0.1"], errors["a"]["0.2"], errors["a"]["0.5"]) == (2, 4, 10)
        assert errors["a"]["executed"] == 1.0

    def test_what_lies_beyond_an_episodes_end_does_not_count(self, demonstrations):
        last = STARTS[1] - 1
        chunks = demonstrations.recorded_chunks(np.array([last - 1]), 8)
        np.testing.assert_array_equal(chunks[0, :2], demonstrations.actions[last - 1 : last + 1])
        assert np.isnan(chunks[0, 2:]).all()
        errors = summarise_errors(np.where(np.isnan(chunks), 99, chunks), chunks, 4, FPS, list("abcd"))
        assert errors["mean"]["executed"] == 0
        assert errors["mean"]["0.2"] is None

    def test_units_are_those_of_lerobots_arms(self):
        assert units_of(["wrist_roll", "gripper"], "so101_follower") == ["°", "of 100"]
        assert units_of(["x", "gripper"], "sawyer") == ["", ""]


class TestBaselines:
    def test_they_are_what_their_names_say(self, demonstrations):
        frames = np.array([STARTS[1], STARTS[1] + 5])
        chunks = baseline_chunks(demonstrations, frames, 6, trained=[0, 2, 3])
        np.testing.assert_array_equal(chunks[HOLD][1], np.repeat(demonstrations.states[frames[1:]], 6, axis=0))
        trained_actions = np.delete(demonstrations.actions, np.s_[STARTS[1] : STARTS[2]], axis=0)
        np.testing.assert_allclose(chunks[MEAN][0, 0], trained_actions.mean(axis=0), rtol=1e-5)
        assert chunks[NEAREST].shape == (2, 6, 4)

    def test_the_nearest_state_of_another_episode_is_followed(self, demonstrations, monkeypatch):
        states = demonstrations.states.copy()
        states[STARTS[2] + 4] = states[STARTS[1]] + 1e-4
        monkeypatch.setattr(demonstrations, "states", states)
        nearest = baseline_chunks(demonstrations, STARTS[1:2], 3, trained=[0, 2, 3])[NEAREST][0]
        np.testing.assert_array_equal(nearest, demonstrations.actions[STARTS[2] + 4 :][:3])

    def test_an_episode_is_not_compared_with_itself(self, demonstrations):
        chunks = baseline_chunks(demonstrations, STARTS[:1], 3, trained=[0, 1, 2, 3])
        assert not np.array_equal(chunks[NEAREST][0], demonstrations.actions[:3])
        assert NEAREST not in baseline_chunks(demonstrations, STARTS[:1], 3, trained=[0])


class Oracle:
    """Runner of a policy that predicts what was recorded."""

    interval = 4

    def __init__(self, demonstrations, shift=0.0):
        self.demonstrations, self.shift = demonstrations, shift
        features = {f"observation.images.{camera}": SimpleNamespace(shape=(3, 32, 32)) for camera in ("left", "right")}
        vector = SimpleNamespace(shape=(4,))
        self.policy = SimpleNamespace(
            config=SimpleNamespace(
                image_features=features, robot_state_feature=vector, action_feature=vector, n_obs_steps=2
            )
        )
        self.observations = deque(maxlen=1)

    def reset(self, seed):
        pass

    def compute(self, step, observations, previous, delay):
        self.observations.append(observations)
        distances = np.abs(self.demonstrations.states - observations[-1]["observation.state"]).sum(axis=1)
        frames = np.array([distances.argmin()])
        return None, self.demonstrations.actions[self.demonstrations.following(frames, 8)][0] + self.shift


class TestComparison:
    def test_a_policy_that_predicts_what_was_recorded_has_no_error(self, demonstrations):
        figures = Comparison(Oracle(demonstrations), demonstrations, 1000).figures([1], [0, 2, 3])
        assert figures["observations"] == LENGTHS[1]
        assert figures[MEASURE] == 0
        assert set(figures["by_step"][POLICY]) == {0}
        assert figures["by_episode"] == {"1": 0}
        assert figures["trained_error"] == 0

    def test_a_constant_error_is_found_and_drawn(self, demonstrations):
        comparison = Comparison(Oracle(demonstrations, 0.5), demonstrations, 10)
        assert comparison.scores([1])[MEASURE] == pytest.approx(0.5, abs=1e-4)
        (drawn,) = comparison.trajectories([1])
        assert len(drawn["recorded"]) == LENGTHS[1]
        for chunk in drawn["predicted"]:
            part = np.array(drawn["recorded"])[chunk["from"] : chunk["from"] + 4]
            np.testing.assert_allclose(chunk["actions"], part + 0.5, atol=2e-3)

    def test_earlier_observations_are_of_the_same_episode(self, demonstrations):
        oracle = Oracle(demonstrations)
        Comparison(oracle, demonstrations, 1)._predict(np.array([STARTS[1]]))
        before, now = oracle.observations[0]
        np.testing.assert_array_equal(before["observation.state"], now["observation.state"])
        assert before["observation.images.left"].dtype == np.uint8

    def test_images_of_another_moment_are_shown(self, demonstrations):
        oracle = Oracle(demonstrations)
        Comparison(oracle, demonstrations, 1)._predict(np.array([5]), np.array([30]))
        shown = oracle.observations[0][-1]
        expected = demonstrations.observation(30, ["observation.images.left"])["observation.images.left"]
        np.testing.assert_array_equal(shown["observation.images.left"], expected)
        np.testing.assert_array_equal(shown["observation.state"], demonstrations.states[5])


@pytest.mark.parametrize("policy", list(SETTINGS))
def test_every_policy_is_compared(policy, dataset, dataset_root, tmp_path):
    checkpoint = save(dataset, tmp_path / "policy", policy, held_out=[1])
    options = OfflineOptions(observations=3, device="cpu")
    result = evaluate_offline(checkpoint, dataset_root, options, tmp_path)
    assert result == json.loads((tmp_path / "eval.json").read_text())
    assert (result["kind"], result["episodes"], result["trained_on"]) == ("offline", [1], False)
    assert result["joints"] == ["x", "y", "z", "gripper"]
    assert result["chunk_size"] >= result["n_action_steps"] >= 4
    assert result["errors"][POLICY]["mean"]["1"] is None  # 20 actions; no chunk is that long
    assert result["action_error"] > 0
    assert len(json.loads((tmp_path / TRAJECTORIES).read_text())) == 1
    again = evaluate_offline(checkpoint, dataset_root, options)
    assert again["errors"] == result["errors"]


def test_without_a_record_all_episodes_are_compared_and_the_result_says_so(dataset, dataset_root, tmp_path):
    checkpoint = save(dataset, tmp_path / "policy")
    result = evaluate_offline(checkpoint, dataset_root, OfflineOptions(3, "cpu"))
    assert (result["episodes"], result["trained_on"], result["trained_error"]) == ([0, 1, 2, 3], None, None)
    assert MEAN not in result["errors"]
    write_held_out(checkpoint, dataset.meta, [])
    result = evaluate_offline(checkpoint, dataset_root, OfflineOptions(3, "cpu"))
    assert (result["episodes"], result["trained_on"]) == ([0, 1, 2, 3], True)


def test_another_dataset_is_not_mistaken_for_the_one_of_training(dataset, tmp_path):
    checkpoint = save(dataset, tmp_path / "policy", held_out=[1])
    other = write_dataset(tmp_path / "other" / "tiny", video=True)
    assert evaluate_offline(checkpoint, other, OfflineOptions(3, "cpu"))["trained_on"] is None


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"image_features": {"observation.images.lap": None}}, "needs the cameras lap and .* has left, right, not lap"),
        (
            {"robot_state_feature": SimpleNamespace(shape=(6,))},
            "state of the policy has 6 numbers and .* 4",
        ),
        ({"robot_state_feature": None}, "observation.state of the policy has none"),
        (
            {"action_feature": SimpleNamespace(shape=(7,))},
            "action of the policy has 7 numbers and .* 4; give",
        ),
    ],
)
def test_a_policy_of_another_robot_is_one_line(features, message, demonstrations):
    oracle = Oracle(demonstrations)
    vars(oracle.policy.config).update(features)
    with pytest.raises(UserError, match=message):
        Comparison(oracle, demonstrations, 1)


def _compare(checkpoint, root):
    return evaluate_offline(checkpoint, root, OfflineOptions(3, "cpu"))


def test_a_damaged_record_is_one_line(dataset, dataset_root, tmp_path):
    checkpoint = save(dataset, tmp_path / "policy", held_out=[1])
    file = checkpoint / "held_out.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"held_out": [7]}))
    with pytest.raises(UserError, match="names the episode 7"):
        _compare(checkpoint, dataset_root)
    file.write_text(json.dumps(content | {"held_out": "all"}))
    with pytest.raises(UserError, match="no list of held-out episodes"):
        _compare(checkpoint, dataset_root)


def test_the_lowest_error_selects_the_best_checkpoint(dataset_root, tmp_path):
    errors = {4: 0.5, 8: 0.25, 12: 0.75}
    steps = ["trainer.steps=12", "trainer.validate_every=4", f"run_dir={tmp_path}", f"dataset.root={dataset_root}"]
    cfg = run_config("tinyvla", *steps)
    run_settings = decode_run(as_dict(cfg))
    run_settings.held_out = [1]
    accelerator = make_accelerator("cpu", False)
    with Tracker(tmp_path, as_dict(cfg)) as tracker:
        best = train(
            run_settings, dataset_root, accelerator, tracker, lambda folder: {MEASURE: errors[_step_of(folder)]}
        )
    assert best.resolve().parent.name == "000008"
    assert json.loads((best / "held_out.json").read_text())["held_out"] == [1]
    card = (best / CARD).read_text()
    assert "| held out | episode 1: never trained on; " in card
    assert "checkpoint=<this folder> dataset.root=<the recordings>" in card


def _step_of(folder):
    return int(folder.parent.name.strip(".tmp"))
