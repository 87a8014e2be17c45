"""Everything random in a run is a function of (seed, epoch, sample id), of nothing else.

No generator with a state is involved, so which worker prepares a sample, what else is in its
batch, whether the run was resumed and whether the data set has grown make no difference: in a
given epoch a sample has the same views, and any two samples stand in the same order.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["shuffled", "uniforms"]

# Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014): splitmix64.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_MASK = 2**64 - 1

# Out of reach of callers, who count their streams from 0.
_ORDER_STREAM = _MASK


def uniforms(
    seed: int, epoch: int, ids: NDArray[np.uint64], stream: int, count: int
) -> NDArray[np.float64]:
    """`count` independent uniform numbers for each sample.

    Args:
        seed: of the run. Integers are taken modulo 2^64.
        epoch: of the run.
        ids: `(B,)` uint64 sample ids.
        stream: what the numbers are for (view 0, view 1, ...), from 0; streams are independent.
        count: how many numbers a sample takes. A larger count only appends numbers.

    Returns:
        `(B, count)` float64 in [0, 1), multiples of 2^-53. A row depends on seed, epoch, stream
        and its own id alone.
    """
    bits = _bits(seed, epoch, ids, stream, count)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def shuffled(seed: int, epoch: int, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The epoch's order: row numbers sorted by a hash of each row's id.

    Samples added to or removed from the data set leave the relative order of the others as it
    was. Rows with the same id stay in their order, next to each other.

    Args:
        seed: of the run.
        epoch: of the run.
        ids: `(n,)` uint64 sample ids.

    Returns:
        `(n,)` int64, a permutation of 0 ... n-1.
    """
    keys = _bits(seed, epoch, ids, _ORDER_STREAM, 1)[:, 0]
    return np.argsort(keys, kind="stable").astype(np.int64, copy=False)


def _bits(
    seed: int, epoch: int, ids: NDArray[np.uint64], stream: int, count: int
) -> NDArray[np.uint64]:
    """`(B, count)` hashes: a splitmix64 sequence per sample, started at a hash of its key."""
    # An array of one and no scalar: numpy warns when scalars wrap around, arrays do so quietly.
    key = np.zeros(1, dtype=np.uint64)
    for part in (seed, epoch, stream):
        key = _absorb(key, np.uint64(part & _MASK))
    steps = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    return _mix(_absorb(key, ids)[:, None] + steps)  # (B, count)


def _absorb(key: NDArray[np.uint64], part: np.uint64 | NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash `part` into `key`; for one key, different parts never collide."""
    return _mix((key + _GOLDEN) ^ part)


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finalizer, a bijection in which each bit changes half of all bits."""
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX_1
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX_2
    return bits ^ (bits >> np.uint64(31))
