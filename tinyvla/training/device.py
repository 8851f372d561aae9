"""Devices, precision and threads of a run, and its processes."""

import os
from collections.abc import Callable
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, broadcast_object_list

from ..errors import UserError, one_line
from ..machine import count_cores


def check_device(device: str) -> None:
    """Raise UserError unless this machine has a device; "auto" stands for the fastest one."""
    if device in ("auto", "cpu"):
        return
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = one_line(error, None)
        raise UserError(f"device={device} cannot be used here ({reason}); use device=auto or device=cpu") from error


def is_cpu(device: str) -> bool:
    """True if a run on a device computes on the CPU: "cpu", or "auto" on a machine without an accelerator."""
    return device == "cpu" or (device == "auto" and not torch.accelerator.is_available())


def make_accelerator(device: str, bf16: bool | str) -> Accelerator:
    """Hugging Face's Accelerator on a device ("auto": the fastest one), in bf16 if true, or if "auto" and fast.

    Raises UserError if there is no such device.
    """
    check_device(device)
    if device not in ("auto", "cpu"):
        os.environ["ACCELERATE_TORCH_DEVICE"] = device
    AcceleratorState._reset_state()  # the runs of a sweep share a process and may differ in precision
    return Accelerator(
        cpu=is_cpu(device),  # processes of a CPU find each other only if it is asked for
        mixed_precision="bf16" if (computes_bf16(device) if bf16 == "auto" else bf16) else "no",
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=True),
            # The other processes wait while the first one collects or validates.
            InitProcessGroupKwargs(timeout=timedelta(hours=12)),
        ],
    )


def device_of(accelerator: Accelerator) -> str:
    """Device of this process; torch numbers the CPUs of several processes, but other libraries do not know cpu:1."""
    return "cpu" if accelerator.device.type == "cpu" else str(accelerator.device)


def computes_bf16(device: str) -> bool:
    """True if bf16 is fast: on a GPU that supports it, or a CPU with matrix instructions for it."""
    if device != "cpu" and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device not in ("auto", "cpu"):
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def use_threads(accelerator: Accelerator, num_threads: int | str) -> None:
    """Set the number of torch's threads on a CPU; "auto": one per core."""
    if accelerator.device.type == "cpu":
        torch.set_num_threads(count_cores() if num_threads == "auto" else int(num_threads))


def on_first_process[T](accelerator: Accelerator, function: Callable[[], T]) -> T:
    """Result of `function`, which only the first process of a distributed run calls, in all processes."""
    return broadcast_object_list([function() if accelerator.is_main_process else None])[0]
