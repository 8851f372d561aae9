"""Page and table of a run: the right figures, no network, safe for any name."""

import base64
import json
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from omegaconf import OmegaConf

from envs.evaluation import Job, summarise
from envs.report import describe, page, run_videos, write_report
from envs.report.charts import success_bars, to_svg, training_curves
from envs.rollout import Rollout
from tinyvla.errors import UserError

HOSTILE = "<script>alert('1')</script>\" onload=\"x & $a_b$"


def evaluated(successes, wrong=None, episodes=10):
    """Result with `successes` by task of `episodes`, and `wrong`, {(task, instruction): successes} of 3."""
    runs = {(task, task): (count, episodes) for task, count in successes.items()}
    runs |= {pair: (count, 3) for pair, count in (wrong or {}).items()}
    rollouts = {
        Job(task, other, i): Rollout(i, i < count, 100 + i, np.array([1.0, 2.0, 9.0]))
        for (task, other), (count, of) in runs.items()
        for i in range(of)
    }
    return summarise(rollouts) | {"split": "evaluation", "seed": 7, "machine": "a machine, 2 workers"}


@pytest.fixture
def run_dir(tmp_path):
    result = evaluated({"reach-v3": 9, "push-v3": 2}, {("reach-v3", "push-v3"): 1, ("push-v3", "reach-v3"): 0})
    (tmp_path / "eval.json").write_text(json.dumps(result))
    OmegaConf.save(
        {"command": "python train.py 'env.tasks=[reach-v3]'", "env": {"name": "metaworld"}}, tmp_path / "config.yaml"
    )
    return tmp_path


def add_video(run_dir, name, content=b"mp4"):
    (run_dir / "videos").mkdir(exist_ok=True)
    (run_dir / "videos" / name).write_bytes(content)


def records(loss=(1.0, 0.5, 0.2)):
    train = [
        {"step": 10 * i, "train/loss": x, "train/lr": 1e-4, "train/samples_per_s": 99.0} for i, x in enumerate(loss, 1)
    ]
    return [*train, {"step": 30, "validation/success_rate": 0.5, "validation/success_rate/reach-v3": 0.5}]


