"""Choose the device, the number format and the loader processes, without importing Lightning."""

import os
from typing import Any

import torch

from ..common.environment import processes
from ..common.errors import UserError
from ..common.options import ConcretePrecision, Device, Precision

__all__ = ["choose_device", "loader_workers", "resolve_precision"]


def choose_device(device: Device, *, alone: bool = True, planned: bool = False) -> str:
    """Choose the type of the device: the requested one, or the fastest available one.

    Args:
        device: the requested device, or "auto".
        alone: whether to refuse several processes; only training can use them.
        planned: whether the device may be one of another machine.

    Raises:
        UserError: the requested device is not available, or several processes were started for
            the work of one.
    """
    if alone and processes() > 1:
        raise UserError("several processes were started, but only training can use them; start one")
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next((name for name, found in available.items() if found), "cpu")
    if not planned and not available.get(device, True):
        raise UserError(f"--device: {device} is not available here; leave out --device")
    return device


def resolve_precision(requested: Precision, device: str) -> ConcretePrecision:
    """Choose bf16-mixed if the device multiplies bfloat16 faster than float32, else 32-true.

    Args:
        requested: the requested precision, which is returned unless it is "auto".
        device: "cpu", "cuda" or "mps".
    """
    if requested != "auto":
        return requested
    if device == "cuda":
        # A GPU that is only planned is one of those that multiply bfloat16.
        known = torch.cuda.is_available()
        return "bf16-mixed" if not known or torch.cuda.is_bf16_supported() else "32-true"
    # CPUs without these instructions emulate bfloat16. Intel CPUs without AMX have avx512_bf16, but
    # a ResNet-18 takes 1.4 times as long on them, where AMD CPUs take half as long.
    has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    vectors = has.get("avx512_bf16") and "Intel" not in str(has.get("cpu_name"))
    faster = device == "cpu" and (has.get("amx_bf16") or vectors)
    return "bf16-mixed" if faster else "32-true"


def loader_workers(local: bool, device: str, requested: int | None) -> int:
    """Choose the number of processes that load samples.

    Args:
        local: whether the samples are in memory.
        device: "cpu", "cuda" or "mps".
        requested: the requested number, which is returned unless it is None.
    """
    if requested is not None:
        return requested
    # On a CPU the encoder keeps all cores busy: a loading process would make its threads wait.
    if local or device == "cpu":
        return 0
    return min(8, os.cpu_count() or 1)
