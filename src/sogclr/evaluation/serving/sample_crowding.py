"""Compare how crowded the neighbourhoods of samples are, by the number that SogCLR keeps."""

import math

import numpy as np

from ...data.image_source import ImageSource
from ...data.texts import Texts
from ...runs.folder import Run
from ...runs.stored_samples import read_known_samples

__all__ = ["SampleCrowding", "read_crowding"]


class SampleCrowding:
    """Compares samples by log u.

    Args:
        log_u: `(n,)`; not finite for samples that the run has not visited.
    """

    def __init__(self, log_u: np.ndarray) -> None:
        self._log_u, self._known = log_u, np.sort(log_u[np.isfinite(log_u)])

    def describe(self, row: int) -> str:
        """Say which share of the samples is less crowded; "" for an unknown sample."""
        value = float(self._log_u[row])
        if not np.isfinite(value) or len(self._known) < 2:
            return ""
        share = np.searchsorted(self._known, value) / (len(self._known) - 1)
        percent = math.floor(100 * share)  # 100% is the most crowded sample alone
        return (
            f"its neighbourhood is more crowded than those of {percent}% of the other samples "
            f"(log u {value:.2f})"
        )


def read_crowding(run: Run, side: ImageSource | Texts, *, of_pairs: bool) -> SampleCrowding | None:
    """Read log u of the samples of a side; None if the run has none of them.

    Args:
        run: the run.
        side: the samples, perhaps others than those that the run was trained on.
        of_pairs: whether `align` trained the run.
    """
    stored = read_known_samples(run)
    name = "" if not of_pairs else "b" if isinstance(side, Texts) else "a"
    log_u = stored[name].log_u_of(side.ids) if name in stored else None
    return SampleCrowding(log_u) if log_u is not None and np.isfinite(log_u).any() else None
