"""Closed-loop evaluation: which episodes, what their figures amount to, and that workers change nothing."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from omegaconf import OmegaConf
from tiny import write_metaworld_policy

from configs.composing import as_dict, load_config
from envs import decode_env, evaluation
from envs.evaluation import (
    EvaluationOptions,
    Job,
    Setting,
    decode_env_of_policy,
    evaluate,
    evaluation_jobs,
    keep_videos,
    run_jobs,
    summarise,
    video_name,
)
from envs.registry import instruction_of
from envs.rollout import Rollout
from envs.trained_env import trained_env
from envs.workers import Folder
from tinyvla.errors import UserError


def rollout(success, seed=0, steps=10, ms=(1.0, 3.0)):
    return Rollout(seed, success, steps, np.array(ms))


def test_every_task_has_its_episodes_and_is_told_the_others_in_turn():
    jobs = evaluation_jobs(["a", "b", "c"], 2, wrong_instructions=3)
    assert jobs[:6] == [Job(task, task, episode) for task in "abc" for episode in (0, 1)]
    assert jobs[6:] == [
        *(Job("a", "b", 0), Job("a", "c", 0), Job("a", "b", 1)),
        *(Job("b", "a", 0), Job("b", "c", 0), Job("b", "a", 1)),
        *(Job("c", "a", 0), Job("c", "b", 0), Job("c", "a", 1)),
    ]
    assert len(set(jobs)) == len(jobs)
    assert evaluation_jobs(["a"], 1, wrong_instructions=3) == [Job("a", "a", 0)]  # there is no other instruction
    with pytest.raises(UserError, match="0 episodes"):
        evaluation_jobs(["a"], 0)


def test_figures_by_hand():
    """Wilson's interval for 8 of 10 at z = 1.96: (0.8 + z²/20 ± z √(0.016 + z²/400)) / (1 + z²/10)."""
    z = 1.959964
    centre, half, scale = 0.8 + z**2 / 20, z * np.sqrt(0.016 + z**2 / 400), 1 + z**2 / 10
    results = {Job("a", "a", i): rollout(i < 8, seed=100 + i, steps=20 + i) for i in range(10)}
    summary = summarise(results)
    assert summary["success_rate"] == 0.8
    assert (summary["successes"], summary["episodes"]) == (8, 10)
    assert summary["ci95"] == pytest.approx([(centre - half) / scale, (centre + half) / scale], abs=1e-4)
    assert summary["ci95"] == pytest.approx([0.4902, 0.9433], abs=1e-4)
    assert summary["episode_length"] == 24.5
    assert summary["ms_per_action"] == 2.0
    assert summary["tasks"]["a"]["seeds"] == list(range(100, 110))


@pytest.mark.parametrize(("successes", "interval"), [(0, [0.0, 0.1611]), (20, [0.8389, 1.0]), (19, [0.7639, 0.9911])])
def test_intervals_at_the_ends(successes, interval):
    summary = summarise({Job("a", "a", i): rollout(i < successes) for i in range(20)})
    assert summary["ci95"] == pytest.approx(interval, abs=1e-4)


def test_latency_weighs_every_action_alike():
    results = {Job("a", "a", 0): rollout(True, ms=[1.0]), Job("a", "a", 1): rollout(True, ms=[2.0] * 98 + [100.0])}
    summary = summarise(results)
    assert summary["ms_per_action"] == pytest.approx((1 + 196 + 100) / 100)
    assert summary["ms_per_action_p95"] == 2.0


def test_wrong_instructions_are_counted_apart():
    results = {Job("a", "a", 0): rollout(True), Job("b", "b", 0): rollout(False, ms=[9.0])}
    alone = summarise(results)
    results |= {Job("a", "b", i): rollout(i == 0, ms=[500.0]) for i in range(3)}
    summary = summarise(results)
    assert summary.pop("wrong_instructions") == {"a": {"b": {"successes": 1, "episodes": 3}}}
    assert summary == alone
    assert list(summary["tasks"]) == ["a", "b"]


