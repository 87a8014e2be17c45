"""Hashes: names to sample ids, and (seed, epoch, sample id) to every random number of a run.

No generator keeps a state. In a given epoch a sample therefore has the same views, and any two
samples have the same order. That does not depend on the worker, the rest of the batch, a resumed
run or a data set that has grown.
"""

import os
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

__all__ = ["shuffled", "stable_id", "uniforms"]

# Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014): splitmix64.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_MASK = 2**64 - 1

# The purpose of the order; callers number their purposes from 0 and never reach it.
_ORDER = _MASK


def stable_id(name: str) -> int:
    """Hash a name to 64 bits, equally on every machine and in every process."""
    return int.from_bytes(blake2b(os.fsencode(name), digest_size=8).digest(), "little")


def uniforms(
    seed: int, epoch: int, ids: NDArray[np.uint64], purpose: int, count: int
) -> NDArray[np.float64]:
    """Draw `count` independent uniform numbers for each sample.

    Args:
        seed: the run's seed, any integer; it is taken modulo 2^64.
        epoch: the epoch, from 0.
        ids: `(B,)` uint64 sample ids.
        purpose: number of the purpose (view 0, view 1, ...), from 0. Numbers for different purposes
            are independent.
        count: number of numbers per sample. A larger count only appends numbers.

    Returns:
        `(B, count)` float64 in [0, 1), multiples of 2^-53. The numbers of a sample depend on seed,
        epoch, purpose and its id alone.
    """
    bits = _bits(seed, epoch, ids, purpose, count)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def shuffled(seed: int, epoch: int, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Shuffle the rows of an epoch: sort them by a hash of their ids.

    Adding samples to the data set or removing some keeps the relative order of the others. Rows
    with the same id are neighbours and keep their order.

    Args:
        seed: the run's seed.
        epoch: the epoch, from 0.
        ids: `(n,)` uint64 sample ids.

    Returns:
        `(n,)` int64, a permutation of 0 ... n-1.
    """
    keys = _bits(seed, epoch, ids, _ORDER, 1)[:, 0]
    return np.argsort(keys, kind="stable").astype(np.int64, copy=False)


def _bits(
    seed: int, epoch: int, ids: NDArray[np.uint64], purpose: int, count: int
) -> NDArray[np.uint64]:
    """Return `(B, count)` hashes: one splitmix64 sequence per sample."""
    # An array instead of a scalar: numpy warns when scalars overflow, but not when arrays do.
    key = np.zeros(1, dtype=np.uint64)
    for part in (seed, epoch, purpose):
        key = _absorb(key, np.uint64(part & _MASK))
    steps = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    return _mix(_absorb(key, ids)[:, None] + steps)  # (B, count)


def _absorb(key: NDArray[np.uint64], part: np.uint64 | NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash `part` into `key`; with the same key, different parts never collide."""
    return _mix((key + _GOLDEN) ^ part)


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Apply splitmix64's finalizer, a bijection: flipping one bit flips about half of the bits."""
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX_1
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX_2
    return bits ^ (bits >> np.uint64(31))
