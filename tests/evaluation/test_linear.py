import numpy as np
import pytest

from sogclr.evaluation.linear import fit_linear, linear_accuracy, linear_predict

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


@pytest.mark.parametrize("classes", [2, 3])
def test_weights_and_biases_predict_as_the_classifier_that_was_fitted(classes):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, 200) * 2  # the classes between have no sample
    centres = rng.normal(size=(5, 6))
    features = 5 + 3 * (centres[labels] + rng.normal(size=(200, 6)))
    weights, biases = fit_linear(features, labels, 5)
    test = 5 + 3 * rng.normal(size=(500, 6))
    predicted = (test @ weights.T + biases).argmax(axis=1)
    assert np.array_equal(predicted, linear_predict(features, labels, test))
