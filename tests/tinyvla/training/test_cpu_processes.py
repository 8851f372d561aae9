"""Processes that train together on the cores of a CPU: how many, with which share, and how they end."""

import os
import subprocess
import sys

import pytest

from tinyvla.errors import UserError
from tinyvla.training import TrainerConfig, cpu_processes

# The second process waits, reports or fails as the first argument says.
PROGRAM = """
import os, sys, time

if os.environ.get("RANK"):
    with open(sys.argv[2], "w") as file:
        file.write(f"{os.getpid()} {os.environ['RANK']} {os.environ['WORLD_SIZE']}")
    if sys.argv[1] == "fail":
        os.write(2, b"ValueError: no more memory\\n")
        os._exit(1)
    time.sleep(60)

from tinyvla.training import TrainerConfig
from tinyvla.training.cpu_processes import cpu_processes, share_batch

with cpu_processes(2, sys.argv[1:]):
    print(os.environ["RANK"], share_batch(TrainerConfig(batch_size=64)).batch_size, flush=True)
    while not os.path.exists(sys.argv[2]):
        time.sleep(0.05)
    if sys.argv[1] == "fail":
        time.sleep(1)  # until the other has ended
        raise RuntimeError("connection closed by peer")
print("RANK" in os.environ, share_batch(TrainerConfig(batch_size=64)).batch_size)
"""


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cpu_processes, "count_cores", lambda: 4)


@pytest.mark.parametrize(("processes", "batch", "count"), [(1, 7, 1), (2, 8, 2), ("auto", 64, 4), ("auto", 9, 3)])
def test_a_batch_is_shared_equally(processes, batch, count):
    assert cpu_processes.count_processes(TrainerConfig(processes=processes, batch_size=batch), "cpu") == count


def test_a_batch_that_cannot_be_shared_is_one_line():
    with pytest.raises(UserError, match=r"trainer\.processes=3 cannot share a batch of 64 equally"):
        cpu_processes.count_processes(TrainerConfig(processes=3), "cpu")


def test_a_launcher_or_a_gpu_decides_for_itself(monkeypatch):
    assert cpu_processes.count_processes(TrainerConfig(processes=2), "cuda") == 1
    monkeypatch.setenv("RANK", "1")
    assert cpu_processes.count_processes(TrainerConfig(processes=2), "cpu") == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cpu_processes.share_batch(TrainerConfig()) == TrainerConfig()  # whose batch size is per process


def run(*arguments):
    program = [sys.executable, "program.py", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    return subprocess.run(program, cwd=arguments[-1], env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_the_others_end_with_the_first(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    record = tmp_path / "seen"
    result = run("wait", record, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "0 32\nFalse 64\n"
    pid, rank, world = map(int, record.read_text().split())
    assert (rank, world) == (1, 2)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.slow
def test_an_error_of_another_process_is_named(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    result = run("fail", tmp_path / "seen", tmp_path)
    assert "UserError: training process 1 ended (ValueError: no more memory)" in result.stderr
