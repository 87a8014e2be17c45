"""What torchrun tells a process of itself, before anything is set up."""

import os
import sys

__all__ = ["connected", "processes", "rank", "restarts"]


def processes() -> int:
    """How many train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of them this is; the first, 0, speaks and writes for all."""
    return int(os.environ.get("RANK", "0"))


def connected() -> bool:
    """Whether they are joined already. Imports nothing: before torch is, they are not."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_initialized()


def restarts() -> int:
    """How often torchrun has started them again after one of them failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
