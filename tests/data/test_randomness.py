import numpy as np
import pytest

from sogclr.data.randomness import shuffled, uniforms

MANY = 20_000


def ids_of(kind: str) -> np.ndarray:
    """Consecutive, in other regular patterns (one is splitmix64's own step), or in none."""
    consecutive = np.arange(MANY, dtype=np.uint64)
    return {
        "consecutive": consecutive,
        "high bits": consecutive << np.uint64(40),
        "golden": consecutive * np.uint64(0x9E3779B97F4A7C15),
        "random": np.random.default_rng(0).integers(0, 2**64, MANY, dtype=np.uint64),
    }[kind]


def assert_uniform(counts: np.ndarray) -> None:
    """Chi-square within six standard deviations of its mean."""
    expected = counts.sum() / counts.size
    freedom = counts.size - 1
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_square - freedom) < 6 * np.sqrt(2 * freedom)


def assert_independent(a: np.ndarray, b: np.ndarray, bins: int = 8) -> None:
    cell = (a * bins).astype(int) * bins + (b * bins).astype(int)
    assert_uniform(np.bincount(cell, minlength=bins**2))


def test_form():
    numbers = uniforms(0, 0, ids_of("consecutive"), 0, 3)
    assert numbers.shape == (MANY, 3)
    assert numbers.dtype == np.float64
    assert numbers.min() >= 0
    assert numbers.max() < 1


def test_all_53_bits_of_the_mantissa_are_used():
    bits = uniforms(0, 0, ids_of("consecutive"), 0, 1)[:, 0] * 2.0**53
    whole = bits.astype(np.uint64)
    assert (whole == bits).all()
    for position in range(53):
        ones = ((whole >> np.uint64(position)) & np.uint64(1)).sum()
        assert abs(ones - MANY / 2) < 6 * np.sqrt(MANY) / 2


def test_a_row_depends_on_its_own_id_alone():
    ids = ids_of("random")[:100]
    together = uniforms(3, 5, ids, 1, 4)
    chosen = np.array([7, 7, 99, 0])
    np.testing.assert_array_equal(uniforms(3, 5, ids[chosen], 1, 4), together[chosen])
    np.testing.assert_array_equal(uniforms(3, 5, ids[50:51], 1, 4), together[50:51])


def test_a_larger_count_only_appends():
    ids = ids_of("consecutive")[:10]
    np.testing.assert_array_equal(uniforms(0, 0, ids, 0, 9)[:, :4], uniforms(0, 0, ids, 0, 4))


def test_no_ids():
    assert uniforms(0, 0, np.empty(0, np.uint64), 0, 4).shape == (0, 4)
    assert shuffled(0, 0, np.empty(0, np.uint64)).shape == (0,)


@pytest.mark.parametrize("number", [-1, 2**63, 2**64 - 1, 2**70])
def test_any_integer_is_a_seed(number):
    ids = np.array([0, 2**64 - 1], dtype=np.uint64)
    assert np.isfinite(uniforms(number, number, ids, number, 2)).all()
    assert sorted(shuffled(number, number, ids)) == [0, 1]


@pytest.mark.parametrize("kind", ["consecutive", "high bits", "golden", "random"])
def test_uniform_over_samples(kind):
    numbers = uniforms(0, 0, ids_of(kind), 0, 3)
    for column in numbers.T:
        assert_uniform(np.bincount((column * 100).astype(int), minlength=100))


@pytest.mark.parametrize("kind", ["consecutive", "high bits", "golden", "random"])
def test_independent_between_neighbouring_samples_and_columns(kind):
    numbers = uniforms(0, 0, ids_of(kind), 0, 2)
    assert_independent(numbers[:-1, 0], numbers[1:, 0])
    assert_independent(numbers[:, 0], numbers[:, 1])
    assert_independent(numbers[:-1, 1], numbers[1:, 0])


@pytest.mark.parametrize("other", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (2**32, 0, 0)])
def test_independent_between_seeds_epochs_and_streams(other):
    ids = ids_of("consecutive")
    a = uniforms(0, 0, ids, 0, 2)
    seed, epoch, stream = other
    b = uniforms(seed, epoch, ids, stream, 2)
    assert_independent(a[:, 0], b[:, 0])
    assert_independent(a[:, 1], b[:, 0])
    assert_independent(a[1:, 0], b[:-1, 0])


@pytest.mark.parametrize("varied", ["seed", "epoch", "purpose"])
def test_uniform_over_seeds_epochs_and_purposes_for_one_sample(varied):
    one = np.array([12], dtype=np.uint64)
    fixed = {"seed": 0, "epoch": 0, "purpose": 0}
    rows = [uniforms(ids=one, count=1, **{**fixed, varied: i})[0, 0] for i in range(4000)]
    numbers = np.array(rows)
    assert_uniform(np.bincount((numbers * 20).astype(int), minlength=20))
    assert_independent(numbers[:-1], numbers[1:], bins=5)


def test_seed_epoch_and_stream_are_not_interchangeable():
    ids = ids_of("consecutive")[:5]
    permuted = [(1, 2, 3), (1, 3, 2), (2, 1, 3), (2, 3, 1), (3, 1, 2), (3, 2, 1)]
    rows = [uniforms(seed, epoch, ids, stream, 1)[:, 0] for seed, epoch, stream in permuted]
    assert len(np.unique(rows)) == 6 * 5


@pytest.mark.parametrize("kind", ["consecutive", "high bits", "golden", "random"])
def test_shuffled_is_a_permutation(kind):
    order = shuffled(0, 0, ids_of(kind))
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(MANY))


def test_order_follows_the_ids_and_not_their_rows():
    ids = ids_of("random")
    turned = ids[::-1]
    np.testing.assert_array_equal(turned[shuffled(0, 0, turned)], ids[shuffled(0, 0, ids)])


def test_samples_that_stay_keep_their_relative_order():
    ids = ids_of("random")
    some = np.sort(np.random.default_rng(1).permutation(MANY)[: MANY // 3])
    order_of_all = ids[shuffled(4, 2, ids)]
    still_there = np.isin(order_of_all, ids[some])
    np.testing.assert_array_equal(order_of_all[still_there], ids[some][shuffled(4, 2, ids[some])])


def test_equal_ids_stay_in_their_order():
    ids = np.array([5, 9, 5, 5, 9], dtype=np.uint64)
    order = shuffled(0, 0, ids).tolist()
    assert [row for row in order if ids[row] == 5] == [0, 2, 3]
    assert [row for row in order if ids[row] == 9] == [1, 4]


def test_every_epoch_and_seed_has_its_own_order():
    ids = ids_of("consecutive")
    first = np.argsort(shuffled(0, 0, ids)) / MANY
    assert_independent(first, np.argsort(shuffled(0, 1, ids)) / MANY)
    assert_independent(first, np.argsort(shuffled(1, 0, ids)) / MANY)


def test_order_is_not_that_of_the_views_numbers():
    ids = ids_of("consecutive")
    position = np.argsort(shuffled(0, 0, ids)) / MANY
    assert_independent(position, uniforms(0, 0, ids, 0, 1)[:, 0])


def test_all_orders_are_equally_likely():
    ids = np.arange(4, dtype=np.uint64)
    orders = [tuple(shuffled(0, epoch, ids)) for epoch in range(4800)]
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert_uniform(counts)
