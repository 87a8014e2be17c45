"""Samples of a stream, which have no number: keys of theirs, and rows of a table for these.

A key is 64 bits of a sample's name. Rows are found by hashing it into a table of a given size, so
that no list of samples has to be kept; some samples then share a row, and with it a normalizer, the
average of theirs. Who is who is told by the keys: see `key` of `sogclr.GlobalContrastiveLoss`.
"""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from ..losses.sample_ids import check_integers
from .randomness import stable_id

__all__ = ["collision_rate", "hashed_rows", "stable_keys"]

# splitmix64, as in `sogclr.data.randomness`; as signed numbers, whose products wrap around alike.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


def stable_keys(names: Iterable[str]) -> Tensor:
    """Keys of samples, the same in every process and epoch.

    Args:
        names: of the samples, B of them; what the sample is known by wherever it lies, such as
            webdataset's `__key__`, or a caption's text.

    Returns:
        `(B,)` int64, of either sign. Of a billion names, two have the same key with a chance
        of 3 %.
    """
    ids = np.array([stable_id(name) for name in names], dtype=np.uint64)
    return torch.from_numpy(ids.view(np.int64))


def hashed_rows(keys: Tensor, table_rows: int) -> Tensor:
    """The row of each key, as a number drawn evenly; equal keys have equal rows.

    Keys may be any numbers, hashes or counted ones: each of their bits decides on the row. Nothing
    is read back from the device.

    Args:
        keys: `(...)` integers, on any device.
        table_rows: how many rows there are, the `num_samples` of a loss. See `collision_rate`.

    Returns:
        `(...)` int64 in [0, table_rows), where the keys are.

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
    """The share of samples that are expected to have their row in common with others.

    1 - (1 - 1/m)^(n-1): the chance that one of the n - 1 others has the same of m rows. With ten
    rows a sample it is 10 %, with one row a sample 63 %.

    Args:
        samples: n, how many there are.
        table_rows: m.

    Raises:
        ValueError: either < 1.
    """
    _check("samples", samples)
    _check("table_rows", table_rows)
    if table_rows == 1:
        return float(samples > 1)
    return -math.expm1((samples - 1) * math.log1p(-1 / table_rows))


def _shifted(bits: Tensor, count: int) -> Tensor:
    """To the right, with zeros from the left."""
    return (bits >> count) & ((1 << (64 - count)) - 1)


def _check(name: str, number: int) -> None:
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {number}")
