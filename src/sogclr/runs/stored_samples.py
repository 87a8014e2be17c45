"""Read from a checkpoint which samples a run has seen, and SogCLR's number of each: log u."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..common.console import say
from ..common.errors import UserError, one_line
from ..common.stored_fields import ANOTHER_VERSION
from ..losses.normalizer_level import LevelNormalizerTable
from ..losses.normalizer_table import NormalizerTable
from .folder import Run

__all__ = ["StoredSamples", "align_by_id", "read_known_samples", "read_samples"]


@dataclass(frozen=True)
class StoredSamples:
    """The samples of one side that a run was trained on.

    Attributes:
        ids: `(n,)` uint64 sample ids.
        log_u: `(n,)` float32; -inf for a sample without a visit. None if the run keeps no number
            for each sample: other methods than sogclr have none, samples of a stream share rows.
    """

    ids: np.ndarray
    log_u: np.ndarray | None

    def log_u_of(self, ids: np.ndarray) -> np.ndarray | None:
        """Return log u of samples with these ids `(m,)`, NaN for samples unknown to the run."""
        return None if self.log_u is None else align_by_id(ids, self.ids, self.log_u)


def align_by_id(ids: np.ndarray, stored_ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Look up values by sample id.

    Args:
        ids: `(n,)` uint64 ids to look up.
        stored_ids: `(m,)` uint64 distinct ids.
        values: `(m,)` floats of the stored ids.

    Returns:
        `(n,)` float64; NaN for ids that are not stored.
    """
    order = np.argsort(stored_ids)
    if not len(order):
        return np.full(len(ids), np.nan)
    place = order[np.searchsorted(stored_ids[order], ids).clip(max=len(order) - 1)]
    return np.where(stored_ids[place] == ids, values[place].astype(np.float64), np.nan)


def read_samples(run: Run) -> dict[str, StoredSamples]:
    """Read the samples of a run from its checkpoint.

    Returns:
        The samples by side: "" for images, "a" and "b" for pairs.

    Raises:
        UserError: the run has no checkpoint, or it cannot be read.
    """
    state = run.read_checkpoint(mapped=True)
    loss, data = state.get("loss"), state.get("data")
    found: dict[str, StoredSamples] = {}
    if not isinstance(loss, dict) or not isinstance(data, dict):
        return found
    for side in ("", "a", "b"):
        ending = f"_{side}" if side else ""
        fingerprint = data.get(ending)
        ids = fingerprint.get("ids") if isinstance(fingerprint, dict) else None
        if not isinstance(ids, torch.Tensor) or ids.dtype != torch.int64:
            continue
        table, level = (loss.get(f"normalizer{ending}.{name}") for name in ("table", "state"))
        try:
            log_u = _read_table(table, level, len(ids))
        except (RuntimeError, ValueError, TypeError) as error:
            what = f"the table in {run.checkpoint} cannot be read ({one_line(error)})"
            raise UserError(f"run: {what}; {ANOTHER_VERSION}") from error
        found[side] = StoredSamples(ids.numpy().view(np.uint64), log_u)
    return found


def read_known_samples(run: Run) -> dict[str, StoredSamples]:
    """Read the samples of a run, for what can do without them.

    Returns:
        The samples by side, see `read_samples`; {} if there is no checkpoint, or if it cannot be
        read, which is printed.
    """
    if not run.checkpoint.exists():
        return {}
    try:
        return read_samples(run)
    except UserError as error:
        say(f"left out: log u ({error})")
        return {}


def _read_table(table: Any, level: Any, samples: int) -> np.ndarray | None:
    """Return log u `(samples,)`; None unless the table has a row for each sample."""
    if not isinstance(table, torch.Tensor) or table.shape != (samples + 1, 2):
        return None
    normalizer: NormalizerTable
    # How new estimates are averaged plays no part here.
    if level is None:
        normalizer = NormalizerTable(samples, gamma_min=1.0, dtype=table.dtype)
        normalizer.load_state_dict({"table": table})
    else:
        settings: dict[str, Any] = {"gamma_min": 1.0, "dtype": table.dtype}
        normalizer = LevelNormalizerTable(samples, **settings)
        normalizer.load_state_dict({"table": table, "state": level})
    return normalizer.log_u[:-1].float().numpy()
