"""Describe the machine of a measurement; every results file contains this description."""

import platform
from typing import Any

import torch

import sogclr

__all__ = ["machine"]


def machine() -> dict[str, Any]:
    """Return the processors and the versions of the software."""
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "cpu": platform.processor() or platform.machine(),
        **gpu,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "sogclr": sogclr.__version__,
    }
