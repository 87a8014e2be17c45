"""Which data a run was trained on, and what happens to its state when the data has changed."""

from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..common.errors import UserError

__all__ = ["Fingerprint", "carry_over", "fingerprint"]

# Who the samples of one side are: `ids` and `marks`, `(n,)` int64 each.
Fingerprint: TypeAlias = dict[str, Tensor]


def fingerprint(ids: np.ndarray, marks: np.ndarray) -> Fingerprint:
    """Of samples with these ids `(n,)` uint64, and marks `(n,)` int64 that change with them."""
    return {"ids": torch.from_numpy(ids.view(np.int64)), "marks": torch.from_numpy(marks)}


def carry_over(
    stored: dict[str, Tensor],
    fresh: dict[str, Tensor],
    trained_on: dict[str, Fingerprint],
    data: dict[str, Fingerprint],
    run: Any,
) -> tuple[dict[str, Tensor], str | None]:
    """Per-sample state, rearranged for the data as it is now.

    Samples are recognized by their ids. Known ones keep their row, new ones start fresh, rows of
    samples that are gone are dropped. A queue keeps its keys and learns the new rows of those
    they are of; keys of samples that are gone are nobody's until they are overwritten.

    Args:
        stored: the loss's state_dict; tensors kept per sample have one row each and a spare one,
            those of a module `queue` are none, and its `ids` are rows.
        fresh: the same of a loss made for the data now, without a visit.
        trained_on: who the samples were, by the ending of the modules that keep state of them
            (`""` if all do; `"_a"` and `"_b"` for the sides of pairs).
        data: who they are now.
        run: the run, or its folder, for messages.

    Returns:
        The state, and what happened in one line (None if nothing changed).

    Raises:
        UserError: most samples are not the ones trained on: this is another data set.
    """
    if all(_equal(trained_on[side], now) for side, now in data.items()):
        return stored, None
    state, told = dict(stored), []
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
                state[key] = _renamed(value, rows, before) if name == "ids" else value
            elif len(value.shape) and len(value) == old_size + 1:
                state[key] = fresh[key].clone()
                state[key][torch.from_numpy(rows)] = value[torch.from_numpy(before)]
        told.append(
            f"{len(rows):,} samples are known and keep their state, "
            f"{size - len(rows):,} are new, {old_size - len(rows):,} are gone"
        )
    return state, "the data has changed: " + "; on the other side ".join(told)


def _equal(one: Fingerprint, other: Fingerprint) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


def _match(trained_on: Fingerprint, now: Fingerprint) -> tuple[np.ndarray, np.ndarray]:
    """Rows now, and their rows before, of samples that are unchanged."""
    _, rows, before = np.intersect1d(
        now["ids"].numpy(), trained_on["ids"].numpy(), return_indices=True
    )
    same = now["marks"].numpy()[rows] == trained_on["marks"].numpy()[before]
    return rows[same], before[same]


def _renamed(ids: Tensor, rows: np.ndarray, before: np.ndarray) -> Tensor:
    """Rows before to rows now, -1 where there is none."""
    now = dict(zip(before.tolist(), rows.tolist(), strict=True))
    return torch.tensor([now.get(row, -1) for row in ids.tolist()])
