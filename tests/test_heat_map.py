"""The generalisation benchmark and its page: the right cells, nothing played twice, no network."""

import json

import imageio.v3 as iio
import numpy as np
import pytest

from benchmarks import generalisation
from benchmarks.heat_map import markdown, write_heat_map
from benchmarks.settings import start
from envs.shifts.examples import Example


def figures(successes, episodes=10):
    low, high = successes / episodes / 2, min(1.0, successes / episodes + 0.2)
    rate = successes / episodes
    return {
        "success_rate": rate, "successes": successes, "episodes": episodes, "ci95": [low, high],
        "episode_length": 50.0, "ms_per_action": 1.0, "tasks": {},
    }  # fmt: skip


CELLS = {
    "plain": {("none", 0): figures(9), ("lighting", 1): figures(6), ("lighting", 3): figures(1)},
    "<b>randomised</b>": {("none", 0): figures(8), ("lighting", 3): figures(7)},
}
FRAMES = {
    column: Example(np.full((16, 16, 3), 40 * i, np.uint8), f"words {i}")
    for i, column in enumerate([("none", 0), ("instruction", 1), ("lighting", 1), ("lighting", 3)])
}


def test_the_page_and_the_images_show_every_cell(tmp_path):
    frames = FRAMES | {("instruction", 3): FRAMES["instruction", 1]}
    page, heat_map, frames_png = write_heat_map(tmp_path, CELLS, frames, {"machine": "a machine"}, "reach-v3", "cmd")
    text = page.read_text()
    for words in ("9/10", "6/10", "1/10", "7/10", "n = 10 episodes", "a machine", "words 1", "&lt;b&gt;randomised"):
        assert words in text, words
    assert "<b>randomised" not in text
    assert text.count("data:image/png") == 3 + 3  # each axis beside the frame without a shift
    assert "://" not in text.replace("http://www.w3.org", "")
    for file in (heat_map, frames_png):
        assert iio.imread(file).std() > 5
    assert not list(tmp_path.glob("*.tmp"))


def test_the_table_has_intervals_and_says_what_is_missing():
    lines = markdown(CELLS).splitlines()
    assert lines[0] == "| shift | severity | plain | <b>randomised</b> |"
    assert lines[2] == "| none |  | 9/10 (45.0–100.0%) | 8/10 (40.0–100.0%) |"
    assert lines[3] == "| lighting | 1 | 6/10 (30.0–80.0%) | · |"
    assert len(lines) == 5


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    """Benchmark with evaluation and rendering replaced: its command line, and the evaluations so far."""
    played = []

    def evaluate(checkpoint, env_cfg, options):
        played.append((checkpoint.name, env_cfg.shift, options.episodes))
        if len(played) == stop_at[0]:
            raise KeyboardInterrupt
        return figures(5)

    stop_at = [0]
    monkeypatch.setattr("benchmarks.machine.RESULTS", tmp_path / "results")
    frames = {("none", 0): FRAMES["none", 0], ("lighting", 1): FRAMES["lighting", 1]}
    monkeypatch.setattr(generalisation, "evaluate", evaluate)
    monkeypatch.setattr(generalisation, "example_frames", lambda *_: frames)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        features = {"observation.images.corner2": {"shape": [3, 32, 32]}}
        (tmp_path / name / "config.json").write_text(json.dumps({"input_features": features}))
        (tmp_path / name / "model.safetensors").write_text(name)

    def run(*arguments, stop=0):
        stop_at[0] = stop
        played.clear()
        rows = f"checkpoints=[{tmp_path / 'one'},other={tmp_path / 'two'}]"
        command = [rows, "shifts=[lighting]", "severities=[1]", f"out={tmp_path / 'out'}"]
        monkeypatch.setattr("sys.argv", ["generalisation", *command, *arguments])
        start(generalisation.main, generalisation.Settings, generalisation.__doc__)

    return run, played


def test_a_map_is_finished_where_it_was_stopped(benchmark, tmp_path, capsys):
    run, played = benchmark
    with pytest.raises(SystemExit) as leaving:
        run(stop=3)
    assert leaving.value.code == 130
    run()
    assert [(name, shift and list(shift.names)) for name, shift, _ in played] == [
        ("one", ["lighting"]), ("two", ["lighting"]),
    ]  # fmt: skip
    run()
    assert not played
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(cell["policy"], cell["shift"]) for cell in last["cells"]] == [
        ("one", "none"), ("one", "lighting"), ("other", "none"), ("other", "lighting"),
    ]  # fmt: skip
    assert (tmp_path / "out/heat_map.html").exists()
    result = json.loads((tmp_path / "results/generalisation.json").read_text())
    assert result["cells"] == last["cells"]
    assert "severities=[1]" in result["run"]["command"]
    assert (result["run"]["settings"]["seed"], result["run"]["settings"]["shifts"]) == (0, ["lighting"])
    assert result["run"]["versions"]["torch"]


def test_other_weights_and_other_settings_are_played_again(benchmark, tmp_path):
    run, played = benchmark
    run()
    assert len(played) == 4
    (tmp_path / "two/model.safetensors").write_text("trained again")
    run()
    assert [name for name, *_ in played] == ["two", "two"]
    run("episodes=3")
    assert [episodes for *_, episodes in played] == [3] * 4


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["shifts=[lightning]"], "did you mean lighting"),
        (["severities=[7]"], "severity is 7"),
        (["tasks=[raech-v3]"], "did you mean"),
    ],
)
def test_mistakes_come_up_before_anything_is_played(benchmark, capsys, arguments, what):
    run, played = benchmark
    with pytest.raises(SystemExit) as leaving:
        run(*arguments)
    assert leaving.value.code == 2
    assert what in capsys.readouterr().err
    assert not played
