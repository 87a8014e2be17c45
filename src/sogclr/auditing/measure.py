"""The audit itself: errors of the gradient by batch size, and of the table."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..common.console import say
from ..losses.objective_tiled import log_mean
from .expected_gradient import Bias, bias, expected_gradients, fill, in_batch
from .population import Population
from .subject import Subject, tables_of

__all__ = ["Audit", "Lag", "Measured", "audit_of", "rounded", "shown"]

LARGEST = 4_096
VISITS = 8_000  # of samples, averaged in either half; the noise left is printed with every figure
FILLING = 10  # visits of a table that is filled here, the weights at rest


@dataclass(frozen=True)
class Measured:
    """The error of the gradient that an estimator of the normalizers gives in expectation.

    Attributes:
        estimator: "batch" (normalizers from the batch: DCL), "batch with positive" (SimCLR,
            CLIP), "table" (SogCLR, a step of this batch size from the table as it is), or "table
            at rest" (the same without the step's own update).
        batch: samples; 0 where it does not matter.
        v1: against the objective F, the logarithm of g averaged over views.
        v2: against F2, the logarithm of the average, which one number a sample estimates.
    """

    estimator: str
    batch: int
    v1: Bias
    v2: Bias


@dataclass(frozen=True)
class Lag:
    """log u - log g over samples: its mean (above 0: u is too large) and standard deviation, that
    of the true g, without the noise of what it is held against."""

    mean: float
    spread: float


@dataclass(frozen=True)
class Audit:
    """See `sogclr.audit`.

    Attributes:
        samples, views, width: of what was compared.
        temperature: of the loss; the mean where each sample has one.
        batch_size: of the run.
        rows: what was measured.
        distance: between the gradients of F and F2, relative.
        lag: of the table.
        worth: the batch whose in-batch gradient is as good as that of the table; 0.0 for less
            than the smallest that was measured, None for more than the largest.
        summary: one sentence.
    """

    samples: int
    views: int
    width: int
    temperature: float
    batch_size: int
    rows: list[Measured]
    distance: float
    lag: Lag
    worth: float | None
    summary: str

    def curve(self, estimator: str) -> list[Measured]:
        """The rows of an estimator, by batch size."""
        return [row for row in self.rows if row.estimator == estimator]


@dataclass(frozen=True)
class _Exact:
    """Normalizers' part of the exact gradients, and all of them; `(S, n, V, d)` each."""

    v1: Tensor
    v2: tuple[Tensor, Tensor]
    table: Tensor
    whole_v1: Tensor
    whole_v2: Tensor


def audit_of(subject: Subject) -> Audit:
    """Measure it. Says what it finds on the way."""
    population, chance = subject.population, torch.Generator().manual_seed(0)
    n = len(population)
    batch_size = min(subject.batch_size, n)
    say(f"comparing {n:,} samples, {population.views} views each, with all others")
    if not subject.trained:
        fill(subject.loss, population, batch_size, FILLING, chance)
    log_g = population.log_normalizers()
    log_u = _log_u(subject)
    mean, references = log_mean(log_g, dim=-1), _references(subject, log_g)
    exact = _exact(population, log_g, mean, log_u, references)
    passes = max(1, round(VISITS / n))
    rows: list[Measured] = []

    def measure(estimator: str, batch: int, found: tuple[Tensor, Tensor]) -> None:
        v1 = bias(found, (exact.v1, exact.v1), exact.whole_v1)
        v2 = bias(found, exact.v2, exact.whole_v2)
        rows.append(Measured(estimator, batch, v1, v2))
        best = v2 if estimator.startswith("table") else v1
        say(f"  {estimator}, batch {batch or '-'}: off by {shown(best)}")

    measure("table at rest", 0, (exact.table, exact.table))
    steps = expected_gradients(
        subject.loss, population, batch_size, passes, chance, log_u=log_u, known=exact.table
    )
    measure("table", batch_size, steps)
    for positive, estimator in ((False, "batch"), (True, "batch with positive")):
        twin = in_batch(subject.loss, positive=positive)
        for batch in _sizes(n):
            steps = expected_gradients(
                twin, population, batch, passes, chance, log_u=log_g, known=exact.v1
            )
            measure(estimator, batch, steps)
    worth = _worth(rows)
    return Audit(
        samples=n,
        views=population.views,
        width=population.features.shape[-1],
        temperature=sum(float(torch.as_tensor(t).mean()) for t in population.taus)
        / len(population.taus),
        batch_size=batch_size,
        rows=rows,
        distance=bias((exact.v1, exact.v1), exact.v2, exact.whole_v2).relative,
        lag=_lag(log_u, *(references or (mean, mean))),
        worth=worth,
        summary=_summary(subject, batch_size, rows, worth),
    )


