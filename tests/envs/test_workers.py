"""Worker processes: one core each, their number, and the death of one."""

import os

import pytest

from envs.workers import count_workers, worker_pool
from tinyvla.errors import UserError


def test_worker_processes_keep_to_one_core_each_and_this_one_does_not(monkeypatch):
    monkeypatch.setenv("LP_NUM_THREADS", "7")
    with worker_pool(1) as pool:
        assert pool.submit(os.getenv, "LP_NUM_THREADS").result() == "0"
    assert os.environ["LP_NUM_THREADS"] == "7"


def test_number_of_workers():
    assert count_workers("auto") == count_workers(None) >= 1
    assert count_workers(3) == count_workers("3") == 3
    for wrong in (0, -1, "many"):
        with pytest.raises(UserError, match=r"workers is .*; use auto or a number"):
            count_workers(wrong)


def die():
    os._exit(9)


def test_a_worker_that_dies_is_one_clear_error():
    with pytest.raises(UserError, match=r"a worker process died.*run the same command again"), worker_pool(1) as pool:
        pool.submit(die).result()
