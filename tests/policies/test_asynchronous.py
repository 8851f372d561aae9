"""Chunks computed while others are executed: which action is whose, how they are joined, and what may go wrong."""

import threading
from concurrent.futures import Executor, Future
from itertools import cycle

import numpy as np
import pytest
import torch
from lerobot.policies.rtc import RTCConfig, RTCProcessor
from lerobot.utils.constants import OBS_STATE
from scripted import Script, SoftlyGuided, seen, unchanged
from tiny import SETTINGS, tiny_policy

from policies import AsynchronousRunner, PolicyRunner, load_policy, save_checkpoint_files
from policies.asynchronous import Chunk, join
from tinyvla.errors import UserError


class ByHand(Executor):
    """Computes an episode's first chunk at once, and the others when the test says so."""

    def submit(self, work, step, *arguments):
        future = Future()
        self.finish = lambda: future.set_result(work(step, *arguments))
        if step == 0:
            self.finish()
        return future


def scripted(predict, latency_steps=None, **settings):
    return AsynchronousRunner(Script(predict, **settings), unchanged, unchanged, latency_steps)


def play(runner, steps, look=seen, first=0):
    return np.stack([runner.act(look(step) if runner.needs_observation else None) for step in range(first, steps)])


def the_step_itself(step):
    return step + np.arange(16)


def modes(step):
    """Two ways to do it, far apart, and another one every chunk."""
    return np.full(16, 1.0 if step % 16 else -1.0) + 0.02 * np.arange(16)


@pytest.mark.parametrize("latency", [0, 1, 4])
def test_actions_are_those_of_their_own_step_however_late_their_chunk_is(latency):
    runner = scripted(the_step_itself, latency)
    np.testing.assert_allclose(play(runner, 60).squeeze(1), np.arange(60), atol=1e-4)
    assert runner.policy.calls == list(range(0, 60, 8))
    assert runner.held == 0


def test_a_chunk_is_asked_for_as_soon_as_the_one_before_has_arrived_if_the_model_is_that_slow():
    runner = scripted(the_step_itself, 6, interval=4)
    np.testing.assert_allclose(play(runner, 40).squeeze(1), np.arange(40), atol=1e-4)
    assert runner.held == 0
    assert runner.policy.calls == [0, 4, 10, 16, 22, 28, 34]


@pytest.mark.parametrize("interval", [16, None])
def test_half_a_chunk_is_the_longest_interval(interval):
    runner = scripted(the_step_itself, 3, interval=interval)
    play(runner, 32)
    assert runner.policy.calls == [0, 8, 16, 24]


def test_delays_that_vary_are_counted_in_steps_taken():
    runner = scripted(the_step_itself)
    runner._worker = ByHand()
    taken = []
    for step in range(48):
        if step in (10, 20, 27, 33, 43):  # those asked for at 8, 16, 24, 32 and 40
            runner._worker.finish()
        taken.append(runner.act(seen(step))[0])
    np.testing.assert_allclose(taken, np.arange(48), atol=1e-4)
    assert runner.policy.calls == [0, 8, 16, 24, 32, 40]
    assert list(runner._delays) == [2, 4, 3, 1, 3]
    assert runner.held == 0


def test_the_fade_by_hand():
    old = Chunk(0, torch.zeros(16, 1), np.zeros((16, 1), np.float32))
    new = Chunk(8, torch.ones(16, 1), np.ones((16, 1), np.float32))
    joined = join(old, new, 11)
    expected = [0, 0, 0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6] + [1] * 8
    np.testing.assert_allclose(joined.actions[:, 0], expected, atol=1e-6)
    np.testing.assert_allclose(joined.normalised[:, 0], expected, atol=1e-6)
    theirs = RTCProcessor(RTCConfig()).get_prefix_weights(3, 8, 16)
    np.testing.assert_allclose(1 - joined.actions[:, 0], theirs, atol=1e-6)
    assert joined.end == 24


