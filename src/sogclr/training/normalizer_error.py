"""How good the normalizers are while training: an audit in miniature, at every log point.

The log-normalizers that the last batch was trained with are held against those among the batches
just before it, whose features are a few steps old.
"""

import math
from collections import deque
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..common.environment import processes
from ..distributed.exchange import agree
from ..losses import PairLoss, TwoViewLoss
from ..losses.normalizer import NormalizerTable
from ..losses.objective_tiled import Anchors, log_mean
from ..losses.temperature import detached
from .task import Outcome

__all__ = ["NormalizerGauge", "gauge_bytes"]

KEPT, FEWEST = 9, 3  # batches: the last, and the same number for each of two references


def gauge_bytes(batch: int, width: int) -> int:
    """What a checkpoint holds of it at most."""
    return KEPT * batch * 2 * (4 * width + 8)


class NormalizerGauge:
    """Keeps what the batches since the last reading were; waits for nothing until it is read."""

    def __init__(self) -> None:
        self._kept: deque[tuple[Tensor, ...]] = deque(maxlen=KEPT)

    def observe(self, outcome: Outcome) -> None:
        """Take note of a micro-batch."""
        self._kept.append((*outcome.projections, *outcome.rows))

    def gather(self) -> None:
        """Have the batches whole where processes share them; all call it, and one may `read`."""
        for i, parts in enumerate(self._kept):
            shares, device = agree("auto", len(parts[0])), parts[0].device
            if shares is not None:
                whole = (shares.gather(part.to(device)).to(part.device) for part in parts)
                self._kept[i] = tuple(whole)

    def clear(self) -> None:
        """Forget them."""
        self._kept.clear()

    def latest(self) -> tuple[Tensor, Tensor]:
        """Projections of the last batch, `(b, d)` of either side."""
        first, second, *_ = self._kept[-1]
        return first, second

    def state(self) -> list[tuple[Tensor, ...]]:
        """What a resumed run has to know."""
        if processes() > 1:  # each has its own share of them
            return []
        return [tuple(part.cpu() for part in batch) for batch in self._kept]

    def restore(self, state: list[tuple[Tensor, ...]], device: torch.device) -> None:
        """Take over `state`."""
        self._kept = deque(((a.to(device), b.to(device), *rows) for a, b, *rows in state), KEPT)

    @torch.no_grad()
    def read(self, loss: Any) -> dict[str, float]:
        """Root mean square errors of log g over the anchors of the last batch; forgets them all.

        Returns:
            `normalizer_error`, of the table's log u after the step, and `in_batch_error`, of
            log ĝ, taken from the batch alone. Empty for a loss without normalizers, or where
            there were too few batches. The noise of the reference is not counted: errors against
            two independent ones are multiplied.
        """
        kept = list(self._kept)
        self._kept.clear()
        if len(kept) < FEWEST or not isinstance(loss, TwoViewLoss | PairLoss):
            return {}
        *before, last = kept
        squares: dict[str, list[Tensor]] = {}
        for side, (normalizer, temperature) in enumerate(loss.sides()):
            rows = last[2 + side].to(last[0].device)
            tau = detached(temperature(rows))
            both = isinstance(loss, TwoViewLoss)
            among = partial(_log_normalizers, last, side=side, both=both, tau=tau)
            references = _unbiased(among(before[::2]), among(before[1::2]))
            own = among([last])
            squares.setdefault("in_batch_error", []).append(_product(own, *references))
            if isinstance(normalizer, NormalizerTable):
                log_u = normalizer.log_u[rows].expand_as(own)
                over_views = (log_mean(reference, dim=0) for reference in references)
                squares.setdefault("normalizer_error", []).append(_product(log_u, *over_views))
        found = {name: float(torch.stack(parts).mean()) for name, parts in squares.items()}
        return {n: math.sqrt(max(0.0, v)) for n, v in found.items() if math.isfinite(v)}


def _log_normalizers(
    anchors: tuple[Tensor, ...],
    others: list[tuple[Tensor, ...]],
    *,
    side: int,
    both: bool,
    tau: Any,
) -> Tensor:
    """log g `(v, b)` of a batch among other batches, v the views that are anchors of this side."""
    sides = (0, 1) if both else (side,)
    opposite = (0, 1) if both else (1 - side,)
    vectors = [normalize(anchors[s].float(), dim=1) for s in sides]
    candidates = [normalize(batch[s].float(), dim=1) for batch in others for s in opposite]
    # Whoever shares a text is no negative either; an image is met once in an epoch.
    group, theirs = anchors[-1], [batch[-1] for batch in others for _ in opposite]
    tau = tau.repeat(len(sides)) if isinstance(tau, Tensor) else tau
    device = vectors[0].device
    return (
        Anchors(
            torch.cat(vectors),
            torch.cat(candidates),
            group.repeat(len(sides)).to(device),
            torch.cat(theirs).to(device),
            tau,
        )
        .log_normalizers()
        .view(len(sides), -1)
    )


def _unbiased(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Without most of what the logarithm of a noisy mean is too small by: twice as much of each
    half as of both together (the jackknife)."""
    missing = 2 * (torch.logaddexp(one, other) - math.log(2) - (one + other) / 2)
    return one + missing, other + missing


def _product(found: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Mean square error, without the references' noise; of what has negatives at all."""
    product = (found - one) * (found - other)
    return product[product.isfinite()].mean()
