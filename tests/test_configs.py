"""The configuration: composition, mistakes, and their messages."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from app_run import run_app
from omegaconf import OmegaConf

from configs import composing
from configs.composing import CONFIG_DIR, groups, load_config
from tinyvla.errors import UserError

ROOT = CONFIG_DIR.parent


@pytest.fixture(autouse=True)
def _in_a_fresh_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def refused(capsys):
    """Run a command line that must be refused; the single line on stderr."""

    def run(*arguments, config_name="train"):
        assert run_app(arguments, main=lambda cfg: pytest.fail("ran"), config_name=config_name) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        return lines[0]

    return run


@pytest.mark.parametrize(
    "error", [MemoryError("Unable to allocate 1 TiB"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 1 TB")]
)
def test_too_little_memory_is_one_line(error, capsys):
    def run_out(_):
        raise error

    assert run_app([], run_out) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: this machine has not enough memory")


@pytest.mark.parametrize("preset", ["cpu", "gpu"])
@pytest.mark.parametrize("policy", groups()["policy"])
def test_every_policy_composes_with_the_general_presets(policy, preset):
    cfg = load_config("train", [f"policy={policy}", f"preset={preset}"])
    assert cfg.policy.type == policy
    assert cfg.trainer.lr == cfg.policy.optimizer_lr
    assert cfg.run_dir.startswith(f"outputs/{policy}-metaworld/")
    assert ("backbone" in cfg) == (policy == "tinyvla")


def test_the_plain_command_is_the_spelled_out_one():
    first, second = load_config("train"), load_config("train", ["policy=tinyvla", "env=metaworld"])
    first.run_dir = second.run_dir = ""
    assert first == second


def test_a_preset_gives_way_to_what_is_spelled_out():
    cfg = load_config("train", ["preset=paper_s", "backbone=nano", "decoder=flow", "trainer.steps=7"])
    assert cfg.trainer.steps == 7
    assert cfg.backbone == load_config("train", ["backbone=nano"]).backbone
    assert cfg.policy.decoder.type == "flow"
    assert "train_steps" not in cfg.policy.decoder


def test_a_preset_has_values_for_the_chosen_policy():
    published, small = (load_config("train", ["policy=act", f"preset={preset}"]) for preset in ("gpu", "cpu"))
    assert (published.policy.chunk_size, published.policy.optimizer_lr) == (100, 1e-5)
    assert (small.policy.chunk_size, small.policy.pretrained_backbone_weights) == (16, None)
    assert small.trainer.lr == small.policy.optimizer_lr != 1e-5
    mine = load_config("train", ["policy=act", "preset=cpu", "policy.chunk_size=20", "trainer.steps=7"])
    assert (mine.policy.chunk_size, mine.trainer.steps, mine.policy.n_action_steps) == (20, 7, 8)


@pytest.mark.parametrize(("devices", "preset"), [([], "cpu"), (["x"], "gpu")])
def test_the_machines_own_preset_has_them_too(devices, preset, monkeypatch):
    monkeypatch.setattr(composing, "glob", lambda pattern: devices)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    default, chosen = (load_config("train", ["policy=act", *more]) for more in ([], [f"preset={preset}"]))
    default.run_dir = chosen.run_dir = ""
    assert default == chosen


def test_a_sweep_over_policies_gives_each_its_own_values():
    jobs = []
    assert run_app(["-m", "preset=cpu", "policy=tinyvla,act,diffusion", "trainer.steps=5"], jobs.append) == 0
    assert ["horizon" in cfg.policy for cfg in jobs] == [False, False, True]
    assert {cfg.policy.get("chunk_size", cfg.policy.get("horizon")) for cfg in jobs} == {16}


@pytest.mark.parametrize("file", sorted((CONFIG_DIR / "preset/policy").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_presets_values_for_a_policy_are_of_settings_that_there_are(file):
    preset, _, policy = file.stem.partition("_")
    assert preset in groups()["preset"]
    for section, values in OmegaConf.load(file).items():
        name = "trainer/default" if section == "trainer" else f"policy/{policy}"
        known = OmegaConf.load(CONFIG_DIR / f"{name}.yaml")
        assert set(values) <= set(known)


@pytest.mark.parametrize(("devices", "hidden", "preset"), [([], "0", "cpu"), (["x"], "0", "gpu"), (["x"], "", "cpu")])
def test_the_default_preset_follows_the_machine(monkeypatch, devices, hidden, preset):
    monkeypatch.setattr(composing, "glob", lambda pattern: devices)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert composing.default_preset() == preset


def test_unknown_settings_name_the_nearest(refused):
    assert "trainer.batch_size" in refused("trainer.batchsize=3")
    assert "trainer.steps" in refused("steps=3")
    assert "policy" in refused("polcy=act")
    assert "+policy.pre_norm" in refused("policy=act", "policy.pre_norm=true")
    assert "backbone.layers" in refused("policy.backbone.layers=2")
    assert "trainer.augment.shift" in refused("-m", "seed=1,2", "trainer.augment.shfit=3")
    assert "env.tasks" in refused("env.task=[reach-v3]", config_name="collect")
    assert "episodes" in refused("episode=3", "checkpoint=x", config_name="evaluate")


def test_unknown_choices_name_the_nearest_and_all(refused):
    line = refused("policy=tinivla")
    assert "did you mean tinyvla?" in line
    assert all(choice in line for choice in groups()["policy"])
    assert "cpu" in refused("preset=cp")
    assert "act" in refused("-m", "policy=tinyvla,at")


def test_choices_that_do_not_go_together(refused):
    assert "backbone=nano does not go with policy=act" in refused("policy=act", "backbone=nano")
    assert "preset=paper_s does not go with policy=diffusion" in refused("preset=paper_s", "policy=diffusion")


def test_command_lines_that_cannot_be_read(refused):
    assert "key=value" in refused("env.tasks=[reach-v3")
    assert "key=value" in refused("train")
    assert "steps=..." in refused("--steps", "3")
    assert "nope" in refused("data_dir=${nope}")


def test_values_of_the_wrong_kind(refused):
    assert "not a number" in refused("trainer.steps=many")
    assert "not true or false" in refused("resume=maybe")
    assert "trainer.augment.shift" in refused("trainer.augment=3")
    assert "decoder/network=" in refused("decoder.network=dit")
    assert "checkpoint=..." in refused(config_name="evaluate")


def test_values_that_are_plainly_meant():
    jobs = []
    assert run_app(["env.tasks=reach-v3", "trainer.steps=1e4"], jobs.append) == 0
    assert (list(jobs[0].env.tasks), jobs[0].trainer.steps) == (["reach-v3"], 10000)
    assert isinstance(jobs[0].trainer.steps, int)


def test_a_run_leaves_no_folder_of_hydras(tmp_path):
    jobs = []
    assert run_app(["run_dir=a b", "seed=3"], jobs.append) == 0
    assert jobs[0].command == "python train.py 'run_dir=a b' seed=3"
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_gives_every_job_its_own_run_folder():
    jobs = []
    assert run_app(["-m", "seed=1,2", "policy=tinyvla,act"], jobs.append) == 0
    assert len({cfg.run_dir for cfg in jobs}) == 4
    assert {cfg.run_dir.split("/")[1] for cfg in jobs} == {"tinyvla-metaworld", "act-metaworld"}
    assert jobs[3].command == "python train.py seed=2 policy=act"
    jobs.clear()
    run_app(["-m", "seed=1,2", "run_dir=mine"], jobs.append)
    assert [cfg.run_dir for cfg in jobs] == ["mine/0", "mine/1"]


def test_a_users_mistake_is_one_line_even_from_a_worker(capsys):
    def main(cfg):
        if cfg.seed == 1:
            raise UserError("no such task; use another")
        raise RuntimeError("worker failed") from UserError("from\na worker")

    assert run_app(["seed=1"], main) == 2
    assert capsys.readouterr().err == "error: no such task; use another\n"
    assert run_app(["seed=2"], main) == 2
    assert capsys.readouterr().err == "error: from a worker\n"


def test_a_failing_job_does_not_stop_a_sweep(capsys):
    jobs = []

    def main(cfg):
        jobs.append(cfg.seed)
        if cfg.seed == 1:
            raise UserError("no")

    assert run_app(["-m", "seed=1,2"], main) == 2
    assert jobs == [1, 2]
    assert "error: no\n" in capsys.readouterr().err


def test_ctrl_c_and_bugs(capsys):
    def interrupt(cfg):
        raise KeyboardInterrupt

    def bug(cfg):
        raise ZeroDivisionError

    assert run_app([], interrupt) == 130
    with pytest.raises(ZeroDivisionError):
        run_app([], bug)


@pytest.mark.parametrize("entry", ["train", "collect", "evaluate"])
def test_entry_points_answer_a_mistyped_setting(entry, tmp_path):
    arguments = [sys.executable, str(ROOT / f"{entry}.py"), "env.image_sise=64"]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: unknown setting 'env.image_sise'; did you mean env.image_size")
    assert done.stderr.count("\n") == 1
    assert list(Path(tmp_path).iterdir()) == []


@pytest.mark.parametrize("policy", groups()["policy"])
def test_policy_settings_fit_lerobots_dataclasses(policy):
    from policies import decode_policy_config

    cfg = load_config("train", [f"policy={policy}"])
    config = decode_policy_config(OmegaConf.to_container(cfg.policy))
    assert config.type == policy
    assert config.optimizer_lr == cfg.policy.optimizer_lr


CHOICES = [f"backbone={name}" for name in groups()["backbone"]] + [
    f"decoder/network={name}" for name in groups()["decoder/network"]
]


@pytest.mark.parametrize("choice", [*CHOICES, "decoder=flow", "preset=paper_b"])
def test_tinyvla_settings_fit_and_leave_no_field_out(choice):
    from policies import decode_policy_config

    cfg = OmegaConf.to_container(load_config("train", [choice]).policy)
    config = decode_policy_config(cfg)
    # `assets` is set by loading a checkpoint, `cameras` by the policy and `max_words` by training, never by hand.
    assert set(vars(config.backbone)) - {"assets", "cameras", "max_words"} == set(cfg["backbone"]) - {"type"}
    assert set(vars(config.decoder)) == set(cfg["decoder"]) - {"type"}
    assert set(vars(config.decoder.network)) == set(cfg["decoder"]["network"]) - {"type"}


@pytest.mark.parametrize("name", re.findall(r"^(\w+):.*auto:", (CONFIG_DIR / "trainer/default.yaml").read_text(), re.M))
def test_settings_of_the_trainer_that_may_be_auto_take_it(name):
    values = []
    assert run_app([f"trainer.{name}=auto"], main=lambda cfg: values.append(cfg.trainer[name])) == 0
    assert values == ["auto"]
