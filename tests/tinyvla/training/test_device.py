"""Devices of a run: the CPU where there is nothing faster."""

import torch

from tinyvla.training.device import is_cpu


def test_auto_is_the_cpu_only_without_an_accelerator(monkeypatch):
    for is_available in (False, True):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda is_available=is_available: is_available)
        assert [is_cpu(device) for device in ("auto", "cpu", "cuda:0")] == [not is_available, True, False]
