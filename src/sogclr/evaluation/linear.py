"""A linear probe: multinomial logistic regression on frozen features, through scikit-learn."""

import warnings
from typing import Any

import numpy as np

__all__ = ["linear_accuracy"]

# Inverse strengths of the L2 penalty on standardized features, weakest last.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def linear_accuracy(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray | None = None,
    test_labels: np.ndarray | None = None,
    *,
    folds: int = 5,
) -> float:
    """Test accuracy of a linear classifier whose regularization is chosen on training data.

    Features are standardized by the training part. The strength of the penalty is the one that
    does best on a held-back fifth of the training part; then all of it is fitted.

    Args:
        train: `(n, d)` features.
        train_labels: `(n,)` integers.
        test: `(m, d)` features; None for stratified cross-validation over `train`.
        test_labels: `(m,)` integers.
        folds: of the cross-validation.

    Returns:
        Accuracy in [0, 1].
    """
    if test is not None and test_labels is not None:
        return float((_predict(train, train_labels, test) == test_labels).mean())
    from sklearn.model_selection import KFold, StratifiedKFold

    # A class of a single sample cannot be in every fold.
    enough = np.bincount(train_labels)[np.unique(train_labels)].min() >= folds
    splitter: Any = (StratifiedKFold if enough else KFold)(
        min(folds, len(train)), shuffle=True, random_state=0
    )
    correct = 0
    for kept, held in splitter.split(train, train_labels):
        predicted = _predict(train[kept], train_labels[kept], train[held])
        correct += int((predicted == train_labels[held]).sum())
    return correct / len(train)


def _predict(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    if len(np.unique(labels)) == 1:
        return np.full(len(test), labels[0])
    held = np.random.default_rng(0).permutation(len(train)) < len(train) // 5
    best = max(STRENGTHS, key=lambda c: _score(c, train, labels, held))
    return _fit(best, train, labels).predict(test)


def _score(strength: float, train: np.ndarray, labels: np.ndarray, held: np.ndarray) -> float:
    if len(np.unique(labels[~held])) == 1 or not held.any():
        return 0.0
    return _fit(strength, train[~held], labels[~held]).score(train[held], labels[held])


def _fit(strength: float, features: np.ndarray, labels: np.ndarray) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))
    with warnings.catch_warnings():
        # 300 iterations settle the accuracy well before they settle the last digit of the loss.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features, labels)