@pytest.mark.parametrize(("latency", "overlap"), [(0, 8), (3, 5), (4, 4), (7, 4)])
def test_chunks_that_disagree_are_joined_without_a_jerk(latency, overlap):
    taken = play(scripted(modes, latency), 200).squeeze(1)
    # The modes are 2 apart (less the drift of a chunk meanwhile). Each chunk itself moves by 0.02 per step.
    assert np.abs(np.diff(taken)).max() <= 2 / (overlap + 1) + 0.05
    assert taken.max() > 0.9  # each mode is really followed
    assert taken.min() < -0.7


class Guided(Script):
    """Policy that continues the previous chunk and jumps where its new actions begin."""

    def supports_rtc(self):
        return True

    def predict_action_chunk(self, batch, inference_delay=0, prev_chunk_left_over=None, execution_horizon=None):
        chunk = super().predict_action_chunk(batch)
        if prev_chunk_left_over is not None:
            chunk[:, :inference_delay] = prev_chunk_left_over[:, :inference_delay]
        return chunk


def test_a_chunk_that_continues_the_one_before_is_faded_in_only_if_it_is_late():
    runner = AsynchronousRunner(Guided(lambda step: [step] * 16), unchanged, unchanged)
    runner._worker = ByHand()
    taken = []
    for step in range(32):
        if step in (10, 18, 28):  # those asked for at 8, 16 and 24, after 2, 2 and 4 steps
            runner._worker.finish()
        taken.append(runner.act(seen(step))[0])
    fade = np.arange(1, 7) / 7
    np.testing.assert_allclose(
        taken[:16], [0] * 10 + list(8 * fade), atol=1e-5
    )  # it was not known how late it would be
    np.testing.assert_allclose(taken[16:27], [8, 8] + [16] * 9, atol=1e-5)
    np.testing.assert_allclose(taken[28:32], 16 + 8 * np.arange(1, 5) / 5, atol=1e-5)


@pytest.mark.parametrize("latency", range(13))
def test_a_guided_chunk_departs_from_the_one_before_over_several_steps_however_late_it_is(latency):
    modes = cycle([-1.0, 1.0])
    policy = SoftlyGuided(lambda step: [next(modes)] * 16)
    taken = play(AsynchronousRunner(policy, unchanged, unchanged, latency), 200).squeeze(1)
    assert np.abs(np.diff(taken)).max() <= 0.45 * 2  # over four steps the mask falls by at most 0.43 at once
    assert taken.max() > 0.5
    assert taken.min() < -0.5


def test_the_last_action_is_held_while_there_is_no_other():
    runner = scripted(lambda step: step + np.arange(4), 3, interval=4)  # asks every 2, or when the last has come
    taken = play(runner, 9).squeeze(1)
    # The second chunk is entered at its last action, 5, of which the fade lets through a fifth; the third likewise.
    np.testing.assert_allclose(taken, [0, 1, 2, 3, 3, 3.4, 3.4, 3.4, 4.32], atol=1e-5)
    assert runner.held == 1 + 2


@pytest.mark.parametrize("latency", [16, 30])
def test_a_model_slower_than_its_chunks_is_refused(latency):
    runner = scripted(the_step_itself, latency)
    with pytest.raises(UserError, match=f"16 actions took the policy {latency} control steps; use longer chunks"):
        play(runner, 60)


def test_a_negative_latency_is_refused():
    with pytest.raises(UserError, match="latency_steps is -1; use 0 or more"):
        scripted(the_step_itself, -1)


def held_up():
    """A runner whose second chunk is not finished until `go_on` is set; `computing` is set once it has begun."""
    computing, go_on = threading.Event(), threading.Event()

    def predict(step):
        if step == 8:
            computing.set()
            assert go_on.wait(20)
        return the_step_itself(step)

    runner = scripted(predict)
    return runner, computing, go_on


def test_acting_goes_on_while_the_model_computes():
    runner, computing, go_on = held_up()
    taken = list(play(runner, 9))
    assert computing.wait(20)
    assert not runner.needs_observation
    taken += [runner.act(None) for _ in range(5)]  # would hang if it waited
    assert runner.policy.calls == [0, 8]
    go_on.set()
    runner._pending.result()
    assert runner._plan.step == 0
    taken.append(runner.act(None))
    assert runner._plan.step == 8
    assert list(runner._delays) == [6]
    np.testing.assert_allclose(np.stack(taken).squeeze(1), np.arange(15), atol=1e-4)
    runner.close()