class Page(HTMLParser):
    """Elements of a page with their attributes, and the text of each kind of element."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "hr"})

    def __init__(self, file):
        super().__init__()
        self.elements, self.texts, self.open = [], [], []
        self.source = file.read_text()
        self.feed(self.source)
        assert not self.open, "unclosed elements"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    def text(self, tag):
        return [text for name, text in self.texts if name == tag]


def test_the_page_needs_no_network(run_dir):
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records()))
    add_video(run_dir, "reach-v3-000-success.mp4")
    report = write_report(run_dir)
    assert report == run_dir / "report.html"
    shown = Page(report)
    links = [
        attrs[key] for _, attrs in shown.elements for key in ("src", "href", "xlink:href", "poster") if key in attrs
    ]
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in shown.elements}
    assert "@import" not in shown.source
    assert "url(http" not in shown.source
    assert not list(run_dir.glob("*.tmp"))


def test_ids_are_unique_and_references_resolve_though_charts_share_a_page(run_dir):
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records()))
    shown = Page(write_report(run_dir))
    ids = [attrs["id"] for _, attrs in shown.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    used = {a.get("xlink:href", "")[1:] for _, a in shown.elements} | {
        a["clip-path"][5:-1] for _, a in shown.elements if "clip-path" in a
    }
    assert used - {""} <= set(ids)
    assert len(shown.all("svg")) == 5
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in shown.all("svg"))


def test_every_video_is_embedded_with_its_ending_instruction_and_seed(run_dir):
    for name in ("reach-v3-000-success", "reach-v3-004-failure", "push-v3-told-reach-v3-001-failure", "stray"):
        add_video(run_dir, f"{name}.mp4", name.encode())
    shown = Page(write_report(run_dir))
    captions = {
        base64.b64decode(video["src"].removeprefix("data:video/mp4;base64,")).decode(): video["aria-label"]
        for video in shown.all("video")
    }
    # The seeds are those that envs.seeds gives episodes 0, 4 and 1 of the evaluation split of seed 7.
    assert captions == {
        "reach-v3-000-success": "reach-v3: success, seed 200070000",
        "reach-v3-004-failure": "reach-v3: failure, seed 200070004",
        "push-v3-told-reach-v3-001-failure": "push-v3: failure, instruction of reach-v3, seed 200070001",
        "stray": "other: stray.mp4",
    }
    assert shown.text("h3") == ["reach-v3", "push-v3", "other"]


def test_a_video_that_is_a_link_to_nothing_is_left_out(run_dir):
    (run_dir / "videos").mkdir(exist_ok=True)
    (run_dir / "videos/reach-v3-000-success.mp4").symlink_to("nowhere.mp4")
    assert run_videos(run_dir) == []
    write_report(run_dir)


def test_videos_beyond_the_budget_are_linked_and_the_page_says_so(run_dir, monkeypatch):
    monkeypatch.setattr(page, "MAX_EMBEDDED_BYTES", 10)
    add_video(run_dir, "reach-v3-000-success.mp4", b"x" * 8)
    add_video(run_dir, "reach-v3-001-fail #?.mp4", b"x" * 8)
    shown = Page(write_report(run_dir))
    assert len(shown.all("video")) == 1
    assert [a["href"] for a in shown.all("a")] == ["videos/reach-v3-001-fail%20%23%3F.mp4"]
    assert any("1 video is too large to embed" in text for text in shown.text("p"))


def test_names_and_commands_are_only_ever_text(run_dir):
    result = evaluated({HOSTILE: 1, "x": 2}, {(HOSTILE, "x"): 1, ("x", HOSTILE): 0})
    (run_dir / "eval.json").write_text(json.dumps(result))
    OmegaConf.save(
        {"command": f"python {HOSTILE}", "env": {"name": HOSTILE}, "policy": {"type": HOSTILE}},
        run_dir / "config.yaml",
    )
    hostile = [{"step": 1, "validation/success_rate": 0.5, f"validation/success_rate/{HOSTILE}": 0.5}]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in hostile))
    add_video(run_dir, f"{HOSTILE.replace('/', '')}-000-success.mp4")
    shown = Page(write_report(run_dir))
    assert not shown.all("script")
    assert not any("onload" in attrs for _, attrs in shown.elements)
    assert f"python {HOSTILE}" in "".join(shown.text("pre"))
    assert HOSTILE in shown.text("th")
    assert any(text.startswith("<script>") for text in shown.text("text"))


def test_an_evaluation_alone_makes_a_page(run_dir):
    (run_dir / "config.yaml").unlink()
    shown = Page(write_report(run_dir))
    assert len(shown.all("svg")) == 1
    assert not shown.all("video")
    assert "55%" in shown.text("strong")
    assert "Training" not in shown.text("h2")


def test_the_page_has_the_command_the_settings_and_the_confusion_table(run_dir):
    shown = Page(write_report(run_dir))
    command, settings = shown.text("pre")
    assert command == "python train.py 'env.tasks=[reach-v3]'"
    assert "name: metaworld" in settings
    # Task's figures of two tasks and all, then for each task: own, any other, and a column for each.
    assert [cell for cell in shown.text("td") if "/" in cell] == [
        *("9/10", "2/10", "11/20"),
        *("9/10", "1/3", "9/10", "1/3"),
        *("2/10", "0/3", "0/3", "2/10"),
    ]


def test_bars_and_whiskers_are_the_figures():
    result = evaluated({"a": 0, "b": 4, "c": 10})
    axes = success_bars(result).axes[0]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([14 / 30, 0, 0.4, 1])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["all tasks", "a", "b", "c"]
    (whiskers,) = axes.collections
    ends = [segment[:, 0].tolist() for segment in whiskers.get_segments()]
    assert np.array(ends) == pytest.approx(np.array([f["ci95"] for f in (result, *result["tasks"].values())]), abs=1e-3)
    assert "40% (4/10)" in [text.get_text() for text in axes.texts]


def test_many_tasks_do_not_overlap_and_long_names_leave_room_for_the_bars():
    tasks = {f"task-{i}-" + "x" * 100: 5 for i in range(50)}
    figure = success_bars(evaluated(tasks))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert all(above.y0 >= below.y1 for above, below in pairwise(boxes))
    assert axes.get_window_extent().width > 0.3 * figure.get_window_extent().width


def test_charts_are_deterministic_and_use_the_pages_colours():
    result = evaluated({"a": 3})
    first, second = (to_svg(success_bars(result), "bars") for _ in range(2))
    assert first == second
    assert "var(--accent)" in first
    assert ">all tasks</text>" in first


@pytest.mark.parametrize("loss", [(1.0, float("nan"), 0.2), (float("nan"),) * 3, (1.0, None, float("inf")), (0.0,), ()])
def test_a_loss_that_is_not_finite_leaves_a_gap(loss):
    for name, figure in training_curves(records(loss)).items():
        assert to_svg(figure, name).startswith("<svg")


def test_curves_show_what_was_recorded():
    curves = training_curves(records((1.0, float("nan"), 0.25)))
    assert list(curves) == ["Training loss", "Validation success", "Learning rate", "Speed"]
    loss = curves["Training loss"].axes[0]
    assert loss.get_yscale() == "log"
    assert loss.lines[0].get_ydata()[[0, 2]].tolist() == [1.0, 0.25]
    assert "1 of 3 records not finite" in loss.get_title(loc="left")
    assert loss.get_xlim()[1] >= 30
    assert training_curves([]) == {}


def test_a_run_without_evaluation_is_a_line_that_names_the_fix(tmp_path):
    with pytest.raises(UserError, match=r"no eval\.json.*evaluate\.py") as error:
        write_report(tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "report.html").exists()


def test_the_table_has_every_task_and_the_total():
    lines = describe(evaluated({"reach-v3": 9, "push-v3": 2})).splitlines()
    cells = {line.split("  ")[0].strip(): line.split() for line in lines if "/" in line}
    assert cells["reach-v3"][1:] == ["9/10", "90%", "59.6–98.2%", "104.5", "4.00", "9.00"]
    assert cells["push-v3"][1:3] == ["2/10", "20%"]
    assert cells["all tasks"][2:4] == ["11/20", "55%"]
    assert "evaluation split, seed 7" in "\n".join(lines)
    assert "a machine, 2 workers" in "\n".join(lines)
    assert "told" not in "\n".join(lines)


def test_wrong_instructions_are_rows_of_environments_and_columns_of_instructions():
    text = describe(evaluated({"a": 9, "b": 2, "c": 5}, {("a", "b"): 1, ("a", "c"): 0, ("b", "a"): 3}))
    table = {line.split()[1]: line.split()[2:] for line in text.splitlines() if line.startswith("[")}
    assert table == {"a": ["9/10", "1/3", "0/3"], "b": ["3/3", "2/10", "-"], "c": ["-", "-", "5/10"]}
    assert "diagonal" in text


def test_with_many_tasks_the_table_stays_narrow():
    tasks = {f"task-{i}": 5 for i in range(50)}
    text = describe(evaluated(tasks, {("task-0", "task-1"): 1, ("task-0", "task-2"): 2}))
    assert max(map(len, text.splitlines())) <= 120
    assert ["task-0", "5/10", "3/6"] in [line.split() for line in text.splitlines()]
