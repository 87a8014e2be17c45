"""Recognize the data that a run was trained on, and carry its state over to changed data."""

from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..common.errors import UserError

__all__ = ["Fingerprint", "carry_over", "fingerprint"]

# Identifies the samples of one side: `ids` and `marks`, `(n,)` int64 each.
Fingerprint: TypeAlias = dict[str, Tensor]


def fingerprint(ids: np.ndarray, marks: np.ndarray) -> Fingerprint:
    """Build the fingerprint of samples.

    Args:
        ids: `(n,)` uint64, the sample ids.
        marks: `(n,)` int64, which change when the content of a sample changes.
    """
    return {"ids": torch.from_numpy(ids.view(np.int64)), "marks": torch.from_numpy(marks)}


def carry_over(
    stored: dict[str, Tensor],
    fresh: dict[str, Tensor],
    trained_on: dict[str, Fingerprint],
    data: dict[str, Fingerprint],
    run: Any,
) -> tuple[dict[str, Tensor], str | None]:
    """Rearrange the state of samples for the present data.

    A sample is known if its id and its mark are unchanged. A known sample keeps its state, in its
    new row. A new sample starts without a visit, and the state of a missing sample is dropped. A
    queue keeps its keys, with the new rows of their samples; keys of missing samples get row -1.

    Args:
        stored: the state_dict of the loss. A tensor of samples has one entry for each sample, and
            a spare one. In a module named `queue`, only `ids` refers to samples, by their rows.
        fresh: the state_dict of a loss for the present data, without a visit.
        trained_on: the fingerprints of the data before, by side. The name of a side is how the
            names of its modules end: `""` for all modules, `"_a"` and `"_b"` for sides of pairs.
        data: the fingerprints of the present data, by side.
        run: the run or its folder, for messages.

    Returns:
        The state, and one line on what has changed (None if nothing has).

    Raises:
        UserError: most samples are unknown, so this is another data set.
    """
    if all(_equal(trained_on[side], now) for side, now in data.items()):
        return stored, None
    state, changes = dict(stored), []
    for side, now in data.items():
        rows, before = _match(trained_on[side], now)
        old_size, size = len(trained_on[side]["ids"]), len(now["ids"])
        if 2 * len(rows) < min(size, old_size):
            raise UserError(
                f"data: this is not what {getattr(run, 'folder', run)} was trained on: of its "
                f"{old_size:,} samples {len(rows):,} are here unchanged; "
                "give the same data, or start another run"
            )
        for key, value in stored.items():
            module, _, name = key.rpartition(".")
            if not module.endswith(side):
                continue
            if module.endswith("queue"):
                state[key] = _replace_rows(value, rows, before) if name == "ids" else value
            elif len(value.shape) and len(value) == old_size + 1:
                state[key] = fresh[key].clone()
                state[key][torch.from_numpy(rows)] = value[torch.from_numpy(before)]
        changes.append(
            f"{len(rows):,} samples are known and keep their state, "
            f"{size - len(rows):,} are new, {old_size - len(rows):,} are gone"
        )
    return state, "the data has changed: " + "; on the other side ".join(changes)


def _equal(one: Fingerprint, other: Fingerprint) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


def _match(trained_on: Fingerprint, now: Fingerprint) -> tuple[np.ndarray, np.ndarray]:
    """Find the known samples: their present rows, and their rows before."""
    _, rows, before = np.intersect1d(
        now["ids"].numpy(), trained_on["ids"].numpy(), return_indices=True
    )
    unchanged = now["marks"].numpy()[rows] == trained_on["marks"].numpy()[before]
    return rows[unchanged], before[unchanged]


def _replace_rows(old: Tensor, rows: np.ndarray, before: np.ndarray) -> Tensor:
    """Replace the rows `before` by the present `rows`, and all other rows by -1."""
    row_now = dict(zip(before.tolist(), rows.tolist(), strict=True))
    return torch.tensor([row_now.get(row, -1) for row in old.tolist()])
