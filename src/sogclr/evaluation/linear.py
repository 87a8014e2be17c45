"""A linear probe: multinomial logistic regression on frozen features, by scikit-learn."""

import warnings
from typing import Any

import numpy as np

from ..common.console import track

__all__ = ["fit_linear", "linear_accuracy", "linear_predict"]

# Inverse strengths of the L2 penalty on standardized features, strongest penalty first.
INVERSE_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def linear_predict(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray | None = None, *, folds: int = 5
) -> np.ndarray:
    """Fit a linear classifier on training features and return the labels that it predicts.

    Features are standardized by the training part. The penalty is the one with the highest
    accuracy on a fifth of the training part. The classifier is then fitted on all of that part.

    Args:
        train: `(n, d)` features.
        labels: `(n,)` integers.
        test: `(m, d)` features; None to predict each sample of `train` by a classifier of the
            other parts of a cross-validation.
        folds: number of parts in the cross-validation.

    Returns:
        `(m,)` integers, or `(n,)` if `test` is None.
    """
    if test is not None:
        return _fit_and_predict(train, labels, test)
    from sklearn.model_selection import KFold, StratifiedKFold

    # Stratified folds need at least one sample of every class each.
    can_stratify = np.bincount(labels)[np.unique(labels)].min() >= folds
    splitter: Any = (StratifiedKFold if can_stratify else KFold)(
        min(folds, len(train)), shuffle=True, random_state=0
    )
    predicted = np.empty_like(labels)
    parts = list(splitter.split(train, labels))
    for fit, held_out in track(parts, "fitting linear classifiers"):
        predicted[held_out] = _fit_and_predict(train[fit], labels[fit], train[held_out])
    return predicted


def linear_accuracy(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray | None = None,
    test_labels: np.ndarray | None = None,
) -> float:
    """Return the share of samples, in [0, 1], whose label `linear_predict` finds.

    Args:
        train, train_labels, test: see `linear_predict`.
        test_labels: `(m,)` integers; None with `test`.
    """
    truth = train_labels if test_labels is None else test_labels
    return float((linear_predict(train, train_labels, test) == truth).mean())


def fit_linear(
    features: np.ndarray, labels: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the classifier of `linear_predict` and return it as weights and biases of raw features.

    Args:
        features: `(n, d)`.
        labels: `(n,)` integers, of at least two classes.
        classes: number C of classes; one without a sample is never the most probable.

    Returns:
        `(C, d)` and `(C,)` float64: logits are features @ weights.T + biases.
    """
    scaler, model = (step for _, step in _choose_and_fit(features, labels).steps)
    coefficients, intercepts = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn then stores the difference of the logits alone
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
        intercepts = np.concatenate([np.zeros_like(intercepts), intercepts])
    weights = np.zeros((classes, features.shape[1]))
    biases = np.full(classes, -1e4)
    weights[model.classes_] = coefficients / scaler.scale_
    biases[model.classes_] = intercepts - weights[model.classes_] @ scaler.mean_
    return weights, biases


def _fit_and_predict(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Fit, and return the predicted labels `(m,)`."""
    if len(np.unique(labels)) == 1:
        return np.full(len(test), labels[0])
    return _choose_and_fit(train, labels).predict(test)


def _choose_and_fit(train: np.ndarray, labels: np.ndarray) -> Any:
    """Fit with the penalty that has the highest accuracy on a fifth of the samples."""
    held_out = np.random.default_rng(0).permutation(len(train)) < len(train) // 5
    best = max(INVERSE_STRENGTHS, key=lambda c: _score(c, train, labels, held_out))
    return _fit(best, train, labels)


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
