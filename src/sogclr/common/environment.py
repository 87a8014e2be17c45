"""Read from the environment what torchrun sets for each process, without importing torch."""

import os

__all__ = ["process_prefix", "processes", "rank", "restarts"]


def processes() -> int:
    """Return the number of processes that train together; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return the rank of this process; rank 0 prints and writes for all processes."""
    return int(os.environ.get("RANK", "0"))


def process_prefix() -> str:
    """Return "process 1 of 4: " for a message of one of several processes, "" for one alone."""
    return f"process {rank()} of {processes()}: " if processes() > 1 else ""


def restarts() -> int:
    """Return how often torchrun has restarted the processes after one of them failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
