"""Measure the error of the normalizers while training, at every log point.

The last batch was trained with estimates of its log-normalizers. They are compared with
log-normalizers over the samples of the batches just before it, whose features are a few steps old.
The error of the table has two parts: one that all samples share, since the table lags behind the
encoder, and one of each sample.
"""

import math
from collections import deque
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..common.environment import processes
from ..distributed.exchange import agree
from ..losses import PairLoss, TwoViewLoss
from ..losses.normalizer_sharded import ShardedNormalizerTable
from ..losses.normalizer_table import NormalizerTable
from ..losses.objective_tiled import Anchors, log_mean
from ..losses.temperature import read_tau
from .task import Outcome

__all__ = ["NormalizerError", "stored_bytes"]

# Batches: the last one, and the same number for each of two references.
STORED_BATCHES, FEWEST_BATCHES = 9, 3


def stored_bytes(batch_size: int, width: int) -> int:
    """Bound the bytes that `NormalizerError.state` takes in a checkpoint."""
    return STORED_BATCHES * batch_size * 2 * (4 * width + 8)


class _Batch(NamedTuple):
    projections: tuple[Tensor, Tensor]  # (b, d) of both sides
    indices: tuple[Tensor, Tensor]  # (b,) of both sides


class NormalizerError:
    """Stores the projections of the latest batches, and computes errors when it is read.

    Storing a batch does not wait for the device.
    """

    def __init__(self) -> None:
        self._batches: deque[_Batch] = deque(maxlen=STORED_BATCHES)

    def observe(self, outcome: Outcome) -> None:
        """Store the projections of a micro-batch."""
        self._batches.append(_Batch(outcome.projections, outcome.indices))

    def gather(self) -> None:
        """Gather the batches from all processes. All processes call it, then `read`."""
        for i, (projections, indices) in enumerate(self._batches):
            shares = agree("auto", len(projections[0]))
            if shares is not None:
                device = projections[0].device
                self._batches[i] = _Batch(
                    (shares.gather(projections[0]), shares.gather(projections[1])),
                    (shares.gather(indices[0].to(device)), shares.gather(indices[1].to(device))),
                )

    def latest(self) -> tuple[Tensor, Tensor]:
        """Return the projections of the last batch, `(b, d)` for each side."""
        return self._batches[-1].projections

    def state(self) -> list[tuple[Tensor, ...]]:
        """Return the stored batches for a checkpoint; none if several processes share them."""
        if processes() > 1:
            return []
        return [
            tuple(part.cpu() for part in (*batch.projections, *batch.indices))
            for batch in self._batches
        ]

    def restore(self, state: list[tuple[Tensor, ...]], device: torch.device) -> None:
        """Store the batches that `state` returned."""
        batches = ([part.to(device) for part in parts] for parts in state)
        self._batches = deque(
            (_Batch((a, b), (index_a, index_b)) for a, b, index_a, index_b in batches),
            STORED_BATCHES,
        )

    @torch.no_grad()
    def read(self, loss: Any) -> dict[str, float]:
        """Compute root mean square errors of log g over the anchors of the last batch.

        Drops the stored batches. Errors against two independent references are multiplied, so the
        noise of the references does not count. All processes call it.

        Args:
            loss: the loss that is trained.

        Returns:
            `normalizer_error`, of the table's log u after the step, and `in_batch_error`, of
            log ĝ from the batch alone. The first has two parts, whose squares add up to its own:
            `normalizer_lag`, the mean of log u - log g over the anchors, below 0 if u is too small,
            and `normalizer_spread`, the root mean square of the rest. Empty for a loss without
            normalizers, or if fewer than three batches are stored.
        """
        batches = list(self._batches)
        self._batches.clear()
        if len(batches) < FEWEST_BATCHES or not isinstance(loss, TwoViewLoss | PairLoss):
            return {}
        *before, last = batches
        in_batch_errors, table_errors = list[Tensor](), list[Tensor]()  # (2, anchors) of each side
        for side, (normalizer, temperature) in enumerate(loss.sides()):
            rows = last.indices[side].to(last.projections[0].device)
            tau = read_tau(temperature(rows))
            both_views = isinstance(loss, TwoViewLoss)
            among = partial(_log_normalizers, last, side=side, both_views=both_views, tau=tau)
            references = _correct_bias(among(before[::2]), among(before[1::2]))
            in_batch_errors.append(_errors(among([last]), *references))
            if isinstance(normalizer, NormalizerTable):
                over_views = (log_mean(reference, dim=0) for reference in references)
                table_errors.append(_errors(_look_up(normalizer, rows), *over_views))
        found = {"in_batch_error": _Split.of(in_batch_errors).error}
        if table_errors:
            split = _Split.of(table_errors)
            found["normalizer_error"] = split.error
            found["normalizer_lag"], found["normalizer_spread"] = split.lag, split.spread
        return {name: value for name, value in found.items() if math.isfinite(value)}


