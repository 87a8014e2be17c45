"""Coupling: how much the rows of a batch depend on which other rows are in their batch.

Batch statistics make the rows of one batch look less alike than they are. Then the estimate ĝ from
a batch is too small, and every estimator inherits that, however many batches it averages over. With
embeddings that were computed once, the coupling cannot be seen: it is in all of them. So ĝ of an
anchor in its own batch is compared with what rows of other batches give for the same anchor.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..losses.objective_tiled import Anchors
from .subject import Subject

__all__ = ["Coupling", "compare_batches", "measure_coupling"]

LEAST = 0.95  # below it, more is lost than other errors of a batch of 64 or more cost
# Enough for one percent in batches of 16; takes seconds.
MOST_ANCHORS, MOST_CANDIDATES = 8_192, 16_384


@dataclass(frozen=True)
class Coupling:
    """A comparison of ĝ of a batch with what other batches give.

    Attributes:
        batch: number of samples in a batch.
        ratio: E[ĝ / g], the mean over batches of ĝ of an anchor among the rows of its own batch,
            divided by g of the same anchor among rows of other batches. 1 without coupling.
        uncertainty: one standard error of `ratio`.
    """

    batch: int
    ratio: float
    uncertainty: float

    @property
    def matters(self) -> bool:
        """Return whether rows of a batch look clearly less alike than rows of other batches."""
        return self.ratio < LEAST and self.ratio + 2 * self.uncertainty < 1

    def warning(self) -> str:
        """Say what coupled rows mean, and what to do."""
        return (
            f"Rows of one batch of {self.batch:,} look less alike than rows of different batches: "
            f"ĝ of a batch is {self.ratio:.2f} of what other batches give, since batch statistics "
            "couple its rows. Larger batches couple them less; without batch statistics (pretrain "
            "--norm group) they are not coupled, but `small` was less accurate so."
        )


def measure_coupling(subject: Subject) -> Coupling | None:
    """Compare ĝ of the batches in which the samples of an audit were embedded.

    Returns:
        None if these batches are unknown, or if there is one alone.
    """
    population, references = subject.population, subject.references
    if subject.batches is None:
        return None
    parts = [population.features] if references is None else [population.features, references]
    features = torch.cat(parts, dim=2)
    return compare_batches(features, subject.batches, population.group, population.taus)


def compare_batches(
    features: Tensor, batches: Tensor, group: Tensor, taus: Sequence[float | Tensor]
) -> Coupling | None:
    """Compare ĝ of anchors in their own batches with rows of other batches.

    Args:
        features: `(S, n, V, d)` unit vectors, V views of each of n samples on S sides.
        batches: `(n, R)` the batch in which a sample was embedded at each of R visits. Each visit
            gave V / R successive views.
        group: `(n,)`; samples of equal group are no negatives of each other.
        taus: the temperature of each side: a number, or `(n,)`.

    Returns:
        None if each visit has one batch alone.
    """
    generator = torch.Generator().manual_seed(0)  # draws batches and candidates
    visits = batches.shape[1]
    by_visit = features.unflatten(2, (visits, -1))  # (S, n, R, V/R, d)
    numbers = batches.unique()
    if len(numbers) < 2 * visits:
        return None
    size = max(1, round(batches.numel() / len(numbers)))
    drawn = numbers[torch.randperm(len(numbers), generator=generator)]
    means = []
    for number in drawn[: max(8, MOST_ANCHORS // size)]:
        samples, (visit, *_) = (batches == number).nonzero().unbind(1)
        other = (int(visit) + 1) % visits  # all samples, in other batches
        rest = torch.randperm(len(batches), generator=generator)[:MOST_CANDIDATES]
        if visits == 1:
            rest = rest[batches[rest, 0] != number]
        ratios = []
        for side, tau in enumerate(taus):
            opposite = len(features) - 1 - side
            anchors = by_visit[side, samples, visit]  # (b, V/R, d)
            own_tau = tau[samples] if isinstance(tau, Tensor) else tau
            own = by_visit[opposite, samples, visit]
            others = by_visit[opposite, rest, other]
            within = _log_normalizers(anchors, own, group[samples], group[samples], own_tau)
            reference = _log_normalizers(anchors, others, group[samples], group[rest], own_tau)
            ratios.append((within - reference).exp())
        ratio = torch.cat(ratios)
        ratio = ratio[ratio.isfinite()]  # an anchor may have no negatives
        if len(ratio):
            means.append(ratio.double().mean())
    if len(means) < 2:
        return None
    spread, mean = torch.std_mean(torch.stack(means))
    return Coupling(size, float(mean), float(spread) / math.sqrt(len(means)))


def _log_normalizers(
    anchors: Tensor, candidates: Tensor, group: Tensor, other_group: Tensor, tau: float | Tensor
) -> Tensor:
    """Compute log g of anchors `(b, W, d)` among candidates `(m, W, d)`, `(b W,)`."""
    views = anchors.shape[1]
    return Anchors(
        anchors.flatten(0, 1),
        candidates.flatten(0, 1),
        group.repeat_interleave(views),
        other_group.repeat_interleave(views),
        tau.repeat_interleave(views) if isinstance(tau, Tensor) else tau,
    ).log_normalizers()