@pytest.mark.parametrize("latency", [None, 2])
def test_an_error_of_the_model_reaches_the_caller_once(latency):
    def predict(step):
        if step == 8:
            raise RuntimeError("out of memory")
        return the_step_itself(step)

    runner = scripted(predict, latency)
    errors, taken = [], []
    for step in range(14):
        try:
            taken.append(runner.act(seen(step)))
        except RuntimeError as error:
            errors.append(str(error))
        if latency is None and runner._pending:
            runner._pending.exception()
    assert errors == ["out of memory"]
    assert runner.policy.calls == [0, 8, 10 if latency is None else 11]  # asked again at once
    runner.close()


def test_an_error_of_the_first_chunk_is_raised_by_the_first_action():
    def predict(step):
        raise RuntimeError("no such file")

    runner = scripted(predict)
    for _ in range(2):  # and the next attempt is a new one
        with pytest.raises(RuntimeError, match="no such file"):
            runner.act(seen(0))
    runner.close()


@pytest.mark.parametrize("latency", [None, 1])
def test_nan_is_stopped(latency):
    runner = scripted(lambda step: np.full(16, np.nan), latency)
    with pytest.raises(UserError, match="non-finite action"):
        runner.act(seen(0))
    runner.close()


def test_a_new_episode_does_not_go_on_with_the_chunks_of_the_old_one():
    runner, computing, go_on = held_up()
    play(runner, 9)
    assert computing.wait(20)
    resetting = threading.Thread(target=runner.reset)
    resetting.start()
    go_on.set()
    resetting.join(20)
    assert not resetting.is_alive()
    assert runner.needs_observation
    with pytest.raises(ValueError, match="needs an observation"):
        runner.act(None)
    assert runner.act(seen(100)) == 100
    assert runner.act(None) == 101
    runner.close()


def observation(seed=0, task="open the drawer"):
    rng = np.random.default_rng(seed)
    images = {f"observation.images.{name}": rng.integers(0, 256, (32, 32, 3), np.uint8) for name in ("left", "right")}
    return images | {"observation.state": rng.normal(5, 2, 4), "task": task}


@pytest.fixture(scope="module")
def tiny(dataset):
    runs = {}

    def get(name, *settings):
        if (name, settings) not in runs:
            runs[name, settings] = tiny_policy(dataset, name, *settings)
        return runs[name, settings]

    return get


