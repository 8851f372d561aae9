"""train.py and evaluate.py from the command line to the last file: results and error messages."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from tiny import SETTINGS

from tinyvla.files import alone_in
from tinyvla.training import Stopped, make_accelerator, read_metrics

ROOT = Path(__file__).parents[1]
TASK = "drawer-close-v3"
ENV = [f"env.tasks=[{TASK}]", "env.image_size=32", "env.cameras=[corner2]", "env.max_steps=120"]
SMALL = [
    *("preset=cpu", "episodes=2", "workers=1", "trainer.steps=6", "trainer.batch_size=4", "trainer.log_every=1"),
    *("trainer.save_every=2", "trainer.num_threads=1", "trainer.bf16=false", "eval.episodes=1", "eval.videos=1"),
    *("eval.wrong_instructions=0", "eval.workers=1", "logger=none"),
]
VALIDATED = ["trainer.validate_every=3", "trainer.validate_episodes=1"]
POLICY = {name: [f"policy={name}", *settings] for name, settings in SETTINGS.items()}
POLICY["tinyvla"] += ["backbone.image_size=32"]


@pytest.fixture(autouse=True)
def _in_a_fresh_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("demonstrations")


def check_run(run_dir, episodes=1):
    """The folder of a finished run holds the files that the README lists."""
    result = json.loads((run_dir / "eval.json").read_text())
    assert {"success_rate", "episodes", "ci95", "ms_per_action"} <= set(result)
    assert list(result["tasks"]) == [TASK]
    assert {"success_rate", "episodes", "ci95", "ms_per_action"} <= set(result["tasks"][TASK])
    assert result["episodes"] == episodes
    page = (run_dir / "report.html").read_text()
    assert "data:video/mp4" in page
    assert re.findall(r"<(?:script|link|img|video|source|iframe|use|image)\b[^>]*(?:src|href)=.?https?:", page) == []
    assert re.findall(r"url\(.?https?:|@import", page) == []
    assert OmegaConf.load(run_dir / "config.yaml").command.startswith("python ")
    assert len(list((run_dir / "videos").glob("*.mp4"))) == 1


def test_a_stopped_run_prints_the_command_that_continues_it(command, monkeypatch):
    def stop(cfg):
        raise Stopped

    monkeypatch.setattr("tinyvla_scripts.policy_task.train_policy", stop)
    code, out, err = command("train", "run_dir=outputs/run", "preset=cpu")
    assert code == 130, err
    assert "saved; go on with: python train.py run_dir=outputs/run resume=true" in out


@pytest.mark.parametrize(
    "policy", [pytest.param(name, marks=() if name == "tinyvla" else pytest.mark.slow) for name in POLICY]
)
def test_one_command_from_nothing_to_a_report(policy, data_dir, tmp_path, command, in_process):
    run_dir = tmp_path / "run"
    arguments = [*POLICY[policy], *ENV, *SMALL, *VALIDATED, f"data_dir={data_dir}", f"run_dir={run_dir}"]
    code, out, err = command("train", *arguments)
    assert code == 0, err
    assert str(run_dir / "report.html") in out
    check_run(run_dir)
    assert sorted(path.name for path in run_dir.iterdir()) == sorted(
        [
            *("checkpoints", "config.yaml", "dataset.json", "episodes.jsonl", "eval.json", "metrics.jsonl"),
            *("report.html", "videos"),
        ]
    )
    records = read_metrics(run_dir / "metrics.jsonl")
    assert [record["step"] for record in records if "train/loss" in record] == [1, 2, 3, 4, 5, 6]
    scores = [record for record in records if "validation/success_rate" in record]
    assert [record["step"] for record in scores] == [3, 6]
    assert f"validation/success_rate/{TASK}" in scores[0]
    for name in ("best", "last"):
        assert (run_dir / "checkpoints" / name / "pretrained_model" / "model.safetensors").is_file()
    (dataset,) = [folder for folder in data_dir.iterdir() if (folder / "meta/info.json").exists()]
    assert json.loads((dataset / "meta/info.json").read_text())["total_episodes"] == 2


@pytest.fixture(scope="module")
def finished_run(data_dir, tmp_path_factory):
    """Folder of a very small run, which tests copy."""
    run_dir = tmp_path_factory.mktemp("runs") / "trained"
    arguments = [*POLICY["tinyvla"], *ENV, *SMALL, f"data_dir={data_dir}", f"run_dir={run_dir}"]
    settings = ["trainer.steps=1", "trainer.validate_every=0"]
    subprocess.run([sys.executable, ROOT / "train.py", *arguments, *settings], check=True, capture_output=True)
    return run_dir


@pytest.fixture
def trained(finished_run, tmp_path):
    """A run of the test's own."""
    run_dir = shutil.copytree(finished_run, tmp_path / "trained", symlinks=True)
    config = run_dir / "config.yaml"
    config.write_text(config.read_text().replace(str(finished_run), str(run_dir)))
    return run_dir


