"""Shared by all tests: no hub, no account, few threads."""

import os
import signal
import sys

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core each for the test processes side by side
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So it is in the background of a script, and in every program started there; tests press Ctrl-C on theirs.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def dataset_root(tmp_path_factory):
    """Folder of the small dataset of `tiny.write_dataset`. Shared: tests that damage it work on a copy."""
    from tiny import write_dataset

    return write_dataset(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="session")
def dataset(dataset_root):
    from policies.data import open_dataset

    return open_dataset(dataset_root)


@pytest.fixture
def in_process(monkeypatch):
    """Worker processes' work done at once in this one, which spares a test their start."""
    from tiny import SerialPool

    for module in ("envs.evaluation", "envs.demos.collect", "envs.demos.dataset"):
        monkeypatch.setattr(f"{module}.worker_pool", SerialPool)


@pytest.fixture
def command(capsys, monkeypatch):
    """Run an entry point in this process; its exit code and what it wrote to stdout and stderr."""

    def run(entry, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{entry}.py", *arguments])
        capsys.readouterr()
        code = 0
        try:
            __import__(entry).main()
        except SystemExit as leaving:
            code = leaving.code
        return code, *capsys.readouterr()

    return run
