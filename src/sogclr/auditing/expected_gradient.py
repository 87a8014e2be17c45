"""The expected gradient of a loss, and its distance from an exact gradient.

An average over finitely many batches is noisy, and noise makes the length of a difference too
large. Two methods remove it:

    two halves         Two independent averages are formed. The mean product of their errors is
                       the squared bias, without the noise.
    control variate    What is averaged is the difference from a baseline: the same loss with a
                       fixed log u, on the same batches. Its expectation is known exactly, and most
                       of the noise cancels.
"""

import copy
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..losses.normalizer import InBatchNormalizer, Normalizer
from ..losses.temperature import Temperature
from .population import Population, inner, tangent

__all__ = [
    "Bias",
    "FixedNormalizer",
    "expected_gradients",
    "fill_table",
    "measure_bias",
    "train_with_fixed_temperatures",
    "with_batch_normalizers",
]

Halves = tuple[Tensor, Tensor]

# Samples of one batch share its noise, so the spread over samples underestimates the noise.
SHARED_NOISE = 1.25


@dataclass(frozen=True)
class Bias:
    """The length of the difference between an expected and an exact gradient.

    Attributes:
        relative: the length divided by that of the exact gradient; 0 if its measured square is
            negative.
        absolute: the length itself.
        uncertainty: one standard error of `relative`.
        at_most: what `relative` would be if its square were two standard errors larger.
        seen: whether the square is more than two standard errors above 0.
    """

    relative: float
    absolute: float
    uncertainty: float
    at_most: float
    seen: bool


def measure_bias(estimated: Halves, exact: Halves, total: Tensor) -> Bias:
    """Measure the bias from two estimates with independent errors.

    Args:
        estimated: two tensors `(S, n, V, d)`, the normalizer part of the expected gradient.
        exact: the normalizer part of the exact gradient, to compare with each estimate.
        total: `(S, n, V, d)`, the exact gradient including alignment; its length is the unit.
    """
    first, second = (e - x for e, x in zip(estimated, exact, strict=True))
    products = inner(first, second).double().sum(dim=(0, 2))  # (n,), one term for each sample
    length = float(total.double().square().sum().sqrt())
    square = float(products.sum()) / length**2
    error = SHARED_NOISE * float(products.std()) * math.sqrt(len(products)) / length**2
    relative = math.sqrt(max(square, 0.0))
    # d(sqrt(x)) = dx / (2 sqrt(x)) holds only if x is larger than its own error.
    below_noise = relative <= math.sqrt(error) / 2
    return Bias(
        relative,
        relative * length,
        uncertainty=math.sqrt(error) if below_noise else error / (2 * relative),
        at_most=math.sqrt(max(square, 0.0) + 2 * error),
        seen=square > 2 * error,
    )


def expected_gradients(
    loss: Any,
    population: Population,
    batch_size: int,
    passes: int,
    generator: torch.Generator,
    *,
    log_u: Tensor,
    baseline_gradient: Tensor,
) -> Halves:
    """Estimate the expected gradient of the normalizer part of a loss, twice.

    Every pass starts from the current table: the expectation is that of the next step.

    Args:
        loss: a loss of two views or of pairs; its table changes only if it is in training mode.
        population: the data.
        batch_size: samples in a batch; an incomplete last batch of a pass is not used.
        passes: number of passes over the data for each of both estimates.
        generator: draws the order of samples and their views.
        log_u: `(S, n, V)`, log u of the baseline. The closer it is to the log u that the loss
            uses, the less noise remains.
        baseline_gradient: `(S, n, V, d)`, the exact expectation of the baseline, from
            `Population.normalizer_gradients`.

    Returns:
        Two independent estimates, `(S, n, V, d)` each.
    """
    state = copy.deepcopy(loss.state_dict())
    baseline = with_batch_normalizers(loss, positive=False)
    fixed = [FixedNormalizer() for _ in population.features]
    _replace_normalizers(baseline, fixed)
    halves = []
    for _ in range(2):
        total = torch.zeros_like(population.features)
        for _ in range(passes):
            batches = len(population) // batch_size
            drawn = _draw_batches(population, batch_size, generator)
            for batch in itertools.islice(drawn, batches):
                batch.set_log_u(fixed, log_u)
                pair = [z.requires_grad_() for z in batch.features()]
                difference = (batch.value(loss, pair) - batch.value(baseline, pair)) / batches
                batch.add_gradients(total, torch.autograd.grad(difference, pair))
            loss.load_state_dict(state)
        halves.append(baseline_gradient + tangent(total / passes, population.features))
    return halves[0], halves[1]


