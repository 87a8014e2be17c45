"""The audit: errors of the gradient by batch size, and errors of the table."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..common.console import say
from ..losses.objective_tiled import log_mean
from .coupling import measure_coupling
from .expected_gradient import (
    Halves,
    expected_gradients,
    fill_table,
    measure_bias,
    with_batch_normalizers,
)
from .measured import IN_BATCH, LABELS, Audit, Lag, Measured, format_bias, summarize
from .population import Population
from .subject import Subject, tables_of

__all__ = ["audit_subject", "measure_lag"]

LARGEST_BATCH = 4_096
VISITS = 8_000  # sample visits that each half averages over; more take longer and leave less noise
FILLING_PASSES = 10  # passes that fill the table of an encoder without a table


@dataclass(frozen=True)
class _Exact:
    """Exact gradients, `(S, n, V, d)` each.

    Attributes:
        v1: the normalizer part of the gradient of F.
        v2: the normalizer part of the gradient of F2, twice with independent errors.
        table: the expected normalizer part of a step that leaves the table unchanged.
        total_v1: the gradient of F including alignment.
        total_v2: the gradient of F2 including alignment.
    """

    v1: Tensor
    v2: Halves
    table: Tensor
    total_v1: Tensor
    total_v2: Tensor


def audit_subject(subject: Subject) -> Audit:
    """Measure the errors of all estimators, and print each while it is measured."""
    population, generator = subject.population, torch.Generator().manual_seed(0)
    n = len(population)
    batch_size = min(subject.batch_size, n)
    say(f"comparing {n:,} samples, {population.views} views each, with all others")
    if not subject.trained:
        fill_table(subject.loss, population, batch_size, FILLING_PASSES, generator)
    log_g, log_u = population.log_normalizers(), _table_log_u(subject)
    mean, references = log_mean(log_g, dim=-1), _reference_log_u(subject, log_g)
    exact = _exact_gradients(population, log_g, mean, log_u, references)
    rows = _measure_estimators(subject, batch_size, log_g, log_u, exact, generator)
    worths = [_equivalent_batch(rows, name) for name in IN_BATCH]
    coupling = measure_coupling(subject)
    summary = summarize(
        rows,
        worths,
        batch=batch_size,
        pairs=len(population.features) > 1,
        trained=subject.trained,
    )
    warning = f" {coupling.warning()}" if coupling is not None and coupling.matters else ""
    return Audit(
        samples=n,
        views=population.views,
        width=population.features.shape[-1],
        temperature=sum(float(torch.as_tensor(t).mean()) for t in population.taus)
        / len(population.taus),
        batch_size=batch_size,
        rows=rows,
        distance=measure_bias((exact.v1, exact.v1), exact.v2, exact.total_v2).relative,
        lag=_compare(log_u, *(references or (mean, mean))),
        worth=worths[0],
        worth_with_positive=worths[1],
        coupling=coupling,
        summary=summary + warning,
    )


def measure_lag(subject: Subject) -> Lag:
    """Compare the table with the exact log-normalizers, without the gradients."""
    log_g = subject.population.log_normalizers()
    mean = log_mean(log_g, dim=-1)
    references = _reference_log_u(subject, log_g) or (mean, mean)
    return _compare(_table_log_u(subject), *references)


def _measure_estimators(
    subject: Subject,
    batch_size: int,
    log_g: Tensor,
    log_u: Tensor,
    exact: _Exact,
    generator: torch.Generator,
) -> list[Measured]:
    """Measure the table at this batch size, and the batch at all sizes."""
    population, rows = subject.population, list[Measured]()
    passes = max(1, round(VISITS / len(population)))

    def add(estimator: str, batch: int, estimated: Halves) -> None:
        v1 = measure_bias(estimated, (exact.v1, exact.v1), exact.total_v1)
        v2 = measure_bias(estimated, exact.v2, exact.total_v2)
        rows.append(Measured(estimator, batch, v1, v2))
        own = v2 if estimator.startswith("table") else v1
        size = f", batch of {batch:,}" if batch else ""
        say(f"  {LABELS[estimator]}{size}: off by {format_bias(own)}")

    add("table at rest", 0, (exact.table, exact.table))
    halves = expected_gradients(
        subject.loss,
        population,
        batch_size,
        passes,
        generator,
        log_u=log_u,
        baseline_gradient=exact.table,
    )
    add("table", batch_size, halves)
    for positive, estimator in zip((False, True), IN_BATCH, strict=True):
        twin = with_batch_normalizers(subject.loss, positive=positive)
        for batch in _batch_sizes(len(population)):
            halves = expected_gradients(
                twin,
                population,
                batch,
                passes,
                generator,
                log_u=log_g,
                baseline_gradient=exact.v1,
            )
            add(estimator, batch, halves)
    return rows


def _table_log_u(subject: Subject) -> Tensor:
    """Return the table's log u of each sample, expanded to `(S, n, V)`."""
    population = subject.population
    sides = [
        table.log_u[rows]
        for table, rows in zip(tables_of(subject.loss), population.rows, strict=True)
    ]
    return torch.stack(sides)[..., None].expand(population.features.shape[:-1])


