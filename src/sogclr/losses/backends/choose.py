"""Choose the backend: by the number of processes, the device and precision, and the size."""

from functools import partial

import torch
from torch import Tensor

from ...distributed.exchange import Shares
from ..equal_rows import TRITON, all_different
from ..inputs import Batch
from ..moco_queue import KeyQueue
from ..sample_ids import never_negatives
from ..temperature import Temperature
from . import tiled
from .dense import Dense
from .shared import Block, Shared
from .similarities import Absent, Diagonals, Similarities, needs_shift
from .tiled import Tiled

__all__ = ["of_pairs", "of_queue", "of_two_views", "runs_kernels"]


def of_pairs(batch: Batch, temperature: Temperature) -> Similarities:
    """Choose the similarities of pairs, each side with the other: S = 2, M = N + R."""
    (x, y), shift = batch.rows, _shifts(temperature, batch.rows)
    identities, fresh = batch.ids.identities, batch.fresh
    if batch.alone:
        if runs_kernels(*batch.features.given):
            from .fused import Fused

            lengths = batch.features.length.squeeze(-1).unbind()
            return Fused(batch.features.given, lengths, identities, shift)
        if len(x) > 1 and all_different(*identities):
            return _in_one_process(x, y, Diagonals((0,), each=1), 2, shift)
    absent = partial(never_negatives, identities, present=batch.present)
    if batch.shares is None:
        return _in_one_process(x, y, absent, 2, shift)
    a, b = batch.features.unit
    own = [Block(0, 0, a, y, 1), Block(1, 0, b, x, 0)]
    earlier = [Block(0, fresh, x[fresh:], y, 1), Block(1, fresh, y[fresh:], x, 0)]
    return Shared(batch.shares, own, earlier, absent, (2, len(x)), shift)


def of_two_views(batch: Batch, temperature: Temperature) -> Similarities:
    """Choose the similarities of all views with all: S = 1, M = 2 (N + R), this batch first."""
    shift, size = _shifts(temperature, batch.rows), batch.fresh
    sample, present = batch.ids.identities[-1], batch.present  # (N + R,)
    z = batch.rows.flatten(0, 1) if batch.alone else batch.fresh_first(*batch.rows)
    given = batch.features.given
    if batch.alone and not runs_kernels(*given) and size > 1 and all_different(sample):
        return _in_one_process(z, None, Diagonals((0, size, -size), each=2), 1, shift)
    samples = batch.fresh_first(sample, sample)  # (M,)
    if batch.alone and runs_kernels(*given):
        from .fused import Fused

        return Fused((torch.cat(given),), (batch.features.length.flatten(),), [samples], shift)
    present = None if present is None else batch.fresh_first(present, present)
    absent = partial(never_negatives, [samples], present=present)
    if batch.shares is None:
        return _in_one_process(z, None, absent, 1, shift)
    views = zip((0, size), batch.features.unit, strict=True)
    own = [Block(0, first, rows, z, 0) for first, rows in views]
    earlier = [Block(0, 2 * size, z[2 * size :], z, 0)]
    return Shared(batch.shares, own, earlier, absent, (1, len(z)), shift)


def of_queue(
    queries: Tensor,
    sample: Tensor,
    queue: KeyQueue,
    shares: Shares | None,
    temperature: Temperature,
) -> Similarities:
    """Choose the similarities of both views' queries with MoCo's queue: S = 1, M = 2 N.

    Args:
        queries: `(2, n, d)` unit vectors of this process.
        sample: `(2 N,)` int64, the samples of the queries of all processes, view after view.
        queue: keys that are negatives, except those of a query's own sample.
        shares: how the N samples are divided among processes; None in one process.
        temperature: of the loss.
    """
    # Copies: backward comes after the keys of this batch have replaced the oldest ones.
    keys, ids, empty = queue.keys.to(queries.dtype, copy=True), queue.ids.clone(), ~queue.filled
    shift = _shifts(temperature, queries)

    def absent(rows: slice, columns: slice) -> Tensor:
        return empty[None, columns] | (ids[None, columns] == sample[rows, None])

    if shares is None:
        return _in_one_process(queries.flatten(0, 1), keys, absent, 1, shift)
    places = (0, shares.total)
    blocks = [Block(0, first, own, keys, None) for first, own in zip(places, queries, strict=True)]
    return Shared(shares, blocks, [], absent, (1, len(sample)), shift)


def runs_kernels(a: Tensor, b: Tensor) -> bool:
    """Return whether the Triton kernels take these features: half precision, on a GPU."""
    half = a.dtype == b.dtype and a.dtype in (torch.bfloat16, torch.float16)
    return TRITON and half and a.is_cuda and b.is_cuda


def _in_one_process(
    x: Tensor, y: Tensor | None, absent: Absent, sides: int, shift: bool
) -> Similarities:
    # Cut a symmetric matrix sooner: tiles skip nearly half of it.
    largest = min(tiled.HALVED**2, tiled.KEPT) if y is None else tiled.KEPT
    if shift or len(x) * len(x if y is None else y) > largest:
        return Tiled(x, y, absent, sides, shift)
    return Dense(x, y, absent, sides)


def _shifts(temperature: Temperature, rows: Tensor) -> bool:
    return needs_shift(temperature.per_sample, temperature.minimum, rows.dtype)
