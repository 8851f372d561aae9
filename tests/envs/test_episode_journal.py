"""An evaluation that is stopped or killed goes on with its finished episodes; its result is written or shown."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from test_evaluation import ENV
from tiny import write_metaworld_policy

from envs import evaluation
from envs.episode_journal import JOURNAL, EpisodeJournal
from envs.eval_results import Job
from envs.evaluation import EvaluationOptions, evaluate
from envs.rollout import Rollout
from tinyvla.errors import UserError

OPTIONS = EvaluationOptions(2, seed=3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_metaworld_policy(tmp_path_factory.mktemp("run") / "pretrained_model")


class Player:
    """Plays episodes in place of a simulator."""

    def __init__(self):
        self.jobs = []

    def play(self, setting, policy, job, film):
        self.jobs.append(job)
        return Rollout(job.episode, job.episode == 0, 10, np.array([0.12341, 2.0])), None


@pytest.fixture
def player(monkeypatch, in_process):
    player = Player()
    monkeypatch.setattr(evaluation, "_run_job", player.play)
    return player


def test_a_stopped_evaluation_goes_on_with_its_finished_episodes(checkpoint, tmp_path, player, monkeypatch):
    whole = evaluate(checkpoint, ENV, OPTIONS, tmp_path / "whole")
    add = EpisodeJournal.add

    def stop_after_three(journal, job, rollout):
        add(journal, job, rollout)
        if len(journal.results) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(EpisodeJournal, "add", stop_after_three)
        with pytest.raises(KeyboardInterrupt):
            evaluate(checkpoint, ENV, OPTIONS, tmp_path / "run")
    assert not (tmp_path / "run/eval.json").exists()
    with (tmp_path / "run" / JOURNAL).open("a") as file:
        file.write('{"job": ["reach-v3", "rea')  # killed while writing
    (checkpoint / ".tmp-999999999-ab").touch()  # and while writing the card
    player.jobs.clear()
    assert evaluate(checkpoint, ENV, OPTIONS, tmp_path / "run") == whole
    assert len(player.jobs) == 1


def test_episodes_of_another_evaluation_are_not_mixed_in(checkpoint, tmp_path, player):
    evaluate(checkpoint, ENV, OPTIONS, tmp_path / "run")
    before = (tmp_path / "run" / JOURNAL).read_bytes()
    other = shutil.copytree(checkpoint, tmp_path / "other")
    (other / "README.md").write_text("figures of evaluations do not make another policy")
    assert evaluate(other, ENV, OPTIONS, tmp_path / "run")["episodes"] == 4
    (other / "config.json").write_text((other / "config.json").read_text() + " ")
    player.jobs.clear()
    for policy, env, options in (
        (other, ENV, OPTIONS),
        (checkpoint, replace(ENV, max_steps=13), OPTIONS),
        (checkpoint, ENV, replace(OPTIONS, seed=4)),
    ):
        with pytest.raises(
            UserError, match="episodes of another checkpoint, environment or setting; choose"
        ) as mistake:
            evaluate(policy, env, options, tmp_path / "run")
        assert "\n" not in str(mistake.value)
    assert player.jobs == []
    assert (tmp_path / "run" / JOURNAL).read_bytes() == before


HUGE = '{"job": ["a", "a", 0], "seed": 0, "success": true, "steps": 1, "action_ms": [1' + "0" * 400 + "]}"


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        "\xff",
        '{"evaluation": "a"}\n{"job": 1}',
        '{"evaluation": "a"}\n[' * 2,
        f'{{"evaluation": "a"}}\n{HUGE}',
    ],
)
def test_a_damaged_journal_is_one_line(content, tmp_path):
    (tmp_path / JOURNAL).write_text(content + "\n")
    with pytest.raises(UserError, match=r"is damaged .*delete it to play all episodes again") as mistake:
        EpisodeJournal(tmp_path, "a")
    assert "\n" not in str(mistake.value)


def test_a_journal_larger_than_any_evaluation_is_not_read(tmp_path):
    with (tmp_path / JOURNAL).open("wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(UserError, match=r"episodes.jsonl has 3221 MB, more than 268"):
        EpisodeJournal(tmp_path, "a")


def test_a_journal_cut_in_its_first_line_begins_anew(tmp_path):
    (tmp_path / JOURNAL).write_text('{"evalu')
    journal = EpisodeJournal(tmp_path, "a")
    assert journal.results == {}
    journal.add(Job("a", "b", 1), Rollout(5, True, 2, np.array([1.5, 2.0])))
    ((job, rollout),) = EpisodeJournal(tmp_path, "a").results.items()
    assert (job, rollout[:3], rollout.action_ms.tolist()) == (Job("a", "b", 1), (5, True, 2), [1.5, 2.0])


@pytest.mark.parametrize("obstacle", ["file", "parent"])
def test_a_folder_that_cannot_be_written_is_found_before_anything_is_played(obstacle, checkpoint, tmp_path, player):
    (tmp_path / "file").touch()
    run_dir = tmp_path / ("file" if obstacle == "file" else "file/run")
    with pytest.raises(UserError, match=r"cannot be written .*is a file.*; choose another folder"):
        evaluate(checkpoint, ENV, OPTIONS, run_dir)
    assert player.jobs == []


def test_a_result_that_cannot_be_written_at_the_end_is_shown(checkpoint, tmp_path, player, capsys):
    (tmp_path / "run/eval.json").mkdir(parents=True)  # in the way
    with pytest.raises(UserError, match=r"this result could not be written to .*run .*finished episodes are kept"):
        evaluate(checkpoint, ENV, OPTIONS, tmp_path / "run")
    assert "reach-v3" in capsys.readouterr().out
    (tmp_path / "run/eval.json").rmdir()
    player.jobs.clear()
    result = evaluate(checkpoint, ENV, OPTIONS, tmp_path / "run")
    assert player.jobs == []
    assert json.loads((tmp_path / "run/eval.json").read_text()) == result
