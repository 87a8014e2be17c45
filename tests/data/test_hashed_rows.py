"""Keys of samples without a number, and their rows in a table of a given size."""

import itertools

import pytest
import torch

import sogclr
from sogclr.data.randomness import stable_id

WORD = 2**64


def splitmix(key):
    """As published, with numbers that do not wrap around by themselves."""
    bits = (key + 0x9E3779B97F4A7C15) % WORD
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) % WORD
    return bits ^ (bits >> 31)


@pytest.mark.parametrize("table_rows", [1, 7, 1024, 5_000_000_001])
def test_rows_are_published_hashes_of_the_keys(table_rows):
    keys = [0, 1, 2, -1, 2**63 - 1, -(2**63), 2**32, *(stable_id(f"{i}") - 2**63 for i in range(9))]
    expected = [(splitmix(key) >> 1) % table_rows for key in keys]
    assert sogclr.hashed_rows(torch.tensor(keys), table_rows).tolist() == expected
    # Unsigned numbers of the same 64 bits are the same keys.
    unsigned = torch.tensor([key % WORD for key in keys], dtype=torch.uint64)
    assert sogclr.hashed_rows(unsigned, table_rows).tolist() == expected


@pytest.mark.parametrize("stride", [1, 4096, 2**40], ids=["counted", "low bits", "high bits"])
@pytest.mark.parametrize("table_rows", [30_000, 2**15])
def test_as_many_share_a_row_as_are_expected(stride, table_rows):
    samples = 20_000
    rows = sogclr.hashed_rows(torch.arange(samples) * stride, table_rows)
    _, where, counts = rows.unique(return_inverse=True, return_counts=True)
    found = (counts[where] > 1).double().mean().item()
    # Of 20,000 draws the standard deviation is about 0.004.
    assert found == pytest.approx(sogclr.collision_rate(samples, table_rows), abs=0.02)


@pytest.mark.parametrize(
    ("samples", "table_rows"), [(1, 4), (2, 4), (4, 3), (5, 2), (3, 1), (1, 1)]
)
def test_the_share_is_that_over_all_ways_to_place_samples(samples, table_rows):
    ways = list(itertools.product(range(table_rows), repeat=samples))
    share = sum(way[0] in way[1:] for way in ways) / len(ways)
    assert sogclr.collision_rate(samples, table_rows) == pytest.approx(share, rel=1e-12)


def test_a_small_share_is_exact():
    # 1 - (1 - 1e-15) would be off by a tenth.
    assert sogclr.collision_rate(2, 10**15) == pytest.approx(1e-15, rel=1e-9)


def test_keys_are_the_bits_of_stable_ids():
    names = [f"cat/{i:04}" for i in range(50)]
    keys = sogclr.stable_keys(iter(names))
    assert keys.dtype == torch.int64
    assert [key % WORD for key in keys.tolist()] == [stable_id(name) for name in names]
    assert sogclr.stable_keys([]).shape == (0,)


def test_nothing_is_read_back():
    # On the meta device there is nothing to read.
    rows = sogclr.hashed_rows(torch.zeros(3, 2, dtype=torch.int64, device="meta"), 10)
    assert (rows.shape, rows.dtype, rows.device.type) == ((3, 2), torch.int64, "meta")


def test_what_cannot_be_is_refused():
    keys = torch.arange(3)
    with pytest.raises(ValueError, match="table_rows must be at least 1, got 0"):
        sogclr.hashed_rows(keys, 0)
    with pytest.raises(TypeError, match=r"keys must be integers, got torch\.float64"):
        sogclr.hashed_rows(keys.double(), 5)
    with pytest.raises(ValueError, match="table_rows must be at least 1, got -1"):
        sogclr.collision_rate(5, -1)
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        sogclr.collision_rate(0, 5)
