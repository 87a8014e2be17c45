"""The gradient that a loss gives in expectation, and its distance from the exact one.

Averages over a finite number of batches are noisy, and the length of a noisy difference is too
large. So two independent halves are averaged, and the product of their errors taken: its mean is
the squared bias, whatever the noise. And what is averaged is the difference from an estimator
whose expectation is known exactly, one with given u, on the same batches: most of the noise is
common to both.
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

__all__ = ["Bias", "Given", "at_rest", "bias", "expected_gradients", "fill", "in_batch"]

Halves = tuple[Tensor, Tensor]

# Samples of a batch share its noise, so that their scatter tells too little of it.
SHARED = 1.25


@dataclass(frozen=True)
class Bias:
    """The length of the difference of an expected and an exact gradient.

    Attributes:
        relative: to the length of the exact gradient; 0 if the square came out negative.
        absolute: itself.
        uncertainty: one standard error of `relative`.
        at_most: `relative`, if its square were two standard errors larger.
        seen: whether the square is more than two standard errors above 0.
    """

    relative: float
    absolute: float
    uncertainty: float
    at_most: float
    seen: bool


def bias(found: Halves, exact: Halves, scale: Tensor) -> Bias:
    """From two halves whose errors are independent of each other.

    Args:
        found: `(S, n, V, d)` each, normalizers' part of the expected gradient.
        exact: the same part of the exact one, once for each half.
        scale: the whole exact gradient.
    """
    first, second = (f - e for f, e in zip(found, exact, strict=True))
    products = inner(first, second).double().sum(dim=(0, 2))  # (n,), a sample's share
    length = float(scale.double().square().sum().sqrt())
    square = float(products.sum()) / length**2
    error = SHARED * float(products.std()) * math.sqrt(len(products)) / length**2
    relative = math.sqrt(max(square, 0.0))
    # d(sqrt(x)) = dx / (2 sqrt(x)), unless x drowns in its own error.
    drowned = relative <= math.sqrt(error) / 2
    return Bias(
        relative,
        relative * length,
        uncertainty=math.sqrt(error) if drowned else error / (2 * relative),
        at_most=math.sqrt(max(square, 0.0) + 2 * error),
        seen=square > 2 * error,
    )


def expected_gradients(
    loss: Any,
    population: Population,
    batch: int,
    passes: int,
    generator: torch.Generator,
    *,
    log_u: Tensor,
    known: Tensor,
) -> Halves:
    """Twice the mean over `passes` passes of the normalizers' part of the gradient.

    Every pass starts from the table as it stands: what is averaged is one step from here.

    Args:
        loss: of two views or pairs; its training mode decides whether its table is written.
        population: the data.
        batch: samples in a batch; what is left of a pass after full ones is left out of it.
        passes: for each half.
        generator: of order and views.
        log_u: `(S, n, V)`, of the estimator that is subtracted; the nearer to what the loss
            takes, the less noise.
        known: `(S, n, V, d)`, its expectation, by `Population.normalizer_gradients`.
    """
    state = copy.deepcopy(loss.state_dict())
    beside = in_batch(loss, positive=False)
    given = [Given() for _ in population.features]
    _replace_normalizers(beside, given)
    halves = []
    for _ in range(2):
        total = torch.zeros_like(population.features)
        for _ in range(passes):
            full = len(population) // batch
            for visit in itertools.islice(_visits(population, batch, generator), full):
                visit.tell(given, log_u)
                pair = [z.requires_grad_() for z in visit.features()]
                difference = (visit.value(loss, pair) - visit.value(beside, pair)) / full
                visit.add(total, torch.autograd.grad(difference, pair))
            loss.load_state_dict(state)
        halves.append(known + tangent(total / passes, population.features))
    return halves[0], halves[1]


def fill(
    loss: Any, population: Population, batch: int, passes: int, generator: torch.Generator
) -> None:
    """Let the table of a loss meet every sample `passes` times, as if weights stood still."""
    for _ in range(passes):
        for visit in _visits(population, batch, generator):
            visit.value(loss, visit.features())


def in_batch(loss: Any, *, positive: bool) -> Any:
    """The same loss with its normalizers taken from the batch: DCL, or SimCLR's and CLIP's.

    Args:
        loss: of `sogclr.losses`, with softmax normalizers.
        positive: whether the positive is in the normalizer, as in SimCLR and CLIP.
    """
    twin = at_rest(copy.deepcopy(loss))
    twin.positive_in_normalizer = positive
    _replace_normalizers(twin, [InBatchNormalizer(), InBatchNormalizer()])
    return twin


def at_rest(loss: Any) -> Any:
    """In training mode, but for the temperatures: they are not to be learned here."""
    loss.train()
    for module in loss.modules():
        if isinstance(module, Temperature):
            module.eval()
    return loss


class Given(InBatchNormalizer):
    """log u is told before each call, of its anchors `(M,)`."""

    log_u: Tensor

    def forward(self, rows: Tensor, log_g: Tensor) -> Tensor:
        return self.log_u


def _replace_normalizers(loss: Any, by: list[Any]) -> None:
    names = [name for name, module in loss.named_children() if isinstance(module, Normalizer)]
    for name, module in zip(names, by, strict=False):
        setattr(loss, name, module)


@dataclass(frozen=True)
class _Visit:
    """A batch: which samples `(b,)`, and for either half of the pair its side and views `(b,)`."""

    population: Population
    samples: Tensor
    sides: tuple[int, int]
    views: tuple[Tensor, Tensor]

    def features(self) -> list[Tensor]:
        """`(b, d)` of either half."""
        return [
            self.population.features[side, self.samples, view]
            for side, view in zip(self.sides, self.views, strict=True)
        ]

    def value(self, loss: Any, pair: list[Tensor]) -> Tensor:
        """The loss of these features."""
        ids = [self.population.rows[side, self.samples] for side in dict.fromkeys(self.sides)]
        if self.population.of_pairs:
            group = self.population.group[self.samples]
            return loss(*pair, ids[0], index_b=ids[-1], group=group)
        return loss(*pair, *ids)

    def tell(self, given: list[Given], log_u: Tensor) -> None:
        """Hand over log u, of `(S, n, V)`; both views of a sample are anchors of one side."""
        own = [log_u[s, self.samples, v] for s, v in zip(self.sides, self.views, strict=True)]
        anchors = own if self.population.of_pairs else [torch.cat(own)]
        for normalizer, told in zip(given, anchors, strict=True):
            normalizer.log_u = told

    def add(self, total: Tensor, gradients: tuple[Tensor, ...]) -> None:
        """Add gradients by the features to those by all stored ones."""
        for side, view, gradient in zip(self.sides, self.views, gradients, strict=True):
            total[side, self.samples, view] += gradient


def _visits(population: Population, batch: int, generator: torch.Generator) -> Iterator[_Visit]:
    """A pass: every sample once; the last batch has what is left."""
    n, views = len(population), population.views
    for samples in torch.randperm(n, generator=generator).split(batch):
        first = torch.randint(views, samples.shape, generator=generator)
        if population.of_pairs:
            other = torch.randint(views, samples.shape, generator=generator)
            yield _Visit(population, samples, (0, 1), (first, other))
        else:  # two different ones of one sample
            apart = torch.randint(1, views, samples.shape, generator=generator)
            yield _Visit(population, samples, (0, 0), (first, (first + apart) % views))
