"""Child processes: ready, refused, crashed, and ended with their parent."""

import pickle
import sys

import pytest

from tinyvla.errors import UserError
from tinyvla.processes import ChildProcess, report_ready


def serve():
    """The child: its first message decides how it starts."""
    message = pickle.load(sys.stdin.buffer)
    if message == "refuse":
        print("no such port; plug the arm in", flush=True)
    elif message == "crash":
        raise SystemExit(3)
    else:
        report_ready()
        sys.stdin.buffer.read()


@pytest.fixture
def child():
    process = ChildProcess(serve)
    yield process
    process.close()


def test_a_child_is_ready_and_ends_with_its_stdin(child):
    child.send("start")
    child.wait_until_ready("the child")
    assert child.poll() is None
    child.close()
    assert child.returncode == 0


def test_a_refusal_is_one_line(child):
    child.send("refuse")
    with pytest.raises(UserError, match=r"^no such port; plug the arm in$"):
        child.wait_until_ready("the child")


def test_a_crash_names_the_exit_code(child):
    child.send("crash")
    with pytest.raises(RuntimeError, match="the child ended with exit code 3 before it was ready"):
        child.wait_until_ready("the child")
