import numpy as np

from sogclr.evaluation.linear import linear_accuracy

RNG = np.random.default_rng(0)


def _blobs(n, spread, classes=3):
    labels = RNG.integers(0, classes, n)
    centers = np.eye(classes, 6)[labels] * 3
    return (centers + spread * RNG.standard_normal((n, 6))).astype(np.float32), labels


def test_separable_classes_are_separated():
    x, y = _blobs(200, 0.3)
    other, truth = _blobs(100, 0.3)
    assert linear_accuracy(x, y, other, truth) == 1.0
    assert linear_accuracy(x, y) == 1.0


def test_random_labels_are_at_chance():
    x, _ = _blobs(600, 1.0)
    y = RNG.integers(0, 3, 600)
    assert 0.2 < linear_accuracy(x, y) < 0.45


def test_an_affine_change_of_a_feature_changes_nothing():
    x, y = _blobs(300, 1.5)
    other, truth = _blobs(200, 1.5)
    scale, shift = np.float32([100, 0.01, 1, 5, 1, 1]), np.float32([3, 0, -7, 0, 0, 1])
    a = linear_accuracy(x, y, other, truth)
    b = linear_accuracy(x * scale + shift, y, other * scale + shift, truth)
    assert abs(a - b) <= 0.01


def test_one_class_and_tiny_classes_work():
    x, _ = _blobs(20, 1.0)
    assert linear_accuracy(x, np.zeros(20, dtype=int)) == 1.0
    assert 0 <= linear_accuracy(x, np.arange(20) // 2) <= 1
