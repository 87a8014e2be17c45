"""What a loss's gradient by an encoder's parameters is on average over batches, and its bias.

The encoder is frozen. So the mean gradient by its outputs is collected over all batches and taken
through it once: exact gradients by all parameters at the price of those by the features.

The error of a mean over batches is bias plus noise. The squared bias is therefore the mean product
of the errors of two *different* runs, in which noise cancels; its standard error is the jackknife's
over runs.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from sogclr.losses.objective import two_view_objective


class Batch(NamedTuple):
    """What a loss may want to know of a step."""

    view1: Tensor  # (B, d)
    view2: Tensor  # (B, d)
    sample: Tensor  # (B,)
    views: tuple[Tensor, Tensor]  # (B,) each, which stored augmentation a view is
    epoch: int


Loss = Callable[[Batch], Tensor]


class Problem:
    """Stored augmentations and a frozen encoder: what gradients are measured on.

    Args:
        encoder: maps `(..., p)` to `(..., d)`.
        images: `(n, V, p)`, all views of all samples.
        temperature: tau.
    """

    def __init__(self, encoder: nn.Module, images: Tensor, temperature: float) -> None:
        self.temperature = temperature
        self.parameters = list(encoder.parameters())
        self.outputs: Tensor = encoder(images)  # (n, V, d), with its graph
        self.features = self.outputs.detach()

    def through_encoder(self, gradient: Tensor) -> Tensor:
        """A gradient by all features `(n, V, d)` to one by all parameters `(P,)`."""
        parts = torch.autograd.grad(self.outputs, self.parameters, gradient, retain_graph=True)
        return torch.cat([part.flatten() for part in parts])

    def exact(self, objective: Literal["v1", "v2"]) -> Tensor:
        """The gradient of the global objective, `(P,)`."""
        leaf = self.features.clone().requires_grad_()
        value = two_view_objective(leaf, self.temperature, objective)
        return self.through_encoder(torch.autograd.grad(value, leaf)[0])

    def mean_gradient(self, loss: Loss, batch: int, burn_in: int, passes: int, seed: int) -> Tensor:
        """What the gradient of `loss` is on average, `(P,)`.

        Each pass visits all samples in a new order, each with two of its views.

        Args:
            loss: called at every step.
            batch: samples a step.
            burn_in: passes whose gradients do not count; tables fill meanwhile.
            passes: that do.
            seed: of the order and the views.
        """
        generator = torch.Generator().manual_seed(seed)
        n, views, _ = self.features.shape
        total = torch.zeros_like(self.features)
        for epoch in range(burn_in + passes):
            drawn = torch.rand(n, views, generator=generator).argsort(dim=1)[:, :2].T  # (2, n)
            for sample in torch.randperm(n, generator=generator).split(batch):
                view = drawn[:, sample]  # (2, B)
                leaf = self.features[sample, view].requires_grad_()  # (2, B, d)
                value = loss(Batch(leaf[0], leaf[1], sample, (view[0], view[1]), epoch))
                if epoch >= burn_in:
                    (gradient,) = torch.autograd.grad(value * (len(sample) / n), leaf)
                    total[sample, view] += gradient
        return self.through_encoder(total / passes)


class Bias(NamedTuple):
    """A relative bias and its range; and the square, which alone is free of bias itself."""

    value: float
    low: float
    high: float
    squared: float
    squared_error: float


def relative_bias(gradients: Tensor, exact: Tensor) -> Bias:
    """|E gradient - exact| / |exact|, without the noise of the gradients.

    Args:
        gradients: `(R, P)`, of independent runs, R >= 3.
        exact: `(P,)`.
    """
    products = (gradients - exact) @ (gradients - exact).T / exact.square().sum()  # (R, R)
    products.fill_diagonal_(0)  # where noise meets itself
    runs, total = len(products), products.sum()
    without = (total - 2 * products.sum(dim=1)) / ((runs - 1) * (runs - 2))  # each run left out
    error = math.sqrt((runs - 1) / runs * float((without - without.mean()).square().sum()))
    squared = float(total) / (runs * (runs - 1))
    low, value, high = (
        math.sqrt(max(0.0, square))
        for square in (squared - 2 * error, squared, squared + 2 * error)
    )
    return Bias(value, low, high, squared, error)
