"""Hide differences between versions of torch. The losses need 2.1, and 2.11 to be compiled."""

from collections.abc import Callable
from typing import Any

import torch
from torch._utils import is_compiling as _is_compiling

__all__ = ["COMPILES", "autocasts", "is_compiling", "keep_from_old_compilers"]

# torch.compile of these versions takes a loss whole. An older one fails within the losses.
COMPILES = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 11)


def keep_from_old_compilers(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make an old torch.compile call this function as it is; what is around it is compiled."""
    kept: Callable[..., Any] = function if COMPILES else torch.compiler.disable(function)
    return kept


# `is_compiling` tells whether torch.compile traces the caller. Its public name came with 2.3.
is_compiling = getattr(torch.compiler, "is_compiling", _is_compiling)

# torch 2.4 and later ask so. `hasattr` stands here since torch.compile does not trace it.
_ASKS_BY_DEVICE = hasattr(torch.amp, "is_autocast_available")


def autocasts(device_type: str) -> bool:
    """Return whether autocast is on for devices of this type."""
    if _ASKS_BY_DEVICE:
        available: bool = torch.amp.is_autocast_available(device_type)
        return available and torch.is_autocast_enabled(device_type)
    if device_type == "cpu":
        return torch.is_autocast_cpu_enabled()
    return device_type == "cuda" and torch.is_autocast_enabled()
