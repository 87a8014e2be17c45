"""The gradient of a loss, as one node of the autograd graph.

A loss depends on the features through two numbers of each anchor: the log-sum-exp over its
negatives and the similarity to its positive. The derivatives by these two numbers give the gradient
by the features. There is one node, since at a batch of 64 a node costs as much as its arithmetic.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from . import torch_versions
from .backends.similarities import Similarities
from .inputs import Features
from .temperature import Tau

__all__ = ["Derivatives", "with_gradient", "with_gradient_function"]

Gradient: TypeAlias = Callable[[Tensor], tuple[Tensor | None, ...]]


class Derivatives(NamedTuple):
    """The derivatives of the losses of M anchors on S sides.

    Attributes:
        weight: `(S, M)` derivative by `tau * log_sum`, see `LogSumExp`.
        by_positive: `(S, M)` derivative by the similarity to the positive; or a number or scalar
            tensor, equal for all anchors.
        by_tau: `(S, M)` derivative by tau; None if tau is constant.
    """

    weight: Tensor
    by_positive: Tensor | float
    by_tau: Tensor | None

    def divide(self, tau: Tau) -> "Derivatives":
        """Divide all derivatives by tau."""
        by_tau = None if self.by_tau is None else self.by_tau / tau
        return Derivatives(self.weight / tau, self.by_positive / tau, by_tau)

    def of_batch(self, fresh: int) -> "Derivatives":
        """Drop all but the weights of anchors of earlier batches, those after the first `fresh`."""
        weight, by_positive, by_tau = self
        if isinstance(by_positive, Tensor) and by_positive.ndim:
            by_positive = by_positive[:, :fresh]
        return Derivatives(weight, by_positive, None if by_tau is None else by_tau[:, :fresh])

    def without_negatives(self, empty: Tensor) -> "Derivatives":
        """Set derivatives where `empty` `(S, M)`, for anchors without negatives: F is -positive."""
        weight, by_positive, by_tau = self
        if isinstance(by_positive, Tensor):
            by_positive = by_positive.masked_fill(empty, -1)
        by_tau = None if by_tau is None else by_tau.masked_fill(empty, 0)
        return Derivatives(weight.masked_fill(empty, 0), by_positive, by_tau)


def with_gradient(
    loss: Tensor,
    derivatives: Derivatives,
    features: Features,
    similarities: Similarities,
    log_sum: Tensor,
    tau: Tau,
) -> Tensor:
    """Compute the mean of losses, with its gradient by features and tau.

    Args:
        loss: `(S, F)` losses of the F anchors of this batch on each side, no graph.
        derivatives: derivatives of these losses; `weight`, `(S, M)`, also of earlier anchors.
        features: the features that get the gradient.
        similarities: the backend whose `sums` returned `log_sum`, `(S, M)`.
        tau: a number or a tensor that broadcasts to `(S, M)`; with graph if it is learned.
    """
    weight, by_positive, by_tau = derivatives
    inverse_count = 1 / loss.numel()

    def gradient(upstream: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        by_loss = upstream * inverse_count
        by_unit = similarities.gradients(log_sum, weight * by_loss)
        by_a, by_b = features.gradient(by_unit, by_positive * by_loss)
        if by_tau is None or not (isinstance(tau, Tensor) and tau.requires_grad):
            return by_a, by_b, None
        return by_a, by_b, (by_tau * by_loss).sum_to_size(tau.shape)

    return with_gradient_function(loss.mean(), gradient, *features.given, tau)


def with_gradient_function(value: Tensor, gradient: Gradient, *inputs: Tensor | float) -> Tensor:
    """Attach a gradient by inputs to a value that has no graph.

    `gradient` is a function from the derivative by the result to the gradient by each input, None
    for a number.
    """
    result: Tensor = _WithGradient.apply(value, gradient, *inputs)
    return result


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gradient: Gradient, *inputs: Tensor | float) -> Tensor:
        ctx.gradient = gradient
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            gradients = ctx.gradient(upstream)
        # Grad mode is on in a backward pass only with create_graph=True. Without this node, a
        # penalty on the gradient would have no effect, and raise no error.
        if torch.is_grad_enabled() and not torch_versions.is_compiling():
            gradients = [
                None if each is None else _NoSecondDerivative.apply(each.requires_grad_())
                for each in gradients
            ]
        return None, None, *gradients


class _NoSecondDerivative(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise RuntimeError(
            "the losses of sogclr have first derivatives only (they estimate a gradient, and their "
            "value is not its antiderivative): take a penalty on gradients of another function"
        )
