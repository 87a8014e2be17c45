"""Keys and table rows for samples without an index, such as those of a stream.

A key is a 64-bit hash of a sample's name. Hashing the key again gives a row of a table of any size,
so no list of samples is needed. Some samples then share a row, and its normalizer is their average.
Pass the keys to the loss as `sample_key`, so that it can tell these samples apart.
"""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from ..losses.sample_ids import check_integers
from .randomness import stable_id

__all__ = ["collision_rate", "hashed_rows", "stable_keys"]

# splitmix64 as in `sogclr.data.randomness`, in signed numbers, whose products overflow equally.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


def stable_keys(names: Iterable[str]) -> Tensor:
    """Hash names to keys, equally in every process and epoch.

    Args:
        names: names of B samples that do not depend on where a sample is stored, such as
            webdataset's `__key__` or a caption's text.

    Returns:
        `(B,)` int64, of either sign. Among a billion names, any two have the same key with a
        probability of 3 %.
    """
    ids = np.array([stable_id(name) for name in names], dtype=np.uint64)
    return torch.from_numpy(ids.view(np.int64))


def hashed_rows(keys: Tensor, table_rows: int) -> Tensor:
    """Hash keys to rows of a table, uniformly; equal keys have equal rows.

    Keys may be hashes or consecutive numbers, because every bit of a key affects the row. Nothing
    is copied from the device to the host.

    Args:
        keys: `(...)` integers, on any device.
        table_rows: number of rows, the `num_samples` of a loss. See `collision_rate`.

    Returns:
        `(...)` int64 in [0, table_rows), on the device of the keys.

    Raises:
        ValueError: table_rows < 1.
        TypeError: the keys are not integers.

    Example:
        >>> hashed_rows(torch.tensor([1, 2, 1]), table_rows=1000)
        tensor([232,  55, 232])
    """
    _check("table_rows", table_rows)
    check_integers(keys, "key")
    bits = keys.to(torch.int64) + _GOLDEN
    bits = (bits ^ _shifted(bits, 30)) * _MIX_1
    bits = (bits ^ _shifted(bits, 27)) * _MIX_2
    bits = bits ^ _shifted(bits, 31)
    return _shifted(bits, 1) % table_rows


def collision_rate(samples: int, table_rows: int) -> float:
    """Return the expected share of samples that share their row with another sample.

    That is 1 - (1 - 1/m)^(n-1), the probability that any of the n - 1 other samples gets the same
    one of m rows: 10 % with ten rows per sample, 63 % with one row per sample.

    Args:
        samples: number of samples, n.
        table_rows: number of rows, m.

    Raises:
        ValueError: either < 1.
    """
    _check("samples", samples)
    _check("table_rows", table_rows)
    if table_rows == 1:
        return float(samples > 1)
    return -math.expm1((samples - 1) * math.log1p(-1 / table_rows))


def _shifted(bits: Tensor, count: int) -> Tensor:
    """Shift bits to the right, and fill with zeros from the left."""
    return (bits >> count) & ((1 << (64 - count)) - 1)


def _check(name: str, number: int) -> None:
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {number}")
