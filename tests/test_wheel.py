"""The wheel: installed in a fresh environment, its commands run outside of the repository."""

import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"tinyvla", "policies", "envs", "robot_io", "configs", "tinyvla_scripts"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(*command: str | Path, cwd: Path) -> str:
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """A virtual environment with the wheel installed; other packages are read from the running environment."""
    folder = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", folder, cwd=folder)
    site_packages = next(folder.glob("lib/python*/site-packages"))
    # A .pth file adds the folder without the .pth files in it, so the repository's editable install stays out.
    (site_packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    run(folder / "bin/pip", "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    return folder


@pytest.mark.slow
def test_the_wheel_holds_packages_commands_and_data(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top_level = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert top_level == PACKAGES | {"lerobot_policy_tinyvla.py"}
    data = ["configs/train.yaml", "envs/metaworld/paraphrases.yaml", "envs/report/page.html.j2"]
    assert set(data) <= set(names)


@pytest.mark.slow
@pytest.mark.parametrize("command", PROJECT["scripts"])
def test_every_command_answers_outside_the_repository(environment, command, tmp_path):
    assert "key=value" in run(environment / "bin" / command, "--help", cwd=tmp_path)


@pytest.mark.slow
def test_an_installed_command_collects(environment, tmp_path):
    out = run(environment / "bin/tinyvla-collect", "env.tasks=[reach-v3]", "episodes=1", "workers=1", cwd=tmp_path)
    assert "1 episodes of 1 tasks" in out
    where = run(environment / "bin/python", "-c", "import envs; print(envs.__file__)", cwd=tmp_path)
    assert Path(where).is_relative_to(environment)
    assert (tmp_path / "data").is_dir()
