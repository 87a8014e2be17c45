"""Read from the environment what torchrun sets for each process, without importing torch."""

import os
import sys

__all__ = ["connected", "processes", "rank", "restarts"]


def processes() -> int:
    """Return the number of processes that train together; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return the rank of this process; rank 0 prints and writes for all processes."""
    return int(os.environ.get("RANK", "0"))


def connected() -> bool:
    """Return whether the processes have joined a group; they have not before torch is imported."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_initialized()


def restarts() -> int:
    """Return how often torchrun has restarted the processes after one of them failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
