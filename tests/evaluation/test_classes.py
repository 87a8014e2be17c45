"""Shares by class, against loops."""

import numpy as np
import pytest

from sogclr.evaluation.classes import majority_share, per_class, standard_error


def test_shares_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 200)
    labels[labels == 3] = 4  # a class without samples
    correct = rng.random(200) < 0.6
    names = ["a", "b", "c", "d", "e"]
    found = per_class(correct, labels, names)
    expected = {}
    for label, name in enumerate(names):
        own = [bool(right) for right, of in zip(correct, labels, strict=True) if of == label]
        if own:
            expected[name] = sum(own) / len(own)
    assert found == pytest.approx(expected)
    assert "d" not in found
    largest = max(sum(labels == label) for label in range(5))
    assert majority_share(labels) == pytest.approx(largest / 200)


def test_the_standard_error_is_the_spread_of_many_samples():
    shares = np.random.default_rng(0).binomial(400, 0.3, 20_000) / 400
    assert standard_error(0.3, 400) == pytest.approx(shares.std(), rel=0.02)