def test_a_summary_is_plain_json():
    results = {Job("a", "a", i): rollout(i < 3, seed=i) for i in range(4)}
    results |= {Job("a", "b", 0): rollout(True)}

    def types(value):
        if isinstance(value, dict):
            return set().union(*map(types, value.values()))
        return set().union(*map(types, value)) if isinstance(value, list) else {type(value)}

    summary = summarise(results)
    assert types(summary) <= {int, float, str}
    assert json.loads(json.dumps(summary)) == summary


def test_the_first_successes_and_failures_are_kept(tmp_path):
    results = {Job("a", "a", i): rollout(i % 2 == 1) for i in range(6)}
    results |= {Job("b", "b", i): rollout(True) for i in range(3)}
    results |= {Job("b", "a", 0): rollout(False)}
    for job in results:
        (tmp_path / video_name(job)).write_text(video_name(job))
    (tmp_path / "a-099.mp4").touch()  # of an earlier evaluation
    videos = keep_videos(tmp_path, results, 2)
    names = {
        *("a-001-success.mp4", "a-003-success.mp4", "a-000-failure.mp4", "a-002-failure.mp4"),
        *("b-000-success.mp4", "b-001-success.mp4", "b-told-a-000-failure.mp4"),
    }
    assert {path.name for path in videos} == {path.name for path in tmp_path.iterdir()} == names
    assert (tmp_path / "b-told-a-000-failure.mp4").read_text() == "b-told-a-000.mp4"


ENV = load_config("evaluate", ["checkpoint=x", "env.image_size=32", "env.max_steps=12", "env.cameras=[corner2]"]).env
ENV = decode_env(as_dict(ENV) | {"tasks": ["reach-v3", "drawer-close-v3"]})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_metaworld_policy(tmp_path_factory.mktemp("run") / "checkpoints" / "last" / "pretrained_model")


def play(checkpoint, jobs, folder, workers=1):
    """Results and videos of episodes, without times."""
    with evaluation.worker_pool(workers) as pool:
        setting = Setting(checkpoint, ENV, "validation", 0, "cpu", {})
        results = run_jobs(pool, Folder(checkpoint), setting, jobs, folder)
    assert list(results) == jobs
    return {job: (rollout[:3], (folder / video_name(job)).read_bytes()) for job, rollout in results.items()}


def test_an_evaluation_and_what_it_writes(checkpoint, tmp_path, in_process):
    run_dir = tmp_path / "a" / "run"
    result = evaluate(checkpoint.parents[2], ENV, EvaluationOptions(2, seed=3, wrong_instructions=1, videos=1), run_dir)
    assert json.loads((run_dir / "eval.json").read_text()) == result
    assert {"success_rate", "episodes", "ci95", "ms_per_action", "tasks", "wrong_instructions"} <= set(result)
    assert result["episodes"] == 4
    assert {task: figures["episodes"] for task, figures in result["tasks"].items()} == dict.fromkeys(ENV.tasks, 2)
    seeds = result["tasks"]["reach-v3"]["seeds"]
    assert seeds == result["tasks"]["drawer-close-v3"]["seeds"]
    assert seeds == [evaluation.episode_seed("evaluation", 3, i) for i in (0, 1)]
    assert (result["split"], result["seed"]) == ("evaluation", 3)
    assert 2 <= len(list((run_dir / "videos").iterdir())) <= 4
    assert sorted(path.name for path in run_dir.iterdir()) == ["episodes.jsonl", "eval.json", "videos"]


def test_validation_plays_the_episodes_of_its_own_split(checkpoint, in_process, monkeypatch):
    """Not those of the evaluation, which would then judge a policy by what has selected it."""
    seeds, play_episode = [], evaluation.roll_out

    def note_seed(env, runner, seed, *arguments):
        seeds.append(seed)
        return play_episode(env, runner, seed, *arguments)

    monkeypatch.setattr(evaluation, "roll_out", note_seed)
    options = EvaluationOptions(5, seed=3, wrong_instructions=1)  # of the evaluation after training
    scores = evaluation.validator(ENV, options, 2)(checkpoint)
    assert seeds == [evaluation.episode_seed("validation", 3, episode) for episode in (0, 1)] * len(ENV.tasks)
    assert scores.keys() == {"success_rate", *(f"success_rate/{task}" for task in ENV.tasks)}
    assert evaluation.validator(ENV, options, 0) is None