def _look_up(table: NormalizerTable, rows: Tensor) -> Tensor:
    """Return the table's log u of rows `(b,)`; all processes call it with equal rows."""
    if isinstance(table, ShardedNormalizerTable):  # a process has only a part of the rows
        nothing = torch.full(rows.shape, -math.inf, device=rows.device)
        return table(rows, nothing)  # without gradients, a call reads and does not update
    return table.log_u[rows]


def _log_normalizers(
    anchors: _Batch, others: list[_Batch], *, side: int, both_views: bool, tau: Any
) -> Tensor:
    """Compute log g of a batch's anchors among the samples of other batches.

    Args:
        anchors: the batch.
        others: the other batches.
        side: the side of the anchors.
        both_views: whether both sides are anchors and negatives, as with two views.
        tau: the temperature, or `(b,)` one of each anchor.

    Returns:
        `(v, b)`, v the number of sides that are anchors.
    """
    sides = (0, 1) if both_views else (side,)
    opposite = (0, 1) if both_views else (1 - side,)
    vectors = [normalize(anchors.projections[s].float(), dim=1) for s in sides]
    candidates = [
        normalize(batch.projections[s].float(), dim=1) for batch in others for s in opposite
    ]
    # Samples that share a text are no negatives of each other. An image occurs once an epoch.
    group = anchors.indices[1]
    device = vectors[0].device
    candidate_groups = [batch.indices[1].to(device) for batch in others for _ in opposite]
    tau = tau.repeat(len(sides)) if isinstance(tau, Tensor) else tau
    return (
        Anchors(
            torch.cat(vectors),
            torch.cat(candidates),
            group.repeat(len(sides)).to(device),
            torch.cat(candidate_groups),
            tau,
        )
        .log_normalizers()
        .view(len(sides), -1)
    )


def _correct_bias(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Remove most of the bias of two estimates of log g, by the jackknife.

    The logarithm of a noisy mean is too small on average. For each half of the samples, this bias
    is twice the bias for both halves together.
    """
    bias = 2 * (torch.logaddexp(one, other) - math.log(2) - (one + other) / 2)
    return one + bias, other + bias


def _errors(estimate: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Return the errors of log g against both references, `(2, anchors)`, where all are finite."""
    errors = torch.stack([estimate - one, estimate - other]).flatten(1)
    return errors[:, errors.isfinite().all(dim=0)]  # an anchor may have no negatives


class _Split(NamedTuple):
    """Errors of log g over anchors, without the references' noise; NaN if there are no anchors."""

    error: float  # root mean square
    lag: float  # mean
    spread: float  # root mean square after the mean is removed

    @classmethod
    def of(cls, sides: list[Tensor]) -> "_Split":
        """Split errors against two references, `(2, anchors)` for each side."""
        errors = torch.cat(sides, dim=1).double()
        square, (one, other) = float(errors.prod(dim=0).mean()), errors.mean(dim=1).tolist()
        return cls(_root(square), (one + other) / 2, _root(square - one * other))


def _root(square: float) -> float:
    """Return the square root; 0 if noise makes a measured square negative."""
    return math.nan if math.isnan(square) else math.sqrt(max(0.0, square))
