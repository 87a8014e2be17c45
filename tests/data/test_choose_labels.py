"""Labels are chosen by class, seed and id: nothing else decides which images are trained on."""

import numpy as np
import pytest

from sogclr.data.choose_labels import choose_of_each_class, hold_out

RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 2**63, 300).astype(np.uint64)
LABELS = RNG.choice(4, 300, p=[0.6, 0.3, 0.09, 0.01])
ROWS = np.flatnonzero(RNG.random(300) < 0.8)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 1.0])
def test_each_class_gives_its_share_and_at_least_one(share):
    chosen = choose_of_each_class(IDS, LABELS, ROWS, share, seed=3)
    assert set(chosen) <= set(ROWS)
    for label in np.unique(LABELS[ROWS]):
        there = (LABELS[ROWS] == label).sum()
        assert (LABELS[chosen] == label).sum() == max(1, round(share * there))


def test_a_larger_share_includes_a_smaller_one():
    small, large = (choose_of_each_class(IDS, LABELS, ROWS, share, 3) for share in (0.1, 0.4))
    assert set(small) < set(large)


def test_the_order_of_the_data_plays_no_part_and_the_seed_does():
    order = RNG.permutation(300)
    places = np.flatnonzero(np.isin(order, ROWS))
    shuffled = choose_of_each_class(IDS[order], LABELS[order], places, 0.2, seed=3)
    chosen = choose_of_each_class(IDS, LABELS, ROWS, 0.2, seed=3)
    assert set(IDS[order][shuffled]) == set(IDS[chosen])
    assert set(chosen) != set(choose_of_each_class(IDS, LABELS, ROWS, 0.2, seed=4))


def test_a_fifth_of_each_class_is_held_out_and_never_trained_on():
    kept, tested = hold_out(IDS, LABELS, ROWS)
    assert sorted([*kept, *tested]) == ROWS.tolist()
    for label in np.unique(LABELS[ROWS]):
        there = (LABELS[ROWS] == label).sum()
        expected = 0 if there == 1 else max(1, round(there / 5))
        assert (LABELS[tested] == label).sum() == expected


def test_the_only_image_of_a_class_is_trained_on():
    kept, tested = hold_out(IDS[:3], np.array([0, 0, 1]), np.arange(3))
    assert 2 in kept
    assert len(tested) == 1