def _log_u(subject: Subject) -> Tensor:
    """What the table holds of the population, in all places of `(S, n, V)`."""
    population = subject.population
    sides = [
        table.log_u[rows]
        for table, rows in zip(tables_of(subject.loss), population.rows, strict=True)
    ]
    return torch.stack(sides)[..., None].expand(population.features.shape[:-1])


def _references(subject: Subject, log_g: Tensor) -> tuple[Tensor, Tensor] | None:
    """What u should be, twice, with independent errors, `(S, n, V)` each.

    The table of a run has been filled with views that nobody has any more. What it estimates is
    estimated from other views too, whose noise is no error of the table. A table that was filled
    with the stored views needs none: it is held against all of them.
    """
    if subject.references is None:
        return None
    others = subject.population.log_normalizers(subject.references)  # (S, n, R)
    one, other = (log_mean(half, dim=-1)[..., :1] for half in others.split(others.shape[2] // 2, 2))
    # 1 / (noisy mean) is too large: twice as much with half of the views as with all (jackknife).
    both = torch.logaddexp(one, other) - math.log(2)
    missing = 2 * ((-both).exp() - ((-one).exp() + (-other).exp()) / 2)
    least = (-both).exp() / 4  # where the correction would leave nothing
    corrected = (-((-half).exp() + missing).maximum(least).log() for half in (one, other))
    first, second = (half.expand_as(log_g) for half in corrected)
    return first, second


def _exact(
    population: Population,
    log_g: Tensor,
    mean: Tensor,
    log_u: Tensor,
    references: tuple[Tensor, Tensor] | None,
) -> _Exact:
    choices = [log_g, mean, log_u, *(references or ())]
    v1, v2, table, *halves = population.normalizer_gradients(log_g, torch.stack(choices))
    aligned = population.alignment_gradient()
    one, other = halves or (v2, v2)
    return _Exact(v1, (one, other), table, whole_v1=v1 + aligned, whole_v2=v2 + aligned)


def _lag(log_u: Tensor, one: Tensor, other: Tensor) -> Lag:
    """From two independent references: their noise is in neither mean nor product."""
    first, second = log_u - one, log_u - other
    mean = float((first + second).mean() / 2)
    return Lag(mean, math.sqrt(max(0.0, float((first * second).mean()) - mean**2)))


def _sizes(n: int) -> list[int]:
    """8, 16, ... up to the number of samples, 4,096 at most."""
    return [2**k for k in range(3, int(math.log2(LARGEST)) + 1) if 2**k <= n]


def _worth(rows: list[Measured]) -> float | None:
    """Where the curve of the in-batch errors comes down to that of the table."""
    table = next(row.v2 for row in rows if row.estimator == "table")
    level = table.relative if table.seen else table.at_most
    curve = [(row.batch, row.v1) for row in rows if row.estimator == "batch"]
    if curve[0][1].seen and level >= curve[0][1].relative:
        return 0.0
    for (smaller, above), (larger, below) in pairwise(curve):
        if above.seen and below.relative <= level:
            high, low = above.relative, below.relative if below.seen else 1e-9
            share = math.log(high / level) / math.log(high / low)
            return smaller * (larger / smaller) ** share
    return None


def _summary(subject: Subject, batch: int, rows: list[Measured], worth: float | None) -> str:
    curve = [row for row in rows if row.estimator == "batch"]
    table = next(row.v2 for row in rows if row.estimator == "table")
    own = min(curve, key=lambda row: abs(math.log(row.batch / batch)))
    whose = "this run's normalizers" if subject.trained else "normalizers kept per sample"
    if not curve[0].v1.seen:
        value = "no better than an in-batch batch's, since that has no error to be seen"
    elif worth == 0.0:
        value = f"worse than an in-batch batch of {curve[0].batch}"
    elif worth is None:
        value = f"better than an in-batch batch of {curve[-1].batch:,}"
    else:
        value = f"as good as an in-batch batch of {rounded(worth):,}"
    return (
        f"At batch {batch}, {whose} are {value}: the gradient is off by {shown(table)}, "
        f"where an in-batch batch of {own.batch} is off by {shown(own.v1)}."
    )


def rounded(worth: float) -> int:
    """Two digits: more would be a claim."""
    unit = 10 ** max(0, math.floor(math.log10(worth)) - 1)
    return round(worth / unit) * unit


def shown(measured: Bias) -> str:
    """In percent, or what is known of it."""
    if measured.seen:
        return f"{measured.relative:.1%}"
    return f"less than {measured.at_most:.1%}"
