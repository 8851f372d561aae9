"""Recordings: whole and readable whatever ends the run."""

import contextlib
import io
import os
import pickle
import subprocess
import time
from types import SimpleNamespace

import numpy as np
import pytest
from fake_arm import JOINTS, FakeArm, FakeRunner
from lerobot.datasets.video_utils import StreamingVideoEncoder

from configs.composing import as_dict, load_config
from robot_io.deployment import Deployment, real_episodes
from robot_io.recording import Recorder
from robot_io.recording.rollback import recover
from robot_io.recording.writer import EPISODE_COMPLETE, EpisodeEnd, RecordingPlan, write
from robot_io.safety import SafetyLayer, SafetyLimits
from tinyvla.errors import UserError

SIZE = 32


def frame(number):
    pose = np.full(6, number, np.float32)
    return {
        "observation.images.front": np.full((SIZE, SIZE, 3), 8 * number, np.uint8),
        "observation.state": pose,
        "action": pose + 1,
        "policy_action": pose + 2,
        "intervention": np.array([number == 2]),
        "task": "pick up the cube",
    }


def stream_of(root, *messages, cut=0, **plan):
    content = [RecordingPlan(root, JOINTS, {"front": (SIZE, SIZE)}, 30, "so_follower", **plan), *messages]
    stream = b"".join(map(pickle.dumps, content))
    return io.BytesIO(stream[: len(stream) - cut])


def demonstration(number, length=3):
    """Frames of an episode without a policy's columns."""
    columns = ("policy_action", "intervention")
    return [{key: value for key, value in frame(number).items() if key not in columns} for _ in range(length)]


def opened(root):
    from policies.data import open_dataset

    return open_dataset(root)


@pytest.mark.parametrize("cut", [0, 100])
def test_a_recording_that_was_cut_off_can_be_read_and_trained_on(cut, tmp_path):
    root = tmp_path / "recording"
    messages = [*map(frame, range(5)), EpisodeEnd(), EpisodeEnd(), *map(frame, range(4))]
    figures = write(stream_of(root, *messages, cut=cut))
    assert figures == {"episodes": 2, "frames": 8 if cut else 9}
    dataset = opened(root)
    assert len(dataset) == figures["frames"]
    item = dataset[2]
    assert item["action"].tolist() == [3.0] * 6
    assert item["policy_action"].tolist() == [4.0] * 6
    assert (bool(item["intervention"]), bool(dataset[3]["intervention"])) == (True, False)
    assert item["task"] == "pick up the cube"
    assert float(item["observation.images.front"].mean()) * 255 == pytest.approx(16, abs=2)
    assert dataset.meta.features["action"]["names"] == [f"{joint}.pos" for joint in JOINTS]
    # Only `action` is one to a policy that is trained on it.
    from lerobot.utils.feature_utils import dataset_to_policy_features

    assert set(dataset_to_policy_features(dataset.meta.features)) == {
        "observation.images.front",
        "observation.state",
        "action",
    }


def test_a_recording_without_a_frame_is_none(tmp_path):
    root = tmp_path / "recording"
    assert write(stream_of(root, EpisodeEnd())) == {"episodes": 0, "frames": 0}
    assert not root.exists()


def observe(recorder, ticks, size=SIZE):
    recorder.begin(SimpleNamespace(instruction="push"))
    noise = np.random.default_rng(0)
    for number in range(ticks):
        pose = np.full(6, float(number))
        tick = {"position": pose, "sent": pose + 1, "policy_pose": pose + 2, "intervention": False}
        image = noise.integers(0, 256, (size, size, 3), np.uint8)
        recorder.observe(SimpleNamespace(observation={"front": image}, **tick))


@pytest.mark.slow
def test_the_recorders_process_writes_what_the_loop_saw(tmp_path):
    root = tmp_path / "run" / "recording"
    with Recorder(root, JOINTS, {"front": (SIZE, SIZE)}, 30, "so_follower") as recorder:
        observe(recorder, 5)
    # No `end`: as when an error ended the run.
    assert recorder.report() == {"recording": {"folder": str(root), "lost": 0, "episodes": 1, "frames": 5}}
    assert opened(root)[4]["action"].tolist() == [5.0] * 6