@pytest.mark.slow
def test_no_episode_depends_on_those_before_it(checkpoint, tmp_path, in_process):
    jobs = evaluation_jobs(ENV.tasks, 1, wrong_instructions=1)
    first = play(checkpoint, jobs, tmp_path / "first")
    assert first == play(checkpoint, jobs[::-1], tmp_path / "second")
    assert len({video for _, video in first.values()}) == len(jobs)


def test_a_policy_is_run_as_the_settings_say(checkpoint, in_process):
    runner = as_dict(
        load_config("evaluate", ["checkpoint=x", "runner.asynchronous=true", "runner.latency_steps=2"]).runner
    )
    result = evaluate(checkpoint, ENV, EvaluationOptions(1, runner=runner))
    assert result["episodes"] == 2
    with pytest.raises(UserError, match="latency_steps=-1 does not fit"):
        evaluate(checkpoint, ENV, EvaluationOptions(1, runner=runner | {"latency_steps": -1}))
    defaults = as_dict(load_config("evaluate", ["checkpoint=x"]).runner)
    assert evaluate(checkpoint, ENV, EvaluationOptions(1, runner=defaults))["episodes"] == 2


def test_a_policy_may_be_told_one_sentence_in_every_episode(checkpoint, in_process, monkeypatch):
    sentences = []
    play_episode = evaluation.roll_out

    def listen(env, runner, seed, instruction, video):
        sentences.append(instruction)
        return play_episode(env, runner, seed, instruction, video)

    monkeypatch.setattr(evaluation, "roll_out", listen)
    result = evaluate(checkpoint, ENV, EvaluationOptions(1, instruction="do the task", wrong_instructions=1))
    assert sentences == ["do the task"] * 2 + [instruction_of(ENV, task) for task in ENV.tasks[::-1]]
    assert result["instruction"] == "do the task"


def test_cameras_and_image_size_are_the_policys_unless_named(checkpoint):
    section = as_dict(load_config("evaluate", ["checkpoint=x"]).env)
    env_cfg = decode_env_of_policy(section, checkpoint)
    assert (env_cfg.cameras, env_cfg.image_size) == (["corner2"], 32)
    assert decode_env_of_policy(section | {"cameras": ["topview"]}, checkpoint).cameras == ["topview"]


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(checkpoint, tmp_path):
    jobs = evaluation_jobs(ENV.tasks, 3, wrong_instructions=1)
    assert play(checkpoint, jobs, tmp_path / "one", workers=1) == play(checkpoint, jobs, tmp_path / "two", workers=2)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"cameras": ["corner", "topview"]}, "needs the cameras corner2 but there are corner, topview; add corner2"),
        ({"image_size": 48}, "set env.image_size=32"),
        ({"cameras": ["front"]}, "unknown camera 'front'"),
        ({"tasks": ["reach-v2"]}, "unknown Meta-World task or suite 'reach-v2'"),
        ({"name": "metawold"}, "unknown env.name 'metawold'"),
    ],
)
def test_an_environment_that_does_not_fit_is_one_line_and_leaves_nothing(
    change, what, checkpoint, tmp_path, monkeypatch
):
    monkeypatch.delattr(evaluation, "worker_pool")  # found before a worker starts
    with pytest.raises(UserError, match=what) as mistake:
        evaluate(checkpoint, replace(ENV, **change), EvaluationOptions(2, videos=1), tmp_path / "run")
    assert "\n" not in str(mistake.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"runner": {"scheduler": "nothing"}}, "'nothing' is not a scheduler of diffusers"),
        ({"runner": {"inference_steps": 1000}}, "between 1 and train_steps 100, got 1000"),
        ({"runner": {"asynchronous": True, "latency_steps": 8}}, "latency_steps=8 does not fit chunks of 8 actions"),
        ({"device": "cuda:99"}, "device=cuda:99 cannot be used here"),
    ],
)
def test_a_policy_that_cannot_be_run_so_is_one_line_before_a_worker_starts(options, what, checkpoint, monkeypatch):
    monkeypatch.delattr(evaluation, "worker_pool")
    with pytest.raises(UserError, match=what) as mistake:
        evaluate(checkpoint, ENV, EvaluationOptions(1, **options))
    assert "\n" not in str(mistake.value)


