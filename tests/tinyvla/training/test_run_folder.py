"""A run's folder: made once, found again, and never mixed up with another run's settings."""

from types import SimpleNamespace

import pytest
import yaml
from omegaconf import OmegaConf
from tiny import run_config

from tinyvla.errors import UserError
from tinyvla.files import best_checkpoint
from tinyvla.training import alone_in_run, find_run, open_run
from tinyvla.training.run_folder import read_config


def config(run_dir, resume=False, **settings):
    cfg = run_config("tinyvla", f"run_dir={run_dir}", f"resume={str(resume).lower()}")
    OmegaConf.update(cfg, "command", "python train.py", force_add=True)
    for key, value in settings.items():
        OmegaConf.update(cfg, key.replace("__", "."), value)
    return cfg


def begin(cfg, defaults):
    return open_run(find_run(cfg, defaults))


@pytest.fixture(scope="module")
def defaults():
    return config("unused")


def test_a_fresh_run_writes_its_configuration(tmp_path, defaults):
    cfg = config(tmp_path / "a" / "run")
    find_run(cfg, defaults)
    assert list(tmp_path.iterdir()) == []
    assert begin(cfg, defaults) == cfg
    assert [file.name for file in (tmp_path / "a" / "run").iterdir()] == ["config.yaml"]
    assert OmegaConf.load(tmp_path / "a" / "run" / "config.yaml") == cfg


def test_a_fresh_run_never_overwrites_one(tmp_path, defaults):
    begin(config(tmp_path, seed=1), defaults)
    with pytest.raises(UserError, match="already holds a run; add resume=true"):
        begin(config(tmp_path, seed=2), defaults)
    assert OmegaConf.load(tmp_path / "config.yaml").seed == 1


def test_a_fresh_run_never_goes_on_from_checkpoints_that_were_left_behind(tmp_path, defaults):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="checkpoints of a run that has lost its config"):
        begin(config(tmp_path), defaults)


def test_resuming_needs_a_run(tmp_path, defaults):
    with pytest.raises(UserError, match=r"there is no run in .* to resume"):
        begin(config(tmp_path / "none", resume=True), defaults)
    assert not (tmp_path / "none").exists()


def test_a_resumed_run_has_its_own_settings(tmp_path, defaults):
    begin(config(tmp_path / "run", seed=5, trainer__steps=77), defaults)
    (tmp_path / "run").rename(tmp_path / "moved")
    resumed = begin(config(tmp_path / "moved", resume=True), defaults)
    assert (resumed.seed, resumed.trainer.steps) == (5, 77)
    assert resumed.run_dir == str(tmp_path / "moved")


def test_a_setting_may_be_repeated_but_not_changed(tmp_path, defaults):
    begin(config(tmp_path, trainer__steps=77), defaults)
    assert begin(config(tmp_path, resume=True, trainer__steps=77), defaults).trainer.steps == 77
    with pytest.raises(UserError, match=r"its trainer.steps is 77, not 99; leave trainer.steps out"):
        begin(config(tmp_path, resume=True, trainer__steps=99), defaults)
    with pytest.raises(UserError, match=r"its policy.type is tinyvla, not act"):
        begin(config(tmp_path, resume=True, policy__type="act"), defaults)
    with pytest.raises(UserError, match=r"its env.tasks is \['default'\], not \['reach-v3'\]"):
        begin(config(tmp_path, resume=True, env__tasks=["reach-v3"]), defaults)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "holds no settings"),
        (b"\x00\xff\x13", "is damaged"),
        (b"- 1\n- 2\n", "holds no settings"),
        (b"word\n", "holds no settings"),
        (b"seed: ${nothing.here}\n", "refers to another setting in seed"),
        (b"seed: ${oc.env:HOME}\n", "refers to another setting in seed"),
        (b"policy: {lr: [1, '${x}']}\n", "refers to another setting in policy.lr"),
        (b"seed: !!python/object/apply:os.system ['touch canary']\n", "is damaged"),
        (b"task: {_target_: os.system}\n", "names something to call"),
        (b"a: &a [1, 2]\nb: [*a, *a]\n", "is damaged"),
        (b"a: " + b"[" * 100_000, "is damaged"),
        (b"#" * (2 << 20), "more than"),
    ],
)
def test_stored_settings_are_plain_data(tmp_path, monkeypatch, content, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(UserError, match=reason) as mistake:
        read_config(tmp_path / "config.yaml")
    assert "\n" not in str(mistake.value)
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("content", ["-5", "word", "[1]", "null"])
@pytest.mark.parametrize("section", ["policy", "trainer", "eval"])
def test_a_section_without_settings_is_one_line(section, content, tmp_path, defaults):
    stored = OmegaConf.to_container(begin(config(tmp_path), defaults))
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(stored | {section: yaml.safe_load(content)}))
    with pytest.raises(UserError, match=f"has no settings in {section}; restore the file"):
        find_run(config(tmp_path, resume=True), defaults)


