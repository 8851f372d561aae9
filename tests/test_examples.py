"""The examples run: scripts, and a package that adds an environment, a backbone and a front-end."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from old_files import OLD_FILES, extract_old_files

ROOT = Path(__file__).parents[1]
EXAMPLES, PACKAGE = ROOT / "examples", ROOT / "examples/tinyvla_example"
SMALL = [
    *("preset=cpu", "workers=1", "trainer.batch_size=4", "trainer.num_threads=1", "trainer.bf16=false"),
    *("trainer.log_every=1", "trainer.validate_every=0", "logger=none", "decoder.network.widths=[16,32]"),
    *("decoder.network.step_embedding=16", "policy.chunk_size=8", "policy.n_action_steps=4"),
]


def install(site, name, version, entry_points):
    """Write the files of an installed package that announce it; an installer writes the same, but needs a network."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [
        line
        for group, names in entry_points.items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in names.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))


def environment(*folders):
    """Environment variables of processes that import from these folders."""
    paths = [str(ROOT), *map(str, folders), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Environment variables of processes in which the example package is installed."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    site = tmp_path_factory.mktemp("site")
    install(site, project["name"], project["version"], project["entry-points"])
    return environment(PACKAGE, site)


def run(*arguments, cwd, env=None, code=0):
    """Standard output and error of a program."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=env or environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done.stdout, done.stderr


def test_an_installed_package_adds_choices_to_the_command_line(installed, tmp_path):
    out, _ = run(ROOT / "train.py", "--help", cwd=tmp_path, env=installed)
    assert "touch" in next(line for line in out.splitlines() if line.startswith("env:"))
    assert "patches" in next(line for line in out.splitlines() if line.startswith("backbone:"))
    assert "saturation" in next(line for line in out.splitlines() if line.startswith("frontend:"))
    _, err = run(ROOT / "train.py", "env=tuch", cwd=tmp_path, env=installed, code=2)
    assert "env has no choice 'tuch'; did you mean touch?" in err
    _, err = run(ROOT / "train.py", "backbone=patches", "backbone.gird=4", cwd=tmp_path, env=installed, code=2)
    assert "unknown setting 'backbone.gird'; did you mean backbone.grid" in err


def test_the_environment_is_one_line_where_the_package_is_missing(tmp_path):
    _, err = run(ROOT / "train.py", "env=touch", cwd=tmp_path, code=2)
    assert "env has no choice 'touch'" in err


THIRD_PARTY = """
from dataclasses import dataclass

from lerobot.cameras import CameraConfig
from lerobot.configs import PreTrainedConfig

from tinyvla.decoders import DecoderConfig
from tinyvla.frontends import Frontend


@DecoderConfig.register_subclass("mean_action")
@dataclass
class MeanActionConfig(DecoderConfig):
    scale: float = 1.0


@CameraConfig.register_subclass("still")
@dataclass
class StillCameraConfig(CameraConfig):
    path: str = ""


@PreTrainedConfig.register_subclass("idle")
@dataclass
class IdleConfig(PreTrainedConfig):
    chunk_size: int = 4
    observation_delta_indices = action_delta_indices = reward_delta_indices = None

    def get_optimizer_preset(self): ...
    def get_scheduler_preset(self): ...
    def validate_features(self): ...


class Edges(Frontend):
    name = "edges"
"""

USE = """
from policies import decode_policy_config
from robot_io.cameras.registry import CAMERAS, register_camera
from tinyvla.decoders import DecoderConfig
from tinyvla.decoding import decode_section
from tinyvla.frontends import frontend_class

register_camera("still")
print(CAMERAS.load("still").__name__)
print(decode_section(DecoderConfig, {"type": "mean_action", "scale": 2}))
print(frontend_class("edges").name)
print(decode_policy_config({"type": "idle", "chunk_size": 3}).chunk_size)
print(decode_policy_config({"type": "tinyvla", "decoder": {"type": "mean_action"}}).decoder.scale)
"""


@pytest.mark.slow
def test_decoders_cameras_and_policies_come_from_installed_packages_too(tmp_path):
    (tmp_path / "third_party.py").write_text(THIRD_PARTY)
    (tmp_path / "use.py").write_text(USE)
    entry_points = {
        "tinyvla.decoders": {"mean_action": "third_party:MeanActionConfig"},
        "tinyvla.cameras": {"still": "third_party:StillCameraConfig"},
        "tinyvla.policies": {"idle": "third_party:IdleConfig"},
        "tinyvla.frontends": {"edges": "third_party:Edges"},
    }
    install(tmp_path, "third-party", "1.0", entry_points)
    out, _ = run(tmp_path / "use.py", cwd=tmp_path, env=environment(tmp_path))
    assert out.splitlines() == ["StillCameraConfig", "MeanActionConfig(scale=2.0)", "edges", "3", "1.0"]


@pytest.mark.slow
def test_a_policy_of_an_installed_package_is_collected_for_trained_and_evaluated(installed, tmp_path):
    settings = ["env=touch", "env.image_size=48", "data_dir=data"]
    out, _ = run(ROOT / "collect.py", *settings, "episodes=2", "workers=1", cwd=tmp_path, env=installed)
    assert "4 episodes of 2 tasks" in out
    components = ["backbone=patches", "frontend=saturation", "episodes=2"]
    after = ["trainer.steps=6", "eval.episodes=1", "eval.videos=0", "eval.wrong_instructions=0", "eval.workers=1"]
    run(ROOT / "train.py", *settings, *components, *after, *SMALL, "run_dir=run", cwd=tmp_path, env=installed)
    assert len(list((tmp_path / "data").glob("touch-*"))) == 1  # the collected dataset is used
    result = json.loads((tmp_path / "run/eval.json").read_text())
    assert list(result["tasks"]) == ["touch-red", "touch-blue"]
    evaluation = ["env=touch", "env.image_size=48", "checkpoint=run", "episodes=1", "workers=1", "videos=0"]
    shift = ["shift=[lighting,object_colour,sensor_noise]", "severity=2", "run_dir=shifted"]
    run(ROOT / "evaluate.py", *evaluation, *shift, cwd=tmp_path, env=installed)
    result = json.loads((tmp_path / "shifted/eval.json").read_text())
    assert result["shift"] == {"names": ["object_colour", "lighting", "sensor_noise"], "severity": 2}
    assert (tmp_path / "shifted/report.html").exists()


@pytest.mark.slow
def test_load_and_act(tmp_path):
    extract_old_files(tmp_path, "run")
    out, _ = run(EXAMPLES / "load_and_act.py", "run", "metaworld", "reach-v3", "1", cwd=tmp_path)
    assert out.startswith("action: [")
    assert "success rate on reach-v3:" in out


@pytest.mark.slow
def test_own_environment(installed, tmp_path):
    out, _ = run(EXAMPLES / "own_environment.py", "data", "1", cwd=tmp_path, env=installed)
    assert "expert: success after" in out
    (dataset,) = (tmp_path / "data").glob("touch-*")
    assert f"dataset: data/{dataset.name}" in out


@pytest.mark.slow
def test_own_dataset(tmp_path):
    settings = [*SMALL, "trainer.steps=4", "backbone.image_size=32", "backbone.hidden_size=32"]
    out, _ = run(EXAMPLES / "own_dataset.py", "data/mine", "outputs/mine", *settings, cwd=tmp_path)
    assert out.splitlines()[-1].startswith("action: [")


@pytest.mark.slow
def test_tinysam_mask(tmp_path):
    extract_old_files(tmp_path, "tinysam")
    out, _ = run(EXAMPLES / "tinysam_mask.py", "tinysam", OLD_FILES / "table.png", "30", "30", cwd=tmp_path)
    assert "'bbox': [" in out
    assert (tmp_path / "mask.png").exists()
