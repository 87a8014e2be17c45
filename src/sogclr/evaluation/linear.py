"""A linear probe: multinomial logistic regression on frozen features, by scikit-learn."""

import warnings
from typing import Any

import numpy as np

__all__ = ["linear_accuracy"]

# Inverse strengths of the L2 penalty on standardized features, strongest penalty first.
INVERSE_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def linear_accuracy(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray | None = None,
    test_labels: np.ndarray | None = None,
    *,
    folds: int = 5,
) -> float:
    """Fit a linear classifier on training features and return its test accuracy.

    Features are standardized by the training part. The penalty is the one with the highest
    accuracy on a fifth of the training part. The classifier is then fitted on all of that part.

    Args:
        train: `(n, d)` features.
        train_labels: `(n,)` integers.
        test: `(m, d)` features; None for stratified cross-validation over `train`.
        test_labels: `(m,)` integers.
        folds: number of parts in the cross-validation.

    Returns:
        Accuracy in [0, 1].
    """
    if test is not None and test_labels is not None:
        return float((_fit_and_predict(train, train_labels, test) == test_labels).mean())
    from sklearn.model_selection import KFold, StratifiedKFold

    # Stratified folds need at least one sample of every class each.
    can_stratify = np.bincount(train_labels)[np.unique(train_labels)].min() >= folds
    splitter: Any = (StratifiedKFold if can_stratify else KFold)(
        min(folds, len(train)), shuffle=True, random_state=0
    )
    correct = 0
    for fit, held_out in splitter.split(train, train_labels):
        predicted = _fit_and_predict(train[fit], train_labels[fit], train[held_out])
        correct += int((predicted == train_labels[held_out]).sum())
    return correct / len(train)


def _fit_and_predict(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Choose the penalty, fit, and return the predicted labels `(m,)`."""
    if len(np.unique(labels)) == 1:
        return np.full(len(test), labels[0])
    held_out = np.random.default_rng(0).permutation(len(train)) < len(train) // 5
    best = max(INVERSE_STRENGTHS, key=lambda c: _score(c, train, labels, held_out))
    return _fit(best, train, labels).predict(test)


def _score(
    inverse_strength: float, train: np.ndarray, labels: np.ndarray, held_out: np.ndarray
) -> float:
    """Return the accuracy on the held-out samples, or 0 if no classifier can be fitted."""
    if len(np.unique(labels[~held_out])) == 1 or not held_out.any():
        return 0.0
    model = _fit(inverse_strength, train[~held_out], labels[~held_out])
    return model.score(train[held_out], labels[held_out])


def _fit(inverse_strength: float, features: np.ndarray, labels: np.ndarray) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=inverse_strength, max_iter=300))
    with warnings.catch_warnings():
        # Accuracy stops changing long before the loss has converged to its last digit.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features, labels)