@pytest.mark.parametrize("place", ["videos", "checkpoints", "checkpoints/000010", "videos/film.mp4"])
def test_a_link_out_of_a_run_is_refused(place, tmp_path, defaults):
    begin(config(tmp_path / "run"), defaults)
    link = tmp_path / "run" / place
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path)
    with pytest.raises(UserError, match=f"refers to {place}, which is outside of it"):
        find_run(config(tmp_path / "run", resume=True), defaults)


def test_the_best_checkpoint_is_not_read_through_a_link_out_of_the_run(tmp_path):
    (tmp_path / "elsewhere/training_state").mkdir(parents=True)
    (tmp_path / "elsewhere/training_state/best.json").write_text('{"step": 10}')
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/checkpoints/000010").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="outside of it"):
        best_checkpoint(tmp_path / "run")


def test_the_command_of_a_run_is_never_resolved(tmp_path, defaults):
    begin(config(tmp_path, command="python train.py 'run_dir=${oc.env:HOME}'"), defaults)
    resumed = find_run(config(tmp_path, resume=True), defaults)
    assert resumed.command == "python train.py 'run_dir=${oc.env:HOME}'"


def test_settings_of_the_machine_may_change_when_a_run_is_resumed(tmp_path, defaults):
    begin(config(tmp_path), defaults)
    other = {"trainer__num_threads": 1, "workers": 3, "device": "cuda:1", "eval__workers": 1}
    resumed = find_run(config(tmp_path, resume=True, **other), defaults)
    assert (resumed.trainer.num_threads, resumed.workers, resumed.device, resumed.eval.workers) == (1, 3, "cuda:1", 1)


def test_a_default_that_the_command_names_is_a_setting_too(tmp_path, defaults):
    begin(config(tmp_path, device="cuda:1", seed=3), defaults)
    command = "python train.py device=auto resume=true"
    assert find_run(config(tmp_path, resume=True, seed=3, command=command), defaults).device == "auto"
    assert find_run(config(tmp_path, resume=True), defaults).device == "cuda:1"
    command = f"python train.py seed={defaults.seed} resume=true"
    with pytest.raises(UserError, match="its seed is 3"):
        find_run(config(tmp_path, resume=True, command=command), defaults)


def test_a_failed_start_leaves_nothing(tmp_path, defaults):
    cfg, accelerator = config(tmp_path / "run"), SimpleNamespace(is_main_process=True)

    def start(*faults):
        with alone_in_run(accelerator, tmp_path / "run"):
            open_run(cfg)
            for fault in faults:
                raise fault

    with pytest.raises(UserError, match="no data"):
        start(UserError("no data"))
    assert list(tmp_path.iterdir()) == []
    start()
    with pytest.raises(UserError, match="no data"):
        start(UserError("no data"))
    assert (tmp_path / "run" / "config.yaml").exists()  # of the earlier start