def fill_table(
    loss: Any, population: Population, batch_size: int, passes: int, generator: torch.Generator
) -> None:
    """Update the table of a loss with all samples, `passes` times, while the encoder is fixed."""
    for _ in range(passes):
        for batch in _draw_batches(population, batch_size, generator):
            batch.value(loss, batch.features())


def with_batch_normalizers(loss: Any, *, positive: bool) -> Any:
    """Copy a loss and estimate the normalizers of the copy from the batch alone.

    Args:
        loss: a loss of `sogclr.losses` with softmax normalizers.
        positive: True for SimCLR and CLIP, which have the positive in the normalizer; False for
            DCL.
    """
    twin = train_with_fixed_temperatures(copy.deepcopy(loss))
    twin.positive_in_normalizer = positive
    _replace_normalizers(twin, [InBatchNormalizer(), InBatchNormalizer()])
    return twin


def train_with_fixed_temperatures(loss: Any) -> Any:
    """Put a loss in training mode and its temperatures in eval mode, so that tau stays fixed."""
    loss.train()
    for module in loss.modules():
        if isinstance(module, Temperature):
            module.eval()
    return loss


class FixedNormalizer(InBatchNormalizer):
    """Returns `log_u`, `(M,)`, which must be set before each call of the loss."""

    log_u: Tensor

    def forward(self, rows: Tensor, log_g: Tensor) -> Tensor:
        return self.log_u


def _replace_normalizers(loss: Any, normalizers: list[Any]) -> None:
    names = [name for name, module in loss.named_children() if isinstance(module, Normalizer)]
    for name, module in zip(names, normalizers, strict=False):
        setattr(loss, name, module)


@dataclass(frozen=True)
class _Batch:
    """A batch of pairs of stored views.

    Attributes:
        population: the data.
        samples: `(b,)` positions of the samples in the population.
        sides: the side of the first and of the second view.
        views: two tensors `(b,)`: which stored view of each sample is the first and the second.
    """

    population: Population
    samples: Tensor
    sides: tuple[int, int]
    views: tuple[Tensor, Tensor]

    def features(self) -> list[Tensor]:
        """Return the first and the second views, `(b, d)` each."""
        return [
            self.population.features[side, self.samples, view]
            for side, view in zip(self.sides, self.views, strict=True)
        ]

    def value(self, loss: Any, pair: list[Tensor]) -> Tensor:
        """Compute the loss of the features of this batch."""
        ids = [self.population.rows[side, self.samples] for side in dict.fromkeys(self.sides)]
        if self.population.of_pairs:
            group = self.population.group[self.samples]
            return loss(*pair, ids[0], index_b=ids[-1], group=group)
        return loss(*pair, *ids)

    def set_log_u(self, normalizers: list[FixedNormalizer], log_u: Tensor) -> None:
        """Pass the entries of log u `(S, n, V)` of this batch to the baseline's normalizers."""
        values = [log_u[s, self.samples, v] for s, v in zip(self.sides, self.views, strict=True)]
        # The two views of a sample are anchors of one and the same side.
        by_side = values if self.population.of_pairs else [torch.cat(values)]
        for normalizer, value in zip(normalizers, by_side, strict=True):
            normalizer.log_u = value

    def add_gradients(self, total: Tensor, gradients: tuple[Tensor, ...]) -> None:
        """Add the gradients of this batch, `(b, d)` each, to those of all stored views."""
        for side, view, gradient in zip(self.sides, self.views, gradients, strict=True):
            total[side, self.samples, view] += gradient


def _draw_batches(
    population: Population, batch_size: int, generator: torch.Generator
) -> Iterator[_Batch]:
    """Yield every sample once, in random order; the last batch may be smaller."""
    n, views = len(population), population.views
    for samples in torch.randperm(n, generator=generator).split(batch_size):
        first = torch.randint(views, samples.shape, generator=generator)
        if population.of_pairs:
            second = torch.randint(views, samples.shape, generator=generator)
            yield _Batch(population, samples, (0, 1), (first, second))
        else:  # two different views of each sample
            offset = torch.randint(1, views, samples.shape, generator=generator)
            yield _Batch(population, samples, (0, 0), (first, (first + offset) % views))
