"""What all softmax contrastive losses share: alignment plus an estimated log-normalizer.

The loss of an anchor is tau log u - s, s the similarity to its positive. Once log u is known, so is
the gradient: (ĝ/u) P by the similarity to a negative, P its share in ĝ, and -1 by s. It is formed
along with the value; no graph is kept of what lies between the features and the loss.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from .backends.shared import SharedNegatives
from .backends.tiled import Negatives
from .memory import FeatureMemory
from .normalizer import Normalizer, NormalizerTable, log_normalizers
from .objective import against_candidates
from .temperature import Temperature

if TYPE_CHECKING:  # it needs Triton
    from .backends.fused import FusedNegatives

__all__ = ["Anchors", "Contrasted", "ContrastiveLoss", "Scale", "checked_candidates"]

Scale = Literal["temperature", "cross-entropy"]
Compared: TypeAlias = Callable[
    [float | Tensor, float], "Negatives | SharedNegatives | FusedNegatives"
]


@dataclass(frozen=True)
class Anchors:
    """The anchors of one side of a batch, M of them: of the batch itself, then of earlier ones.

    Attributes:
        estimator: of their log g.
        rows: `(M,)` where it keeps them.
        temperature: theirs. Sides that share it share its tau.
        temperature_rows: `(M,)` where it keeps them.
    """

    estimator: Normalizer
    rows: Tensor
    temperature: Temperature
    temperature_rows: Tensor


@dataclass(frozen=True)
class Contrasted:
    """The loss of a batch and its gradients, which are missing where nothing learns.

    Attributes:
        value: scalar.
        pull: `(L,)` minus the gradient by the similarity of positives.
        rows: `(1, L, d)` the gradient by the rows of this batch, but for what comes of `pull`, or
            `(2, L, d)` by rows and by columns that are other anchors; of a batch that processes
            share, by their anchors of this process, `(blocks, n, d)`. By what they are to
            `Negatives` or to what stands in for them.
        tau: if it is a parameter, it and the gradient by it.
    """

    value: Tensor
    pull: Tensor | None = None
    rows: Tensor | None = None
    tau: tuple[tuple[Tensor, Tensor], ...] = ()


@dataclass(frozen=True)
class _Weighed:
    """What the loss makes of the anchors of S sides, each `(S, M)`.

    Attributes:
        loss: F, what remains to be minimized by the features.
        log_u: the log-normalizer in use; 0 where there are no candidates.
        ratio: ĝ/u.
        factor: how much the anchor counts, dF / d(tau log u - s); None for 1.
        rest: the negatives' share in ĝ, where the positive has the other; else None.
        present: whether there are candidates in the normalizer; None for yes.
        log_count: log of how many.
    """

    loss: Tensor
    log_u: Tensor
    ratio: Tensor
    factor: Tensor | None
    rest: Tensor | None
    present: Tensor | None
    log_count: Tensor | float

    def where_present(self, value: Tensor, other: Tensor | float) -> Tensor:
        """The value; of anchors without candidates the other one."""
        return value if self.present is None else torch.where(self.present, value, other)

    def push(self) -> Tensor:
        """Gradient by tau log_sum, tau times the log-sum-exp over negatives."""
        push = self.ratio if self.rest is None else self.ratio * self.rest
        return push if self.factor is None else push * self.factor

    def pull(self, scale: float | Tensor) -> Tensor:
        """Minus the gradient by the similarity to the positive, over all sides, `(M,)`."""
        one_each = isinstance(scale, Tensor) and scale.ndim > 0
        if self.rest is None and self.factor is None and not one_each:
            sides, anchors = self.loss.shape
            return self.loss.new_ones(anchors).mul_(sides * scale)
        # In this order: where the positive is nearly all of ĝ, 1 minus its share is rounding.
        pull = (
            torch.ones_like(self.loss)
            if self.rest is None
            else (1 - self.ratio) + self.ratio * self.rest
        )
        pull = pull if self.factor is None else pull * self.factor
        return (pull * scale).sum(dim=0)


class ContrastiveLoss(nn.Module):
    """The scale, and the loss of each anchor."""

    positive_in_normalizer = False
    effective_negatives: float | None = None
    sum_when_cross_entropy = True  # a moving average of means has no batch size to multiply by

    def __init__(self, scale: Scale, process_group: Any = "auto") -> None:
        super().__init__()
        if scale not in ("temperature", "cross-entropy"):
            raise ValueError(f'scale is "temperature" or "cross-entropy", got {scale!r}')
        self.scale, self.process_group = scale, process_group
        self.memory: FeatureMemory | None = None

    def memory_in_use(self) -> FeatureMemory | None:
        """Rows of earlier batches, where they count: in training, as the table is written there."""
        return self.memory if self.training and torch.is_grad_enabled() else None

    def raise_for_invalid_ids(self) -> None:
        """Raise IndexError if a table met invalid ids on an accelerator."""
        for module in self.modules():
            if isinstance(module, NormalizerTable):
                module.raise_for_invalid_ids()

    def extra_repr(self) -> str:
        return f"scale={self.scale}"

    def contrast(
        self,
        sides: tuple[Anchors, ...],
        positive: Tensor,
        compared: Compared,
        learning: bool,
        live: int | None = None,
        processes: int = 1,
    ) -> Contrasted:
        """The mean over sides of the mean loss of their anchors, and its gradients.

        Args:
            sides: the rows; and the columns, where they are anchors other than these.
            positive: `(M,)` similarity of each anchor to its positive, the same on all sides.
            compared: given tau and its minimum, the anchors and their negatives.
            learning: whether gradients are wanted by the vectors.
            live: how many anchors are of this batch, L; default: all. The others count as
                negatives of these and, weighed with their own u, have these as negatives.
            processes: how many share the batch. Gradients by rows are then of this process's
                own, and that many times as large, since their mean is taken over processes.
        """
        live = len(positive) if live is None else live
        temperature = sides[0].temperature
        attached = _tau(sides)
        tau = attached.detach() if isinstance(attached, Tensor) else attached
        negatives = compared(tau, temperature.minimum)
        log_sum, count = negatives.log_sums()  # (S, M)
        weighed = self._weigh(sides, positive, tau, log_sum, count, live)
        scale: float | Tensor = 1 / (len(sides) * live)
        value = _first(self._value(temperature, weighed, tau), live).sum() * scale
        by_tau = isinstance(attached, Tensor) and attached.requires_grad and torch.is_grad_enabled()
        slopes = by_tau or temperature.learns()
        if not (learning or slopes):
            return Contrasted(value)
        scale = scale if self.scale == "temperature" else scale / tau
        push = weighed.push() * (scale * processes)
        rows, mean = negatives.gradients(log_sum, push, means=slopes)
        gradient: tuple[tuple[Tensor, Tensor], ...] = ()
        if mean is not None:
            slope = self._slope(weighed, positive, tau, mean)
            for side, own in zip(sides, slope, strict=True):
                side.temperature.learn(side.temperature_rows[:live], own[:live])
            if by_tau and isinstance(attached, Tensor):
                slope = weighed.where_present(temperature.by_tau(weighed.loss, slope, tau), 0)
                gradient = ((attached, _first(slope * scale, live).sum()),)
        pull = weighed.pull(scale * processes)[:live]
        return Contrasted(value, pull, rows if processes > 1 else _first(rows, live), gradient)

    def _weigh(
        self,
        sides: tuple[Anchors, ...],
        positive: Tensor,
        tau: float | Tensor,
        log_sum: Tensor,
        count: Tensor | int,
        live: int,
    ) -> _Weighed:
        rest, log_total = None, log_sum
        if self.positive_in_normalizer:
            log_total = torch.logaddexp(log_sum, positive / tau)
            rest, count = (log_sum - log_total).exp(), count + 1
        # As many for all are some.
        present = count > 0 if isinstance(count, Tensor) else None
        log_count = count.clamp(min=1).log() if isinstance(count, Tensor) else math.log(count)
        log_g = log_total - log_count  # -inf where nothing is present
        log_u = _estimates(sides, log_g, live)
        log_u = log_u if present is None else torch.where(present, log_u, 0)
        # A stored u far below ĝ (in eval mode, at a small tau) must not make inf of it.
        ratio = (log_g - log_u).exp().clamp(max=torch.finfo(log_g.dtype).max)
        excess = tau * log_u - positive
        if self.effective_negatives is None:
            return _Weighed(excess, log_u, ratio, None, rest, present, log_count)
        factor = (excess / tau + math.log(self.effective_negatives)).sigmoid()
        loss = against_candidates(excess, tau, self.effective_negatives)
        if present is not None:
            factor, loss = torch.where(present, factor, 1), torch.where(present, loss, -positive)
        return _Weighed(loss, log_u, ratio, factor, rest, present, log_count)

    def _value(self, temperature: Temperature, weighed: _Weighed, tau: float | Tensor) -> Tensor:
        """What is minimized, of each anchor `(S, M)`."""
        # Alignment alone says nothing of the temperature.
        aim = temperature.objective(weighed.loss, tau)
        aim = aim if aim is weighed.loss else weighed.where_present(aim, weighed.loss)
        if self.scale == "temperature":
            return aim
        # After all that depends on tau: how many candidates there are does not pull at it.
        return aim / tau + (weighed.log_count if self.sum_when_cross_entropy else 0.0)

    def _slope(
        self, weighed: _Weighed, positive: Tensor, tau: float | Tensor, mean: Tensor
    ) -> Tensor:
        """dF/dtau `(S, M)`, given means of s / tau over negatives; NaN where none are present."""
        own = positive / tau
        if weighed.rest is not None:  # over all that is in the normalizer
            mean = own + weighed.rest * (mean - own)
        slope = slope_by_tau(weighed.log_u, weighed.ratio, mean)
        if self.effective_negatives is not None:
            log_k = math.log(self.effective_negatives)
            x = weighed.log_u - own + log_k
            slope = softplus(x) - log_k + x.sigmoid() * (slope - weighed.log_u + own)
        return weighed.where_present(slope, math.nan)


def _estimates(sides: tuple[Anchors, ...], log_g: Tensor, live: int) -> Tensor:
    """log u of all anchors `(S, M)`; those of earlier batches had their visit."""
    if live == log_g.shape[1]:
        return log_normalizers([(side.estimator, side.rows) for side in sides], log_g)
    now = log_normalizers([(side.estimator, side.rows[:live]) for side in sides], log_g[:, :live])
    then = [
        side.estimator.peek(side.rows[live:], own[live:])
        for side, own in zip(sides, log_g, strict=True)
    ]
    return torch.cat([now, torch.stack(then)], dim=1)


def _first(anchors: Tensor, live: int) -> Tensor:
    """Of `(S, M, ...)`, the first ones."""
    return anchors if anchors.shape[1] == live else anchors[:, :live]


def _tau(sides: tuple[Anchors, ...]) -> float | Tensor:
    """Of all anchors: a number, a scalar, or `(S, M)`; with its graph."""
    first = sides[0].temperature
    if all(side.temperature is first for side in sides):
        tau = first(sides[0].temperature_rows)
        return tau[None] if isinstance(tau, Tensor) and tau.ndim else tau
    return torch.stack([side.temperature(side.temperature_rows) for side in sides])


def slope_by_tau(log_u: Tensor, ratio: Tensor, mean: Tensor) -> Tensor:
    """The estimate of d/dtau of tau log g, given log u, ĝ/u and the mean of s / tau, `(M,)` each.

    Of tau log ĝ it would be log ĝ - mean. With u in the place of ĝ the first term is the value's,
    and the second, as all that comes from this batch, is weighed by ĝ/u.
    """
    return log_u - ratio * mean


def checked_candidates(effective_negatives: float | None) -> float | None:
    """As given; raises ValueError unless above 0."""
    if effective_negatives is not None and not 0 < effective_negatives < math.inf:
        raise ValueError(f"effective_negatives must be above 0, got {effective_negatives}")
    return effective_negatives