def test_evaluating_a_run(trained, tmp_path, command):
    code, out, err = command("evaluate", f"checkpoint={trained}", *ENV, "episodes=2", "videos=1", "workers=1")
    assert code == 0, err
    (run_dir,) = (tmp_path / "outputs/evaluate-metaworld").iterdir()
    check_run(run_dir, episodes=2)
    assert TASK in out
    checkpoint = json.loads((run_dir / "eval.json").read_text())["checkpoint"]
    assert checkpoint == str(trained / "checkpoints/last/pretrained_model")
    before = (trained / "config.yaml").read_bytes()
    code, _, err = command("evaluate", f"checkpoint={trained}", *ENV, f"run_dir={trained}")
    assert (code, err) == (2, f"error: {trained} already holds a run; choose another run_dir\n")
    assert (trained / "config.yaml").read_bytes() == before


def test_a_live_run_is_left_alone(trained, tmp_path, command):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    evaluate = ["evaluate", f"checkpoint={trained}", *ENV, "episodes=1", "workers=1", f"run_dir={tmp_path / 'run'}"]
    for folder, arguments in ((trained, ["train", f"run_dir={trained}", "resume=true"]), (tmp_path / "run", evaluate)):
        with alone_in(folder, wait=False):
            code, out, err = command(*arguments)
        assert (code, out) == (2, "")
        line = f"error: another process is at work in {folder}; wait until it has ended, or choose another folder\n"
        assert err.endswith(line)
    assert not (tmp_path / "run").exists()
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


def test_an_evaluation_that_was_killed_before_its_report_is_finished(trained, tmp_path, command, monkeypatch):
    run_dir = tmp_path / "run"
    arguments = ["evaluate", f"checkpoint={trained}", *ENV, "episodes=1", "workers=1", "videos=0", f"run_dir={run_dir}"]
    assert command(*arguments)[0] == 0
    result = (run_dir / "eval.json").read_bytes()
    (run_dir / "report.html").unlink()
    code, _, err = command(*arguments, "seed=1")
    assert (code, err) == (2, f"error: {run_dir} already holds a run; choose another run_dir\n")
    monkeypatch.setattr("envs.evaluation._run_job", lambda *_: pytest.fail("plays again"))
    code, _, err = command(*arguments)
    assert code == 0, err
    assert "1 of 1 episodes are played already" in err
    assert (run_dir / "report.html").exists()
    times = {"ms_per_action", "ms_per_action_p95"}
    again = json.loads((run_dir / "eval.json").read_text())
    assert {key: again[key] for key in again.keys() - times - {"tasks"}} == {
        key: value for key, value in json.loads(result).items() if key not in times | {"tasks"}
    }


def test_evaluating_under_a_shift(trained, tmp_path, command):
    settings = [
        "episodes=1",
        "videos=0",
        "workers=1",
        "shift=lighting",
        "severity=2",
        f"run_dir={tmp_path / 'shifted'}",
    ]
    code, out, err = command("evaluate", f"checkpoint={trained}", *ENV, *settings)
    assert code == 0, err
    assert "shift: lighting at severity 2" in out
    result = json.loads((tmp_path / "shifted/eval.json").read_text())
    assert result["shift"] == {"names": ["lighting"], "severity": 2}
    assert "lighting at severity 2" in (tmp_path / "shifted/report.html").read_text()
    assert OmegaConf.load(tmp_path / "shifted/config.yaml").severity == 2


