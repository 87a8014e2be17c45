"""The mean gradient of a loss by an encoder's parameters over batches, and its bias.

The encoder is frozen. The gradient by its outputs can therefore be averaged over all batches first
and taken through the encoder once. The result is exact and costs only gradients by the features.

The error of a mean over batches is bias plus noise. The squared bias is estimated by the mean
product of the errors of two *different* runs, in which the noise cancels. Its standard error is
the jackknife's over runs.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from sogclr.losses.objective import two_view_objective


class Batch(NamedTuple):
    """The data of a step."""

    view1: Tensor  # (B, d)
    view2: Tensor  # (B, d)
    sample: Tensor  # (B,)
    views: tuple[Tensor, Tensor]  # (B,) each, number of the stored augmentation
    epoch: int


Loss = Callable[[Batch], Tensor]


class Problem:
    """Stored augmentations of all samples and a frozen encoder.

    Args:
        encoder: maps `(..., p)` to `(..., d)`.
        images: `(n, V, p)`, V views of n samples.
        temperature: tau.
    """

    def __init__(self, encoder: nn.Module, images: Tensor, temperature: float) -> None:
        self.temperature = temperature
        self.parameters = list(encoder.parameters())
        self.outputs: Tensor = encoder(images)  # (n, V, d), with their graph
        self.features = self.outputs.detach()

    def through_encoder(self, gradient: Tensor) -> Tensor:
        """Turn a gradient by all features `(n, V, d)` into one by all parameters `(P,)`."""
        parts = torch.autograd.grad(self.outputs, self.parameters, gradient, retain_graph=True)
        return torch.cat([part.flatten() for part in parts])

    def exact(self, objective: Literal["v1", "v2"]) -> Tensor:
        """Compute the gradient of the global objective by the parameters, `(P,)`."""
        leaf = self.features.clone().requires_grad_()
        value = two_view_objective(leaf, self.temperature, objective)
        return self.through_encoder(torch.autograd.grad(value, leaf)[0])

    def mean_gradient(self, loss: Loss, batch: int, burn_in: int, passes: int, seed: int) -> Tensor:
        """Average the gradient of a loss over batches, `(P,)`.

        Each pass visits all samples in a new order, each sample with two of its views.

        Args:
            loss: the loss; it is called at every step.
            batch: samples in a batch.
            burn_in: passes before the average begins, which fill the table.
            passes: passes that are averaged.
            seed: seed of the order and the views.
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
    """A relative bias, its range of two standard errors, and its square, an unbiased estimate."""

    value: float
    low: float
    high: float
    squared: float
    squared_error: float


def relative_bias(gradients: Tensor, exact: Tensor) -> Bias:
    """Estimate |E gradient - exact| / |exact|, without the noise of the gradients.

    Args:
        gradients: `(R, P)`, gradients of R >= 3 independent runs.
        exact: `(P,)`, the exact gradient.
    """
    products = (gradients - exact) @ (gradients - exact).T / exact.square().sum()  # (R, R)
    products.fill_diagonal_(0)  # products of one run with itself contain its noise
    runs, total = len(products), products.sum()
    without = (total - 2 * products.sum(dim=1)) / ((runs - 1) * (runs - 2))  # each run left out
    error = math.sqrt((runs - 1) / runs * float((without - without.mean()).square().sum()))
    squared = float(total) / (runs * (runs - 1))
    low, value, high = (
        math.sqrt(max(0.0, square))
        for square in (squared - 2 * error, squared, squared + 2 * error)
    )
    return Bias(value, low, high, squared, error)
