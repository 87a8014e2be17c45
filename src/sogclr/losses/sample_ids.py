"""Ids of samples, as a loss is given them: checked where that needs no wait, and moved."""

import torch
from torch import Tensor

__all__ = ["check_ids", "check_integers", "move_ids"]


def check_ids(ids: Tensor, count: int, what: str) -> bool:
    """Check ids that are on the CPU; others are not waited for.

    Args:
        ids: `(B,)` integers.
        count: they must be in [0, count).
        what: they are called in messages.

    Returns:
        Whether they were checked.

    Raises:
        TypeError: they are not integers.
        IndexError: one is out of range.
    """
    check_integers(ids, what)
    if ids.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    values = ids.numpy()  # which is quicker with a few numbers
    if len(values) and (values.min() < 0 or values.max() >= count):
        outside = ids[(ids < 0) | (ids >= count)]
        raise IndexError(
            f"{what} {int(outside[0])} is outside [0, {count}): "
            "the number given to the loss must be larger than the largest one"
        )
    return True


def check_integers(ids: Tensor, what: str) -> None:
    """Raise TypeError unless the ids, called `what` in the message, are integers."""
    if ids.dtype.is_floating_point or ids.dtype.is_complex or ids.dtype == torch.bool:
        raise TypeError(f"{what}s must be integers, got {ids.dtype}")


def move_ids(ids: Tensor, device: torch.device) -> Tensor:
    """Ids of any integer type to int64 on `device`, without a wait where that is safe.

    Elsewhere than on CUDA a copy may be read before it has arrived.
    """
    return ids.to(device, torch.int64, non_blocking=device.type == "cuda")