def test_resuming_goes_on_with_the_runs_own_settings(trained, command, monkeypatch):
    """With its precision and device, too; those of the command would be bf16=auto."""
    calls = []

    def note(device, bf16):
        calls.append((device, bf16))
        return make_accelerator(device, bf16)

    monkeypatch.setattr("tinyvla.training.make_accelerator", note)
    before = (trained / "config.yaml").read_bytes(), (trained / "metrics.jsonl").read_bytes()
    (trained / "eval.json").unlink()
    code, _, err = command("train", f"run_dir={trained}", "resume=true")
    assert code == 0, err
    assert calls == [("auto", False)]
    assert before == ((trained / "config.yaml").read_bytes(), (trained / "metrics.jsonl").read_bytes())
    check_run(trained)


def truncate(file):
    file.write_bytes(file.read_bytes()[:1000])


def test_evaluating_what_does_not_fit_or_is_damaged(trained, tmp_path, command):
    weights = trained / "checkpoints/last/pretrained_model/model.safetensors"
    for change, what in [
        (["env.cameras=[topview]"], "the policy needs the cameras corner2 but there are topview; add corner2"),
        (["env.image_size=48"], "set env.image_size=32"),
        (["env.tasks=[drawer-clos-v3]"], "unknown Meta-World task or suite 'drawer-clos-v3'"),
        (["episodes=0"], "episodes=0 does not fit"),
        (["shift=lightning"], "unknown axis 'lightning' in shift; did you mean lighting"),
        (["shift=[lighting,position]", "severity=5"], "severity is 5; use 1, 2 or 3"),
        (["checkpoint=nowhere"], "no policy checkpoint at nowhere"),
        (["checkpoint=cut"], "cannot be loaded"),
    ]:
        if change == ["checkpoint=cut"]:
            shutil.copytree(trained, tmp_path / "cut", symlinks=True)
            truncate(tmp_path / "cut" / weights.relative_to(trained))
        code, out, err = command("evaluate", f"checkpoint={trained}", *ENV, "workers=1", *change)
        assert (code, out) == (2, ""), change
        assert "Traceback" not in err
        assert [line for line in err.splitlines() if line.startswith("error: ")] == err.splitlines()[-1:]
        assert what in err.splitlines()[-1]
        assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["env.tasks=[reach-v9]"], "did you mean reach-v3"),
        (["env.tasks=[]"], "env.tasks is empty"),
        (["randomise=[lightning]"], "unknown axis 'lightning' in randomise; did you mean lighting"),
        (["policy=tinyvlla"], "did you mean tinyvla"),
        (["trainer.stepz=3"], "did you mean trainer.steps"),
        (["backbone=smolvlm"], "could not be downloaded from the model hub .*backbone=nano, which needs no download"),
        (["backbone=llava_pythia", "backbone.pretrained=no/where"], "'no/where' is not a folder here and could not be"),
        (["backbone=llava_pythia", "backbone.size=xl"], "unknown backbone.size 'xl'; use one of s, b, h"),
        (["backbone.image_size=33"], "image_size is 33; give a multiple of 4"),
        (["policy=smolvla", "preset=gpu"], "could not be downloaded from the model hub .*or use preset=cpu"),
        (
            ["policy=vqbet", "trainer.steps=100", "policy.n_vqvae_training_steps=100"],
            "raise trainer.steps or lower policy.n_vqvae_training_steps",
        ),
        (["policy.chunk_size=15"], "chunk_size 15 must divide by 2"),
        (["policy.n_action_steps=17"], "n_action_steps must lie between 1 and chunk_size 16"),
        (["decoder.scheduler=DDIM"], "'DDIM' is not a scheduler of diffusers; did you mean DDIMScheduler"),
        (["device=cuda:99"], r"device=cuda:99 cannot be used here .*use device=auto"),
        (["eval.episodes=-1"], "-1 episodes"),
        (["trainer.streaming=true"], "needs a dataset; add dataset.repo_id"),
        (["trainer.streaming=true", "dataset.root=no/where"], "no readable LeRobotDataset no/where"),
        (["dataset.repo_id=no/such"], "no readable LeRobotDataset no/such .*give the id of one on the hub"),
        (["resume=true", "run_dir=nowhere"], "there is no run in nowhere to resume"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(arguments, what, tmp_path, command):
    code, out, err = command("train", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert re.search(what, err)
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_never_overwritten(tmp_path, command):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("seed: 5")
    code, _, err = command("train", f"run_dir={tmp_path / 'run'}")
    assert (code, err.count("\n")) == (2, 1)
    assert "already holds a run; add resume=true" in err
    assert (tmp_path / "run/config.yaml").read_text() == "seed: 5"


def test_a_truncated_dataset_is_one_line(data_dir, trained, tmp_path, command):
    copy = tmp_path / "data"
    shutil.copytree(data_dir, copy)
    (dataset,) = [folder for folder in copy.iterdir() if (folder / "meta/info.json").exists()]
    truncate(next(dataset.glob("data/*/*.parquet")))
    shutil.rmtree(copy / "frames")
    code, _, err = command("train", *POLICY["tinyvla"], *ENV, *SMALL, f"data_dir={copy}", f"run_dir={tmp_path / 'run'}")
    assert (code, err.count("\n"), "Traceback" in err) == (2, 1, False)
    assert f"error: the dataset {dataset} is damaged" in err
    assert "delete that folder and run the same command again" in err


def start(*arguments):
    """Start a program in its own process group."""
    command = [sys.executable, *arguments]
    environment = os.environ | {"WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes)


def finish(process):
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err[-3000:]
    return out, err


LONG = [*POLICY["tinyvla"], *ENV, *SMALL, "trainer.steps=400", "trainer.save_every=50", "trainer.validate_every=0"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data_dir):
    run_dir = tmp_path_factory.mktemp("runs") / "undisturbed"
    out, _ = finish(start("train.py", *LONG, "logger=wandb", f"data_dir={data_dir}", f"run_dir={run_dir}"))
    return run_dir, out


@pytest.mark.slow
def test_the_commands_as_a_user_types_them(undisturbed, tmp_path):
    run_dir, out = undisturbed
    check_run(run_dir)
    assert out.splitlines()[-1] == str(run_dir / "report.html")
    assert list(run_dir.glob("wandb/offline-run-*"))
    options = [f"checkpoint={run_dir}", *ENV, "episodes=3", "workers=2", "videos=1", f"run_dir={tmp_path / 'again'}"]
    finish(start("evaluate.py", *options))
    check_run(tmp_path / "again", episodes=3)


def figures(run_dir):
    records = read_metrics(run_dir / "metrics.jsonl")
    return [[record["step"], *(record[f"train/{key}"] for key in ("loss", "lr", "grad_norm"))] for record in records]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_killed_as_a_process_resumes_to_the_same_figures(number, undisturbed, data_dir, tmp_path):
    run_dir = tmp_path / "killed"
    process = start("train.py", *LONG, f"data_dir={data_dir}", f"run_dir={run_dir}")
    while process.poll() is None:
        metrics = run_dir / "metrics.jsonl"
        if metrics.exists() and len(read_metrics(metrics)) > 70:
            break
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    assert process.returncode == (-9 if number == signal.SIGKILL else 130), err
    assert len(figures(run_dir)) < 400
    assert not (run_dir / "eval.json").exists()
    if number == signal.SIGINT:
        assert f"python train.py run_dir={run_dir} resume=true" in out
    finish(start("train.py", f"run_dir={run_dir}", "resume=true"))
    check_run(run_dir)
    expected = figures(undisturbed[0])
    assert [row[0] for row in figures(run_dir)] == [row[0] for row in expected] == list(range(1, 401))
    for ours, theirs in zip(figures(run_dir), expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-7)


@pytest.mark.slow
def test_several_processes_train_together(data_dir, tmp_path):
    run_dir = tmp_path / "run"
    # Not `accelerate launch`, which starts several processes on accelerators only.
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "train.py"]
    settings = [
        *POLICY["tinyvla"],
        *ENV,
        *SMALL,
        *VALIDATED,
        "device=cpu",
        f"data_dir={data_dir}",
        f"run_dir={run_dir}",
    ]
    finish(start(*launch, *settings))
    check_run(run_dir)
    records = read_metrics(run_dir / "metrics.jsonl")
    assert [record["step"] for record in records if "train/loss" in record] == [1, 2, 3, 4, 5, 6]
