"""One episode in closed loop: when it looks, the instruction, how it ends, and its video."""

import imageio.v3 as iio
import numpy as np
import pytest
from tiny import tiny_policy

from envs.rollout import roll_out, write_video
from policies import AsynchronousRunner, PolicyRunner


class Room:
    """An environment that notes what is asked of it and ends after `length` steps."""

    metadata = {"render_fps": 80}  # noqa: RUF012 (as gymnasium declares it)

    def __init__(self, length=12, succeeds=True):
        self.length, self.succeeds = length, succeeds
        self.looks, self.actions, self.seeds = [], [], []

    def reset(self, seed=None):
        self.seeds.append(seed)
        self.actions = []
        return self.observe(), {"success": False}

    def observe(self):
        self.looks.append(len(self.actions))
        images = {
            f"observation.images.{name}": np.full((32, 32, 3), len(self.actions), np.uint8)
            for name in ("left", "right")
        }
        return images | {"observation.state": np.ones(4), "task": "open the drawer"}

    def apply(self, action):
        self.actions.append(action)
        over = len(self.actions) == self.length
        success = over and self.succeeds
        return 0.0, success, over and not success, {"success": success}

    def render(self):
        return np.full((64, 64, 3), 20 * (len(self.actions) % 12), np.uint8)


@pytest.fixture(scope="module")
def runner(dataset):
    return PolicyRunner(*tiny_policy(dataset))  # executes four actions of every chunk


def test_looks_only_when_a_chunk_is_due(runner):
    room = Room()
    rollout = roll_out(room, runner, seed=7)
    assert room.seeds == [7]
    assert room.looks == [0, 4, 8]
    assert (rollout.seed, rollout.success, rollout.steps) == (7, True, 12)
    assert rollout.action_ms.shape == (12,)
    assert (rollout.action_ms > 0).all()


def test_a_policy_that_sees_two_steps_at_once_looks_at_both(dataset):
    room = Room(length=9)
    roll_out(room, PolicyRunner(*tiny_policy(dataset, "diffusion")), seed=0)
    assert room.looks == [0, 3, 4, 7, 8]


def test_asynchronous_execution_looks_when_the_next_chunk_is_asked_for(dataset):
    runner = AsynchronousRunner(*tiny_policy(dataset), latency_steps=2)
    room = Room()
    done = [(roll_out(room, runner, seed), np.stack(room.actions))[1] for seed in (1, 1, 2)]
    assert room.looks == [0, 4, 8] * 3
    np.testing.assert_array_equal(done[0], done[1])
    assert not np.allclose(done[0], done[2], atol=1e-3)


def test_an_episode_that_runs_out_of_time_has_failed(runner):
    rollout = roll_out(Room(length=6, succeeds=False), runner, seed=0)
    assert (rollout.success, rollout.steps) == (False, 6)


def test_the_seed_fixes_what_is_done(runner):
    room = Room()
    done = [(roll_out(room, runner, seed), np.stack(room.actions))[1] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(done[0], done[1])
    assert not np.allclose(done[0], done[2], atol=1e-3)


def test_another_instruction_reaches_the_policy(runner, monkeypatch):
    instructions, act = [], runner.act

    def listen(observation):
        instructions.append(observation and observation["task"])
        return act(observation)

    monkeypatch.setattr(runner, "act", listen)
    room = Room(length=6)
    roll_out(room, runner, seed=0)
    closed_loop = np.stack(room.actions)
    roll_out(room, runner, seed=0, instruction="close the window")
    assert [text for text in instructions if text] == ["open the drawer"] * 2 + ["close the window"] * 2
    assert not np.allclose(closed_loop, np.stack(room.actions), atol=1e-4)


def test_the_video_shows_the_episode_from_beginning_to_end(runner, tmp_path):
    file = tmp_path / "videos" / "episode.mp4"
    room = Room(length=10)
    roll_out(room, runner, seed=0, video=file)
    frames = iio.imread(file, plugin="pyav")
    # 80 steps per second shown at 20 frames: every fourth step, and the last.
    assert frames.shape == (4, 64, 64, 3)
    np.testing.assert_allclose(frames.mean((1, 2, 3)), [0, 80, 160, 200], atol=6)
    assert iio.immeta(file, plugin="pyav")["codec"] == "h264"
    assert iio.immeta(file, plugin="pyav")["fps"] == 20
    assert room.looks == [0, 4, 8]


def test_a_video_can_be_played_by_browsers(tmp_path):
    import av

    write_video(tmp_path / "a.mp4", [np.full((32, 48, 3), i, np.uint8) for i in range(3)])
    with av.open(tmp_path / "a.mp4") as container:
        stream = container.streams.video[0]
        assert (stream.pix_fmt, stream.width, stream.height) == ("yuv420p", 48, 32)
