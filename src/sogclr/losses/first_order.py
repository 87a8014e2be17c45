"""Refuse second derivatives of the losses, which would be 0 in silence."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["first_order_only"]

Backward = Callable[..., tuple[Tensor | None, ...]]


def first_order_only(backward: Backward) -> Backward:
    """Decorate the backward of a function whose gradient is computed without a graph.

    torch's `once_differentiable` raises only if the incoming gradient has a graph. The gradient of
    a loss starts from a constant 1, so a penalty on gradients would have no effect, and no error.
    The decorated backward returns gradients that raise when they are differentiated.
    """
    without_graph = once_differentiable(backward)

    @wraps(backward)
    def decorated(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        result = without_graph(ctx, *gradients)
        # Grad mode is on in a backward pass only with create_graph=True.
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return tuple(
                None if each is None else _NoSecondDerivative.apply(each.requires_grad_())
                for each in result
            )
        return result

    return decorated


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