def test_a_recording_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be recorded: .*Error: .*; choose another run_dir, or record=false"):
        Recorder(tmp_path / "file" / "below", JOINTS, {}, 30, "so_follower")
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="exists already; choose another run_dir"):
        Recorder(tmp_path / "there", JOINTS, {}, 30, "so_follower")


def test_an_episode_whose_video_was_not_encoded_in_time_is_taken_back(tmp_path, monkeypatch):
    root, finish, episodes = tmp_path / "recording", StreamingVideoEncoder.finish_episode, []

    def finish_late(encoder):
        episodes.append(videos := finish(encoder))
        return {key: (path, None) for key, (path, _) in videos.items()} if len(episodes) == 2 else videos

    monkeypatch.setattr(StreamingVideoEncoder, "finish_episode", finish_late)
    figures = write(stream_of(root, *map(frame, range(5)), EpisodeEnd(), *map(frame, range(4)), EpisodeEnd()))
    assert "the video of observation.images.front was not encoded" in figures["error"]
    assert (opened(root).meta.total_episodes, opened(root).meta.total_frames) == (1, 5)


def test_a_judgement_is_in_the_last_frame_of_its_episode(tmp_path):
    root = tmp_path / "recording"
    ends = [EpisodeEnd(success=True), EpisodeEnd(success=False), EpisodeEnd()]
    messages = [message for end in ends for message in (frame(0), frame(1), end)]
    assert write(stream_of(root, *messages)) == {"episodes": 3, "frames": 6}
    columns = opened(root).hf_dataset
    assert list(map(bool, columns["judged"])) == [True, True, True, True, False, False]
    assert list(map(bool, columns["next.success"])) == [False, True, False, False, False, False]


def test_demonstrations_that_are_thrown_away_or_broke_off_are_not_in_the_dataset(tmp_path):
    root = tmp_path / "demos"
    messages = [
        *demonstration(1),
        EpisodeEnd(keep=False),
        *demonstration(2),
        EPISODE_COMPLETE,
        EpisodeEnd(),
        *demonstration(3),
        EpisodeEnd(),
        *demonstration(4),
    ]
    assert write(stream_of(root, *messages, of_policy=False)) == {"episodes": 2, "frames": 6}
    dataset = opened(root)
    assert [float(dataset[index]["action"][0]) for index in (0, 3)] == [3.0, 4.0]
    assert set(dataset.meta.features) == {
        *("observation.images.front", "observation.state", "action"),
        *("timestamp", "frame_index", "episode_index", "index", "task_index"),
    }
    assert sorted(path.name for path in root.iterdir()) == ["data", "meta", "videos"]
    # The end of the stream after an episode was complete: it is kept.
    messages = [*demonstration(5), EPISODE_COMPLETE]
    assert write(stream_of(root, *messages, of_policy=False, resume=True)) == {"episodes": 3, "frames": 9}
    dataset = opened(root)
    assert float(dataset[8]["action"][0]) == 6.0
    assert float(dataset[8]["observation.images.front"].mean()) * 255 == pytest.approx(40, abs=2)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"fps": 15}, "30 frames per second, and the control loop 15"),
        ({"cameras": {"front": (16, 32)}}, "32x32x3, not"),
    ],
)
def test_a_dataset_of_another_kind_is_not_continued(changes, fault, tmp_path):
    root = tmp_path / "demos"
    write(stream_of(root, *demonstration(1), EpisodeEnd(), of_policy=False))
    plan = RecordingPlan(root, JOINTS, {"front": (SIZE, SIZE)}, 30, "so_follower", of_policy=False, resume=True)
    before = {file: file.read_bytes() for file in root.rglob("*") if file.is_file()}
    with pytest.raises(UserError, match=fault):
        write(io.BytesIO(pickle.dumps(plan._replace(**changes))))
    assert before == {file: file.read_bytes() for file in root.rglob("*") if file.is_file()}


@contextlib.contextmanager
def small_disk(folder, megabytes):
    """A file system of its own."""
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", folder]).returncode:
        pytest.skip("a small file system needs root and the right to mount it")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
