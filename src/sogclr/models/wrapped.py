"""Encoders that torch has wrapped: the module inside, and the plain names of its weights."""

from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

__all__ = ["load_plain", "plain_state", "unwrap"]

COMPILED = "_orig_mod"  # the attribute in which torch.compile keeps a module


def unwrap(module: nn.Module) -> nn.Module:
    """Return the module that torch.compile, DataParallel or DistributedDataParallel wraps."""
    inner: Any = module
    while True:
        if isinstance(inner, DataParallel | DistributedDataParallel):
            inner = inner.module
        elif COMPILED in inner._modules:
            inner = inner._modules[COMPILED]
        else:
            return inner


def plain_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights as if no part of the module had been compiled."""
    return {_plain(name): value for name, value in state.items()}


def load_plain(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Load weights into a module; either may have parts that are compiled.

    Raises:
        RuntimeError: the weights do not fit.
    """
    inner = unwrap(module)
    own = {_plain(name): name for name in inner.state_dict()}
    inner.load_state_dict({own.get(name, name): v for name, v in plain_state(state).items()})


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != COMPILED)