def _reference_log_u(subject: Subject, log_g: Tensor) -> Halves | None:
    """Estimate what the table should hold, twice with independent errors, `(S, n, V)` each.

    A run's table averaged views that no longer exist, so the stored views alone would add their
    own noise to its error. Further views give the references. A table that was filled with the
    stored views needs none and returns None.
    """
    if subject.references is None:
        return None
    others = subject.population.log_normalizers(subject.references)  # (S, n, R)
    one, other = (log_mean(half, dim=-1)[..., :1] for half in others.split(others.shape[2] // 2, 2))
    # 1 / (noisy mean) is too large: by twice as much with half of the views as with all of them.
    # The jackknife subtracts that excess.
    both = torch.logaddexp(one, other) - math.log(2)
    missing = 2 * ((-both).exp() - ((-one).exp() + (-other).exp()) / 2)
    least = (-both).exp() / 4  # a bound, since the correction may exceed the value itself
    corrected = (-((-half).exp() + missing).maximum(least).log() for half in (one, other))
    first, second = (half.expand_as(log_g) for half in corrected)
    return first, second


def _exact_gradients(
    population: Population, log_g: Tensor, mean: Tensor, log_u: Tensor, references: Halves | None
) -> _Exact:
    choices = [log_g, mean, log_u, *(references or ())]
    v1, v2, table, *halves = population.normalizer_gradients(log_g, torch.stack(choices))
    aligned = population.alignment_gradient()
    one, other = halves or (v2, v2)
    return _Exact(v1, (one, other), table, total_v1=v1 + aligned, total_v2=v2 + aligned)


def _compare(log_u: Tensor, one: Tensor, other: Tensor) -> Lag:
    """Compare log u with two independent references: their noise cancels in the product."""
    first, second = log_u - one, log_u - other
    mean = float((first + second).mean() / 2)
    return Lag(mean, math.sqrt(max(0.0, float((first * second).mean()) - mean**2)))


def _batch_sizes(n: int) -> list[int]:
    """Return the powers of two from 8 to the number of samples, at most 4,096."""
    return [2**k for k in range(3, int(math.log2(LARGEST_BATCH)) + 1) if 2**k <= n]


def _equivalent_batch(rows: list[Measured], estimator: str) -> float | None:
    """Interpolate the batch size at which an in-batch error falls to that of the table."""
    table = next(row.v2 for row in rows if row.estimator == "table")
    level = table.relative if table.seen else table.at_most
    curve = [(row.batch, row.v1) for row in rows if row.estimator == estimator]
    if curve[0][1].seen and level >= curve[0][1].relative:
        return 0.0
    for (smaller, above), (larger, below) in pairwise(curve):
        if above.seen and below.relative <= level:
            high, low = above.relative, below.relative if below.seen else 1e-9
            share = math.log(high / level) / math.log(high / low)
            return smaller * (larger / smaller) ** share
    return None