def test_a_full_disk_costs_only_the_episode_that_is_being_written(tmp_path):
    lines = []
    with small_disk(tmp_path / "disk", 4) as disk:
        recorder = Recorder(disk / "recording", JOINTS, {"front": (128, 128)}, 30, "so_follower", complain=lines.append)
        for _ in range(40):
            observe(recorder, 30, size=128)
            recorder.end({"success": None})
            while recorder._queue.qsize() and not recorder.error:
                time.sleep(0.01)
            if recorder.error:
                break
        report = recorder.close()
        assert 0 < report["episodes"] < 39
        (line,) = lines
        assert line == (
            f"the recording has stopped: the disk is full; the {report['episodes']} episodes before are whole in "
            f"{disk / 'recording'}"
        )
        with pytest.raises(UserError, match=r"the disk is full; .* free disk space"):
            recorder.check()
        dataset = opened(disk / "recording")
        assert len(dataset) == report["frames"] == 30 * report["episodes"]
        assert dataset[len(dataset) - 1]["action"].tolist() == [30.0] * 6
        assert sorted(path.name for path in (disk / "recording").iterdir()) == ["data", "meta", "videos"]


def test_a_writer_that_is_killed_while_it_saves_costs_that_episode(tmp_path):
    root = tmp_path / "recording"
    write(stream_of(root, frame(1), frame(2), EpisodeEnd()))
    from robot_io.recording.writer import EpisodeWriter

    writer = EpisodeWriter(RecordingPlan(root, JOINTS, {"front": (SIZE, SIZE)}, 30, "so_follower", resume=True))
    writer.add(frame(3))
    writer._dataset.save_episode()  # and not a step further
    (root / "meta/info.json").write_text("")
    assert recover(root) == {"episodes": 1, "frames": 2}
    assert len(opened(root)) == 2


@pytest.mark.slow
def test_a_writer_that_is_killed_is_reported_at_once(tmp_path):
    lines = []
    recorder = Recorder(tmp_path / "r", JOINTS, {"front": (SIZE, SIZE)}, 30, "so_follower", complain=lines.append)
    observe(recorder, 3)
    recorder.end({})
    observe(recorder, 3)
    end = time.monotonic() + 30
    while not (tmp_path / "r/meta/stats.json").exists() and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.5)
    recorder._process.kill()
    recorder._reader.join()
    assert lines == [
        "the recording has stopped: the process that writes it has ended; the 1 episodes before are whole in "
        f"{tmp_path / 'r'}"
    ]
    assert recorder.close()["episodes"] == 1
    assert len(opened(tmp_path / "r")) == 3


class Filler:
    """Fills the disk in the second episode of a run."""

    def __init__(self, disk):
        self.disk, self.episodes = disk, 0

    def begin(self, episode):
        self.episodes += 1

    def observe(self, tick):
        if self.episodes == 2 and not (self.disk / "filler").exists():
            with contextlib.suppress(OSError), (self.disk / "filler").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 16))

    def end(self, result):
        pass

    def report(self):
        return {}


@pytest.mark.slow
def test_a_run_goes_on_when_the_disk_is_full_and_its_end_is_an_error(tmp_path, capsys):
    safety = as_dict(load_config("deploy", ["checkpoint=none"]).safety) | {"model": None}
    layer = SafetyLayer(SafetyLimits.decode(safety))
    with small_disk(tmp_path / "disk", 2) as disk:
        arm, runner = FakeArm(size=SIZE), FakeRunner(size=SIZE)
        recorder = Recorder(disk / "recording", JOINTS, {"front": (SIZE, SIZE)}, 30, arm.name)
        run = Deployment(arm, runner, layer, [Filler(disk), recorder], approach_speed=1.0)
        report = run.run(real_episodes("go", 3, 0.4, None, 0), tmp_path)
        assert (report["ended"], len(report["episodes"])) == ("time", 3)
        assert (report["recording"]["episodes"], report["recording"]["error"]) == (1, "the disk is full")
        assert len(opened(disk / "recording")) == 12
        assert "the recording has stopped: the disk is full; the 1 episodes before are whole" in capsys.readouterr().err
        with pytest.raises(UserError, match="the recording has stopped: the disk is full"):
            recorder.check()
