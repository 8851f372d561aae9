"""Every benchmark starts: `--help` lists its settings, and a mistyped one is one line. Each writes a result."""

import runpy
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.own_process import in_own_process
from benchmarks.settings import as_values, describe_settings, read_settings, required, setting
from tinyvla.errors import UserError

ROOT = Path(__file__).parents[1]
BENCHMARKS = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in sorted((ROOT / "benchmarks").rglob("*.py"))
}
NAMES = [name for name, file in BENCHMARKS.items() if 'if __name__ == "__main__":\n    start(' in file.read_text()]


@dataclass
class Settings:
    run: Path = required("run folder")
    tasks: list[str] = setting(["default"], "tasks and suites")
    device: str = setting("cpu", "device", ("cpu", "cuda"))
    seconds: float = setting(1.0, "seconds")
    against: str | None = setting(None, "revision")


def run_benchmark(name, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit) as leaving:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    return leaving.value.code


def test_all_benchmarks_are_listed():
    assert len(NAMES) >= 23
    assert {"benchmarks.inference", "benchmarks.frontends.wake", "benchmarks.real_arm.soak"} < set(NAMES)


def test_every_benchmark_writes_its_result():
    silent = [name for name in NAMES if "    keep(" not in BENCHMARKS[name].read_text()]
    assert silent == ["benchmarks.pages"]


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("name", NAMES)
def test_help_lists_the_settings_and_a_mistyped_one_is_a_line(name, monkeypatch, capsys):
    assert run_benchmark(name, monkeypatch, "--help") == 0
    out = capsys.readouterr().out
    assert f"python -m {name}" in out
    assert "Settings (key=default):" in out
    assert run_benchmark(name, monkeypatch, "sede=1") == 2
    err = capsys.readouterr().err
    assert err.startswith("error: unknown setting 'sede'; ")
    assert err.count("\n") == 1


def test_settings_are_read_as_yaml():
    settings = read_settings(Settings, ["run=a/b", "tasks=[x,y]", "seconds=3", "against=null"])
    assert settings == Settings(Path("a/b"), ["x", "y"], "cpu", 3.0, None)
    assert as_values(settings)["run"] == "a/b"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run=a", "task=[x]"], "unknown setting 'task'; did you mean tasks?"),
        (["run=a", "device=cdua"], "device has no choice 'cdua'; did you mean cuda"),
        (["run=a", "seconds=soon"], "seconds=soon is not a number"),
        (["run=a", "tasks=x"], "write 'tasks=[x]'"),
        (["run=a", "tasks=[x"], "is not valid YAML"),
        (["tasks=[x]"], "run is not given; add run=..."),
        (["outputs/run"], "'outputs/run' is not a setting; settings are run=..., tasks=..."),
        (["--seconds=3"], "'--seconds=3' is not a setting"),
    ],
)
def test_mistakes_name_the_fix(arguments, message):
    with pytest.raises(UserError) as error:
        read_settings(Settings, arguments)
    assert message in str(error.value)


def test_defaults_are_not_shared():
    read_settings(Settings, ["run=a"]).tasks.append("more")
    assert read_settings(Settings, ["run=a"]).tasks == ["default"]


def test_help_has_defaults_comments_and_choices():
    lines = describe_settings(Settings).splitlines()
    assert lines[0].split() == ["run=???", "run", "folder"]
    assert lines[2].split() == ["device=cpu", "device", "(cpu,", "cuda)"]
    assert lines[4].split() == ["against=null", "revision"]


def test_a_function_runs_in_its_own_process():
    assert in_own_process("os.path:join", "a", "b") == "a/b"
    with pytest.raises(SystemExit, match="os:listdir failed"):
        in_own_process("os:listdir", "/no/such/folder")
