"""Choose the backend by the number of processes, the device, the precision and the batch size."""

from functools import partial

import torch
from torch import Tensor

from ...distributed.exchange import Shares
from ..equal_rows import TRITON, all_different
from ..inputs import Batch
from ..sample_ids import never_negatives
from ..temperature import Temperature
from . import tiled
from .dense import Dense
from .similarities import Diagonals, Excluded, Similarities, needs_shift
from .tiled import Part, Shared, Tiled

__all__ = ["for_pairs", "for_queue", "for_two_views", "runs_kernels"]


def for_pairs(batch: Batch, temperature: Temperature) -> Similarities:
    """Choose the backend for pairs, each side with the other: S = 2, M = N + R."""
    (x, y), shift = batch.vectors, _shifts(temperature, batch.vectors)
    identities, fresh, count = batch.ids.identities, batch.fresh, len(batch.positive)
    if batch.alone:
        if runs_kernels(*batch.features.given):
            from .fused import Fused

            lengths = batch.features.length.squeeze(-1).unbind()
            return Fused(batch.features.given, lengths, identities, shift)
        if count > 1 and all_different(*identities):
            return _in_one_process(x, y, Diagonals((0,), per_row=1), 2, shift)
    excluded = partial(never_negatives, identities, present=batch.present)
    if batch.shares is None:
        return _in_one_process(x, y, excluded, 2, shift)
    (a, b), start = batch.features.unit, batch.shares.own.start
    own = [
        Tiled(a, y, excluded, 2, shift, Part(0, start, count, column_side=1)),
        Tiled(b, x, excluded, 2, shift, Part(1, start, count, column_side=0)),
    ]
    earlier = [
        Tiled(x[fresh:], y, excluded, 2, shift, Part(0, fresh, count, column_side=1)),
        Tiled(y[fresh:], x, excluded, 2, shift, Part(1, fresh, count, column_side=0)),
    ]
    return Shared(batch.shares, own, earlier)


def for_two_views(batch: Batch, temperature: Temperature) -> Similarities:
    """Choose the backend for all views with all views: S = 1, M = 2 (N + R), this batch first."""
    shift, fresh = _shifts(temperature, batch.vectors), batch.fresh
    sample, present, given = batch.ids.identities[-1], batch.present, batch.features.given
    if batch.alone and fresh > 1 and all_different(sample):
        z = batch.vectors.flatten(0, 1)
        return _in_one_process(z, None, Diagonals((0, fresh, -fresh), per_row=2), 1, shift)
    samples = batch.fresh_first(sample, sample)  # (M,)
    if batch.alone and runs_kernels(*given):
        from .fused import Fused

        return Fused((torch.cat(given),), (batch.features.length.flatten(),), [samples], shift)
    z = batch.fresh_first(*batch.vectors)
    present = None if present is None else batch.fresh_first(present, present)
    excluded = partial(never_negatives, [samples], present=present)
    if batch.shares is None:
        return _in_one_process(z, None, excluded, 1, shift)
    start = batch.shares.own.start
    parts = [
        Tiled(rows, z, excluded, 1, shift, Part(0, first, len(z), column_side=0))
        for first, rows in (
            *zip((start, fresh + start), batch.features.unit, strict=True),
            (2 * fresh, z[2 * fresh :]),
        )
    ]
    return Shared(batch.shares, parts[:2], parts[2:])


def for_queue(
    queries: Tensor,
    keys: Tensor,
    excluded: Excluded,
    shares: Shares | None,
    temperature: Temperature,
) -> Similarities:
    """Choose the backend for the queries of both views with MoCo's queue: S = 1, M = 2 N.

    Args:
        queries: `(2, n, d)` unit vectors of this process.
        keys: `(K, d)` unit vectors.
        excluded: which keys are no negatives of the queries of all processes, view after view.
        shares: the division of the N samples among processes; None for one process.
        temperature: the temperature of the loss.
    """
    shift = _shifts(temperature, queries)
    if shares is None:
        return _in_one_process(queries.flatten(0, 1), keys, excluded, 1, shift)
    places = (shares.own.start, shares.total + shares.own.start)
    parts = [
        Tiled(own, keys, excluded, 1, shift, Part(0, first, 2 * shares.total, column_side=None))
        for first, own in zip(places, queries, strict=True)
    ]
    return Shared(shares, parts, earlier=[])


def runs_kernels(a: Tensor, b: Tensor) -> bool:
    """Return whether Triton kernels can run on these features: half precision, on a GPU."""
    half = a.dtype == b.dtype and a.dtype in (torch.bfloat16, torch.float16)
    return TRITON and half and a.is_cuda and b.is_cuda


def _in_one_process(
    x: Tensor, y: Tensor | None, excluded: Excluded, sides: int, shift: bool
) -> Similarities:
    # Use tiles for a smaller matrix if it is symmetric: they skip nearly half of it.
    largest = min(tiled.HALVED**2, tiled.KEPT) if y is None else tiled.KEPT
    if shift or len(x) * len(x if y is None else y) > largest:
        return Tiled(x, y, excluded, sides, shift)
    return Dense(x, y, excluded, sides)


def _shifts(temperature: Temperature, vectors: Tensor) -> bool:
    return needs_shift(temperature.per_sample, temperature.minimum, vectors.dtype)
