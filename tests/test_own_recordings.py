"""A person's own recordings, from the command to the report: trained on, judged offline, fine-tuned, resumed."""

import json
import shutil

import pytest
from tiny import SETTINGS, write_dataset

from policies import find_checkpoint
from policies.model_card import CARD
from policies.offline_evaluation import held_out_episodes

# Without any setting of validation or evaluation: an own recording chooses held-out episodes.
SMALL = [
    *("policy=tinyvla", *SETTINGS["tinyvla"], "backbone.image_size=32", "backbone.hidden_size=32"),
    *("trainer.batch_size=4", "trainer.bf16=false", "trainer.num_threads=1", "trainer.validate_every=2", "logger=none"),
]


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("own") / "recording", video=True)


@pytest.fixture
def trained(recording, tmp_path, command):
    run_dir = tmp_path / "run"
    code, out, err = command("train", *SMALL, f"dataset.root={recording}", f"run_dir={run_dir}", "trainer.steps=4")
    assert code == 0, err
    return run_dir, out


def test_a_recording_trains_is_judged_by_what_was_held_out_and_reported(trained, recording, tmp_path, command):
    run_dir, out = trained
    held_out = held_out_episodes(4)
    assert f"held out and never trained on, to judge the policy: episode {held_out[0]}" in out
    result = json.loads((run_dir / "eval.json").read_text())
    assert (result["kind"], result["episodes"], result["trained_on"]) == ("offline", held_out, False)
    assert result["trained_error"] > 0
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    errors = {record["step"]: value for record in records if (value := record.get("validation/action_error"))}
    assert errors.keys() == {2, 4}
    best = find_checkpoint(run_dir)
    assert int(best.resolve().parent.name) == min(reversed(errors), key=lambda step: errors[step])
    page = (run_dir / "report.html").read_text()
    for text in (
        "What to expect on the arm",
        "does not predict success",
        "nearest training state",
        "Validation action",
    ):
        assert text in page
    assert page.count("data-trajectory=") == 1
    card = (best / CARD).read_text()
    assert f"| held out | episode {held_out[0]}: never trained on" in card
    assert "| recording | 1 (held out) |" in card
    # The same figures from the checkpoint alone, and no second row in its card.
    again = tmp_path / "again"
    code, out, err = command("evaluate", f"checkpoint={run_dir}", f"dataset.root={recording}", f"run_dir={again}")
    assert code == 0, err
    assert json.loads((again / "eval.json").read_text())["errors"] == result["errors"]
    assert out.splitlines()[-1] == str(again / "report.html")
    assert (best / CARD).read_text().count("(held out) |") == 1


@pytest.mark.slow
def test_a_policy_is_fine_tuned_on_a_recording_and_resumed_without_its_source(trained, recording, tmp_path, command):
    source, tuned = shutil.move(trained[0], tmp_path / "source"), tmp_path / "tuned"
    settings = [*SMALL, f"dataset.root={recording}", f"run_dir={tuned}", f"init_from={source}", "eval.episodes=0"]
    code, out, err = command("train", *settings, "dataset.cameras=[right]", f"data_dir={tmp_path}", "trainer.steps=2")
    assert code == 0, err
    assert f"initial weights from {source}" in out
    assert "  taken " in out
    shutil.rmtree(source)
    code, out, err = command("train", f"run_dir={tuned}", "resume=true")
    assert code == 0, err
    assert "initial weights" not in out


def test_the_only_episode_is_trained_on_and_the_report_says_so(recording, tmp_path, command):
    run_dir = tmp_path / "run"
    one = [f"dataset.root={recording}", "dataset.episodes=[0]", f"data_dir={tmp_path}", f"run_dir={run_dir}"]
    code, out, err = command("train", *SMALL, *one, "trainer.steps=2")
    assert code == 0, err
    assert "no episode is held out" in out
    result = json.loads((run_dir / "eval.json").read_text())
    assert (result["episodes"], result["trained_on"], result["trained_error"]) == ([0], True, None)
    assert "trained on, since none is held out" in (run_dir / "report.html").read_text()
    assert "| held out | nothing: all episodes were trained on |" in (find_checkpoint(run_dir) / CARD).read_text()


def test_settings_of_a_simulator_are_refused_beside_recordings(recording, tmp_path, command):
    arguments = [f"checkpoint={tmp_path}", f"dataset.root={recording}", f"run_dir={tmp_path / 'evaluation'}"]
    code, _, err = command("evaluate", *arguments, "shift=lighting")
    assert code == 2
    assert "shift is for episodes in a simulator; leave it out" in err
    assert not (tmp_path / "evaluation").exists()
