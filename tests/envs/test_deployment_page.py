"""Page of a deployment: its figures are those of deploy.json, its films those of the recording."""

import base64
import io
import json
import pickle
import re

import imageio.v3 as iio
import numpy as np
import pytest
from omegaconf import OmegaConf

from envs.report.deployment_page import shown_episodes, write_deployment_report
from robot_io.recording.writer import EpisodeEnd, RecordingPlan, write
from tinyvla.errors import UserError

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
OUTCOMES = (True, None, False, True)
TICKS = 40


def frame(number):
    pose = np.linspace(0, 50, 6, dtype=np.float32) + number
    front, wrist = np.zeros((48, 64, 3), np.uint8), np.full((96, 96, 3), 4 * number, np.uint8)
    front[:, :32] = 200
    cameras = {"observation.images.front": front, "observation.images.wrist": wrist}
    poses = {"observation.state": pose, "action": pose + 1, "policy_action": pose + 2}
    return cameras | poses | {"intervention": np.array([number > 20]), "task": "pick up the cube"}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Folder of deploy.py: four episodes, two cameras of different sizes."""
    folder = tmp_path_factory.mktemp("deployment")
    plan = RecordingPlan(folder / "recording", JOINTS, {"front": (48, 64), "wrist": (96, 96)}, 30, "so_follower")
    messages = [plan, *([*map(frame, range(TICKS)), EpisodeEnd()] * len(OUTCOMES))]
    write(io.BytesIO(b"".join(map(pickle.dumps, messages))))
    episodes = [
        {"task": "", "instruction": "pick up <the> cube", "seed": i, "success": success}
        | {"ticks": TICKS, "seconds": 1.33, "ended": "time"}
        for i, success in enumerate(OUTCOMES)
    ]
    report = {"rate_hz": 30.0, "dry_run": False, "ended": "time", "episodes": episodes, "held_ticks": 3}
    report["timing"] = {"ticks": 160, "late": 2, "missed": 0, "p50_ms": 0.1, "p99_ms": 1.2, "worst_ms": 4.5}
    report["safety"] = {"ticks": 160, "causes": {"lag": {"ticks": 12, "interventions": 2}}, "log": []}
    (folder / "deploy.json").write_text(json.dumps(report))
    OmegaConf.save(
        {"command": "python deploy.py", "checkpoint": "outputs/x", "robot": {"id": "my_arm"}}, folder / "config.yaml"
    )
    return folder


def test_the_page_shows_figures_and_films(run_dir):
    page = write_deployment_report(run_dir, videos=1).read_text()
    assert "66.7%" in page
    assert "2 of 3 judged episodes" in page
    assert "pick up &lt;the&gt; cube" in page
    assert re.search(r"<th scope=\"row\">lag</th><td>2</td><td>12</td>", page)
    films = [base64.b64decode(film) for film in re.findall(r"data:video/mp4;base64,([^\"]+)", page)]
    assert len(films) == 3  # one of each outcome
    frames = iio.imread(films[0], extension=".mp4", plugin="pyav")
    assert len(frames) == TICKS / 2  # 15 of 30 images per second
    assert frames.shape[1:] == (192, 256 + 192, 3)
    assert np.abs(frames[10, 96, 60].astype(int) - 200).max() < 12
    assert np.abs(frames[10, 96, 350].astype(int) - 4 * 20).max() < 12
    assert page.count('aria-label="joints, episode') == 3
    assert sorted(file.name for file in (run_dir / "videos").iterdir()) == [
        "episode-001-success.mp4",
        "episode-002-not-judged.mp4",
        "episode-003-failure.mp4",
    ]


def test_a_run_without_a_recording_has_a_page(run_dir, tmp_path):
    for name in ("deploy.json", "config.yaml"):
        (tmp_path / name).write_bytes((run_dir / name).read_bytes())
    assert "2 of 3 judged" in write_deployment_report(tmp_path, videos=1).read_text()
    with pytest.raises(UserError, match=r"no deploy\.json to report on"):
        write_deployment_report(tmp_path / "empty", videos=1)


def test_the_first_episodes_of_each_outcome_are_shown():
    episodes = [{"number": i, "success": success} for i, success in enumerate((True, True, None, False, True, None))]
    assert [episode["number"] for episode in shown_episodes(episodes, 1)] == [0, 2, 3]
    assert [episode["number"] for episode in shown_episodes(episodes, 2)] == [0, 1, 2, 3, 5]
