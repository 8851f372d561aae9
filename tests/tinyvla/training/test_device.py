"""Devices of a run: the CPU where there is nothing faster, and the memory of freed tensors there."""

import platform
import subprocess
import sys

import pytest
import torch

from tinyvla.training.device import is_cpu

# Pages that the system gives to a process which makes and frees tensors of 8 MB.
COUNT_PAGES = """
import resource, sys
from types import SimpleNamespace
import torch
from tinyvla.training.device import keep_freed_memory
if sys.argv[1:]:
    keep_freed_memory(SimpleNamespace(device=torch.device("cpu")))
torch.ones(1 << 21)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(400):
    torch.ones(1 << 21)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_auto_is_the_cpu_only_without_an_accelerator(monkeypatch):
    for is_available in (False, True):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda is_available=is_available: is_available)
        assert [is_cpu(device) for device in ("auto", "cpu", "cuda:0")] == [not is_available, True, False]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_the_memory_of_freed_tensors_is_used_again():
    pages = [
        int(subprocess.run([sys.executable, "-c", COUNT_PAGES, *keep], check=True, capture_output=True).stdout)
        for keep in ([], ["keep"])
    ]
    assert pages[1] < pages[0] / 4