def test_a_checkpoint_without_weights_is_found_before_a_worker_starts(checkpoint, tmp_path, monkeypatch):
    monkeypatch.delattr(evaluation, "worker_pool")
    shutil.copytree(checkpoint, tmp_path / "cut")
    (tmp_path / "cut/model.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"cannot be loaded: .*model\.safetensors is not"):
        evaluate(tmp_path / "cut", ENV, EvaluationOptions(1))


def run_of(checkpoint, tmp_path, **env):
    """A run folder with the checkpoint, whose demonstrations were collected in an environment like ENV."""
    run = tmp_path / "run"
    shutil.copytree(checkpoint, run / "checkpoints/last/pretrained_model")
    section = {"name": "metaworld", "cameras": ["corner2"], "image_size": 32, "max_steps": 12, "tasks": ENV.tasks}
    OmegaConf.save({"env": section | env, "dataset": {"root": None, "repo_id": None}}, run / "config.yaml")
    return run


def test_other_scenes_than_those_of_training_are_a_line(checkpoint, tmp_path, in_process, capsys):
    faucets = ["faucet-open-v3", "faucet-close-v3"]
    run = run_of(checkpoint, tmp_path, tasks=faucets, goal_markers=False, shared_start=True)
    shown = replace(ENV, tasks=faucets)
    assert evaluate(run, shown, EvaluationOptions(1))["environment"] == "metaworld"
    line = "the policy was trained in other scenes; add env.goal_markers=false env.shared_start=true for those"
    assert line in capsys.readouterr().err
    result = evaluate(run, replace(shown, goal_markers=False, shared_start=True), EvaluationOptions(1))
    assert result["environment"] == "metaworld goal_markers=false shared_start=true"
    assert "trained in other scenes" not in capsys.readouterr().err


def test_an_environment_by_its_name_has_the_tasks_and_scenes_of_the_run(checkpoint, tmp_path, in_process, capsys):
    run = run_of(checkpoint, tmp_path, tasks=["faucet-open-v3", "faucet-close-v3"], shared_start=True)
    result = evaluate(run, "metaworld", EvaluationOptions(1))
    assert (result["environment"], list(result["tasks"])) == (
        "metaworld shared_start=true", ["faucet-open-v3", "faucet-close-v3"],
    )  # fmt: skip
    assert "other scenes" not in capsys.readouterr().err


def test_scenes_of_training_are_those_of_a_dataset_that_was_collected_elsewhere(checkpoint, tmp_path):
    run = run_of(checkpoint, tmp_path)
    data = tmp_path / "data/meta"
    data.mkdir(parents=True)
    spec = {"name": "metaworld", "cameras": ["corner2"], "seed": 0, "version": 2, "goal_markers": False}
    (data / "collection.json").write_text(json.dumps({"spec": spec, "tasks": {"reach-v3": {}}}))
    settings = OmegaConf.load(run / "config.yaml")
    settings.dataset.root = str(data.parent)
    OmegaConf.save(settings, run / "config.yaml")
    trained = trained_env(run, "metaworld")
    assert (trained.goal_markers, trained.tasks) == (False, ["reach-v3"])
    assert trained_env(run, "so101") is None
    (data / "collection.json").write_text("[]")
    assert trained_env(run, "metaworld") is None
