"""Which data a run was trained on, and what happens to its state when the data has changed."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .data.source import ImageSource
from .errors import UserError

__all__ = ["carry_over", "fingerprint"]


def fingerprint(source: ImageSource) -> dict[str, Tensor]:
    """Who the samples are: `ids` and `marks`, `(n,)` int64 each."""
    return {
        "ids": torch.from_numpy(source.ids.view(np.int64)),
        "marks": torch.from_numpy(source.marks),
    }


def carry_over(
    loss_state: dict[str, Tensor], trained_on: dict[str, Tensor], source: ImageSource, run: Path
) -> tuple[dict[str, Any], str | None]:
    """Per-sample state, rearranged for the data as it is now.

    Samples are recognized by their ids. Known ones keep their row, new ones start fresh, rows of
    samples that are gone are dropped.

    Args:
        loss_state: the loss's state_dict; its tensors have one row a sample and a spare one.
        trained_on: the `fingerprint` it belongs to.
        source: the data now.
        run: for messages.

    Returns:
        The state, and what happened in one line (None if nothing changed).

    Raises:
        UserError: most samples are not the ones trained on: this is another data set.
    """
    old_ids, old_marks = trained_on["ids"].numpy(), trained_on["marks"].numpy()
    ids = source.ids.view(np.int64)
    if np.array_equal(ids, old_ids) and np.array_equal(source.marks, old_marks):
        return loss_state, None
    _, now, before = np.intersect1d(ids, old_ids, return_indices=True)
    same = source.marks[now] == old_marks[before]
    if 2 * same.sum() < min(len(ids), len(old_ids)):
        raise UserError(
            f"data: this is not what {run} was trained on: of its {len(old_ids):,} samples "
            f"{same.sum():,} are here unchanged; give the same data, or another --out"
        )
    now, before = now[same], before[same]
    state = {
        key: _rearrange(value, len(old_ids), len(ids), now, before)
        for key, value in loss_state.items()
    }
    return state, (
        f"the data has changed: {len(now):,} samples are known and keep their state, "
        f"{len(ids) - len(now):,} are new, {len(old_ids) - len(now):,} are gone"
    )


def _rearrange(
    value: Tensor, old_size: int, size: int, now: np.ndarray, before: np.ndarray
) -> Tensor:
    if value.ndim == 0 or len(value) != old_size + 1:
        return value
    # A fresh row: no estimate yet (log 0), no visits.
    fresh = -torch.inf if value.is_floating_point() else 0
    result = torch.full((size + 1,), fresh, dtype=value.dtype)
    result[torch.from_numpy(now)] = value[torch.from_numpy(before)]
    return result
