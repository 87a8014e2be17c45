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

# Entries up to which a matrix with shifts is plain torch, which takes five times its memory.
DENSE_SHIFTED = 2**16

__all__ = ["of_pairs", "of_queue", "of_two_views", "runs_kernels"]


def of_pairs(batch: Batch, temperature: Temperature) -> Similarities:
    """Compare the rows of either side with all of the other: S = 2, M = N + R."""
    (x, y), shift = batch.rows, _shifts(temperature, batch.rows)
    absent: Absent = partial(never_negatives, batch.ids.identities, present=batch.present)
    if batch.shares is not None:
        own, earlier = batch.own, slice(batch.fresh, None)
        blocks = [Block(0, 0, own[0], y.detach(), 1), Block(1, 0, own[1], x.detach(), 0)]
        old = [
            Block(0, batch.fresh, x[earlier], y, 1),
            Block(1, batch.fresh, y[earlier], x, 0),
        ]
        return Shared(batch.shares, blocks, old, absent, (2, len(x)), shift)
    if batch.alone and runs_kernels(*batch.features):
        from .fused import Fused

        return Fused((x, y), batch.features, batch.ids.identities, shift)
    if batch.alone and len(x) > 1 and all_different(*batch.ids.identities):
        absent = Diagonals((0,), each=1)
    return _in_one_process(x, y, absent, 2, shift)


def of_two_views(batch: Batch, temperature: Temperature) -> Similarities:
    """Compare every view with all views: S = 1, M = 2 (N + R), views of this batch first."""
    shift, size = _shifts(temperature, batch.rows), batch.fresh
    sample = batch.ids.identities[-1]  # (N + R,)
    z = batch.rows.flatten(0, 1) if batch.alone else batch.fresh_first(*batch.rows)
    both, present = batch.fresh_first(sample, sample), batch.present
    present = None if present is None else batch.fresh_first(present, present)
    absent: Absent = partial(never_negatives, [both], present=present)
    if batch.shares is not None:
        blocks = [
            Block(0, first, own, z, 0) for first, own in zip((0, size), batch.own, strict=True)
        ]
        old = [Block(0, 2 * size, z[2 * size :], z, 0)]
        return Shared(batch.shares, blocks, old, absent, (1, len(z)), shift)
    if batch.alone and runs_kernels(*batch.features):
        from .fused import Fused

        return Fused((z,), (torch.cat(batch.features),), [both], shift)
    if batch.alone and size > 1 and all_different(sample):
        absent = Diagonals((0, size, -size), each=2)
    return _in_one_process(z, None, absent, 1, shift)


def of_queue(
    queries: Tensor,
    sample: Tensor,
    queue: KeyQueue,
    shares: Shares | None,
    temperature: Temperature,
) -> Similarities:
    """Compare the queries of both views with MoCo's queue: S = 1, M = 2 N.

    Args:
        queries: `(2, n, d)` unit rows of this process.
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
    """Whether the Triton kernels take these features: half precision, on a GPU."""
    half = a.dtype == b.dtype and a.dtype in (torch.bfloat16, torch.float16)
    return TRITON and half and a.is_cuda and b.is_cuda


def _in_one_process(
    x: Tensor, y: Tensor | None, absent: Absent, sides: int, shift: bool
) -> Similarities:
    rows, columns = len(x), len(x if y is None else y)
    # A symmetric matrix is worth cutting sooner: tiles leave out nearly half of it.
    largest = DENSE_SHIFTED if shift else tiled.HALVED**2 if y is None else tiled.KEPT
    kind = Dense if rows * columns <= min(largest, tiled.KEPT) else Tiled
    return kind(x, y, absent, sides, shift)


def _shifts(temperature: Temperature, rows: Tensor) -> bool:
    return needs_shift(temperature.per_sample, temperature.minimum, rows.dtype)