@pytest.mark.parametrize("name", SETTINGS)
def test_every_policy_runs_asynchronously_and_a_seed_fixes_what_it_does(name, dataset):
    runner = AsynchronousRunner(*tiny_policy(dataset, name), latency_steps=1)

    def episode(seed):
        runner.reset(seed)
        return play(runner, 24, observation)

    first = episode(1)
    assert (first.shape, first.dtype) == ((24, 4), np.float32)
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, episode(1))
    length = len(runner._plan.actions)
    interval = min(runner.interval or length, length // 2)
    assert runner.held == 0
    # What is executed is never further from the step before than chunks are, apart from a fraction of their distance.
    fade = length - interval - 1
    assert fade >= 1


@pytest.mark.parametrize("name", SETTINGS)
def test_its_first_chunk_is_the_one_of_synchronous_execution(name, dataset):
    policy = tiny_policy(dataset, name)
    synchronous = PolicyRunner(*policy)
    synchronous.reset(3)
    expected = synchronous.act(observation())
    runner = AsynchronousRunner(*policy, latency_steps=2)
    runner.reset(3)
    np.testing.assert_allclose(runner.act(observation()), expected, rtol=1e-4, atol=1e-5)


def test_what_a_policy_sees_at_once_are_successive_steps(dataset, monkeypatch):
    policy, *pipelines = tiny_policy(dataset, "diffusion", "policy.n_action_steps=8")  # sees two steps
    runner = AsynchronousRunner(policy, *pipelines, latency_steps=3)
    states, generate = [], policy.diffusion.generate_actions

    def spy(batch, **named):
        states.append(batch[OBS_STATE][0])
        return generate(batch, **named)

    monkeypatch.setattr(policy.diffusion, "generate_actions", spy)
    play(runner, 20, observation)
    prepared = [pipelines[0]({OBS_STATE: torch.as_tensor(observation(step)[OBS_STATE]).float()}) for step in range(20)]
    request_steps = [(0, 0), (6, 7), (13, 14)]  # a chunk has 15 actions here, not the 8 that synchronous execution uses
    for pair, expected in zip(states, request_steps, strict=True):
        torch.testing.assert_close(pair, torch.cat([prepared[step][OBS_STATE] for step in expected]))
    assert len(runner._plan.actions) == 15


@pytest.mark.parametrize("decoder", ["diffusion", "flow"])
def test_tinyvla_continues_what_is_being_executed(decoder, tiny):
    policy, preprocessor, _ = tiny("tinyvla", f"decoder={decoder}")
    runner = PolicyRunner(policy, preprocessor, unchanged)
    batch = runner._batch(observation())
    noise = torch.randn(1, 8, 4, generator=torch.Generator().manual_seed(0))
    left = torch.full((1, 6, 4), 0.5)
    free = policy.predict_action_chunk(batch, noise=noise)
    torch.testing.assert_close(policy.predict_action_chunk(batch, noise=noise), free)
    bound = policy.predict_action_chunk(
        batch, noise=noise, inference_delay=2, prev_chunk_left_over=left, execution_horizon=6
    )
    torch.testing.assert_close(bound[:, :2], left[:, :2])  # executed by the time that it arrives
    distance = (bound - 0.5).abs().mean(-1)[0] / (free - 0.5).abs().mean(-1)[0]
    assert (distance[2:6] < 1).all()
    # The rest is free to differ, and follows from what it continues.
    assert not torch.allclose(bound[:, 6:], left[:, :2])
    assert not torch.allclose(bound[:, 6:], free[:, 6:], atol=1e-4)
    # LeRobot's tools pad what is left, and hand it over without a batch.
    padded = torch.cat([left[0], torch.zeros(4, 4)])
    again = policy.predict_action_chunk(
        batch, noise=noise, inference_delay=2, prev_chunk_left_over=padded, execution_horizon=6
    )
    torch.testing.assert_close(again, bound)


def test_a_guided_policy_is_given_what_will_be_executed(dataset, monkeypatch):
    policy, *pipelines = tiny_policy(dataset)
    runner = AsynchronousRunner(policy, *pipelines, latency_steps=2)
    guidances, predict = [], policy.predict_action_chunk

    def spy(batch, **guidance):
        guidances.append(guidance)
        return predict(batch, **guidance)

    monkeypatch.setattr(policy, "predict_action_chunk", spy)
    taken = play(runner, 12, observation)
    assert guidances[0] == {}
    for step, guidance in zip((4, 8), guidances[1:], strict=True):
        # Four actions are left, two after the arrival; the last one is held until there are four.
        assert (guidance["inference_delay"], guidance["execution_horizon"]) == (2, 2 + 4)
        will_be = runner._unnormalise(guidance["prev_chunk_left_over"][0])
        np.testing.assert_allclose(will_be[:2], taken[step : step + 2], rtol=1e-4, atol=1e-5)


def test_from_a_checkpoint(dataset, tmp_path):
    policy, *pipelines = tiny_policy(dataset)
    save_checkpoint_files(policy, *pipelines, tmp_path / "pretrained_model")
    runner = load_policy(tmp_path, "cpu", asynchronous=True, latency_steps=2)
    assert isinstance(runner, AsynchronousRunner)
    assert runner.latency_steps == 2
    taken = []
    for same in (runner, AsynchronousRunner(policy, *pipelines, latency_steps=2)):
        same.reset(0)
        taken.append(play(same, 8, observation))
    np.testing.assert_allclose(*taken, rtol=1e-4, atol=1e-5)
    plain = load_policy(tmp_path, "cpu", asynchronous=False, latency_steps=2)
    assert type(plain) is PolicyRunner
