"""Take over the moving averages u of a run of LibAUC or FastCLIP."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..common.errors import UserError
from ..losses.normalizer_table import NormalizerTable
from ..losses.pairs import GlobalClipLoss
from ..losses.sample_ids import holds_integers
from ..losses.temperature import IndividualTemperature, Temperature, read_tau
from ..losses.two_view import GlobalContrastiveLoss
from .foreign_tables import ForeignSide, Source, read_foreign_table

__all__ = ["import_table"]

PerSide = Tensor | tuple[Tensor, Tensor] | None


def import_table(
    loss: GlobalContrastiveLoss | GlobalClipLoss,
    source: Source,
    *,
    ids: PerSide = None,
    positive: PerSide = None,
    visits: int | None = None,
) -> int:
    """Take over u, the moving averages of each sample, from a run of LibAUC or FastCLIP.

    The whole table of the loss is replaced; samples without a u are as before their first visit.
    Temperatures of single samples are taken over too. u belongs to the weights of the encoder, so
    load these as well. It goes into a loss of your own loop: `pretrain` and `align` train encoders
    of their own, from the first step on.

    Args:
        loss: `GlobalContrastiveLoss` for u of two views, `GlobalClipLoss` for u of pairs. Its
            temperature must be that of the other run.
        source: FastCLIP's checkpoint, or the tensors of LibAUC's loss: a path (which is read
            without executing anything in it), a dict, the other library's loss itself, or u alone,
            `(N,)` or `(N, 1)`, for two views.
        ids: `(N,)` integers, the row in this loss of each sample of the other run; -1 leaves a
            sample out. Two tensors if the sides of pairs are numbered differently. Default: the
            same numbers, which needs a loss with N samples.
        positive: required for pairs, whose u is relative to it there: `(N,)` cosine similarity of
            the two sides of each pair, by the loaded encoder. Two tensors if the sides are numbered
            differently.
        visits: how many visits u counts for, at least 1; the next estimate has the weight
            `step_size(visits + 1)`. Default: 1, so that u, which lags behind the encoder, is soon
            renewed. If the loss has `gamma_decay_visits`: the epochs that the other run has made,
            which FastCLIP's checkpoint knows.

    Returns:
        The number of u that were taken over, on both sides together.

    Raises:
        UserError: something does not fit; the loss is unchanged then.

    Example:
        >>> from sogclr import GlobalContrastiveLoss
        >>> loss = GlobalContrastiveLoss(num_samples=3)
        >>> import_table(loss, torch.tensor([0.5, 0.0, 2.0]))  # no visit of sample 1
        2
    """
    foreign = read_foreign_table(source)
    sides = _own_sides(loss, len(foreign.sides))
    if foreign.less_positive and positive is None:
        raise UserError(
            "positive: u of pairs is relative to the similarity of each pair, which is not saved: "
            "pass it, (N,), computed by the loaded encoder"
        )
    if not foreign.less_positive and positive is not None:
        raise UserError("positive: u of two views is not relative to it; leave it out")
    visits = _choose_visits(visits, foreign.epochs, [table for table, _ in sides])
    count = len(sides)
    both = zip(foreign.sides, sides, _split(ids, count), _split(positive, count), strict=True)
    prepared = [_prepare(theirs, *own, *arguments) for theirs, own, *arguments in both]
    for (table, temperature), side in zip(sides, prepared, strict=True):
        _write(table, temperature, side, visits)
    return sum(len(side.rows) for side in prepared)


@dataclass(frozen=True)
class _Rows:
    """The M rows that one side takes over, with log u, tau and its velocity, `(M,)` each."""

    rows: Tensor
    log_u: Tensor
    tau: Tensor | None
    velocity: Tensor | None


def _own_sides(
    loss: GlobalContrastiveLoss | GlobalClipLoss, count: int
) -> list[tuple[NormalizerTable, Temperature]]:
    needed = GlobalContrastiveLoss if count == 1 else GlobalClipLoss
    if not isinstance(loss, needed):
        kind = "two views" if count == 1 else "pairs"
        raise UserError(
            f"loss: u is that of {kind}: pass a {needed.__name__}, not a {type(loss).__name__}"
        )
    if isinstance(loss, GlobalContrastiveLoss) and loss.num_stored_views is not None:
        raise UserError("loss: has a u for each stored view, but the other run one per sample")
    sides = []
    for normalizer, temperature in loss.sides():
        if not isinstance(normalizer, NormalizerTable):
            raise UserError(f"loss: its normalizer, {type(normalizer).__name__}, is no table")
        sides.append((normalizer, temperature))
    return sides


def _choose_visits(visits: int | None, epochs: int | None, tables: list[NormalizerTable]) -> int:
    if visits is None:
        if all(table.gamma_decay_visits is None for table in tables):
            return 1
        if epochs is None:
            raise UserError(
                "visits: with gamma_decay_visits, gamma depends on the number of visits: pass "
                "the number of epochs that the other run has made"
            )
        return epochs
    if not isinstance(visits, int) or visits < 1:
        raise UserError(f"visits: must be a whole number of at least 1, got {visits}")
    return visits


def _split(argument: PerSide, count: int) -> tuple[Tensor | None, ...]:
    """Return one tensor, or None, for each side."""
    both = argument if isinstance(argument, tuple) else (argument,) * count
    if len(both) != count:
        raise UserError(f"ids, positive: got {len(both)} tensors for {count} side(s)")
    return both


def _prepare(
    theirs: ForeignSide,
    table: NormalizerTable,
    temperature: Temperature,
    ids: Tensor | None,
    positive: Tensor | None,
) -> _Rows:
    """Convert one side, and refuse what does not fit."""
    number = len(theirs.log_u)
    rows = _rows(ids, number, table.num_rows, theirs.name)
    taken = (theirs.log_u > -math.inf) & (rows >= 0)
    rows, log_u = rows[taken], theirs.log_u[taken]
    if not len(rows):
        raise UserError(f"{theirs.name}: no visited sample is among the ids")
    if rows.unique().numel() < len(rows):
        repeated = int(rows.bincount().argmax())
        raise UserError(f"ids: {repeated} occurs more than once, but a row has one u")
    tau = _tau(theirs.tau, taken, temperature)
    if positive is not None:
        own = read_tau(temperature(rows.to(table.table.device))) if tau is None else tau
        own = own.to("cpu", torch.float64) if isinstance(own, Tensor) else own
        log_u = log_u + _similarities(positive, number, taken) / own
    velocity = None if theirs.velocity is None else theirs.velocity[taken]
    return _Rows(rows, log_u, tau, velocity)


def _rows(ids: Tensor | None, number: int, num_rows: int, name: str) -> Tensor:
    """Return the row of each of their samples, `(number,)`; -1 for those that are left out."""
    if ids is None:
        if number != num_rows:
            raise UserError(
                f"{name}: has {number} samples, but the loss has {num_rows}: make the loss with "
                f"num_samples={number}, or pass ids"
            )
        return torch.arange(number)
    if not isinstance(ids, Tensor) or not holds_integers(ids) or ids.shape != (number,):
        raise UserError(f"ids: must be a tensor of {number} integers, one for each {name}")
    rows = ids.to("cpu", torch.int64)
    outside = rows[(rows < -1) | (rows >= num_rows)]
    if len(outside):
        raise UserError(f"ids: {int(outside[0])} is outside [0, {num_rows}), the rows of the loss")
    return rows


def _tau(theirs: Tensor | float | None, taken: Tensor, own: Temperature) -> Tensor | None:
    """Return the temperatures that single samples take over; None if all keep those of the loss."""
    if isinstance(theirs, Tensor):
        if not isinstance(own, IndividualTemperature):
            raise UserError(
                "loss: every sample of the other run has its own temperature: make the loss with "
                "temperature=IndividualTemperature(rho=...)"
            )
        tau = theirs[taken]
        low, high = (float(bound) for bound in tau.aminmax())
        if low < own.minimum * (1 - 1e-6) or high > own.maximum * (1 + 1e-6):
            raise UserError(
                f"loss: temperatures of the other run lie in [{low:.6g}, {high:.6g}]: give "
                "IndividualTemperature a minimum and a maximum that hold them"
            )
        return tau
    spare = torch.zeros(1, dtype=torch.int64)
    one = own.initial if isinstance(own, IndividualTemperature) else float(read_tau(own(spare)))
    if theirs is not None and abs(one / theirs - 1) > 1e-3:
        raise UserError(
            f"loss: u belongs to a temperature of {theirs:.6g}, but the loss has {one:.6g}: "
            "make the loss with that temperature"
        )
    return None


def _similarities(positive: Tensor, number: int, taken: Tensor) -> Tensor:
    """Check the similarities of `number` pairs, and return those that are taken, in float64."""
    shape = tuple(positive.shape) if isinstance(positive, Tensor) else type(positive).__name__
    if shape not in ((number,), (number, 1)):
        raise UserError(f"positive: must be a tensor of {number} similarities, got {shape}")
    similarities = positive.detach().flatten().to("cpu", torch.float64)[taken]
    wrong = ~(similarities.abs() <= 1.001)  # also where it is NaN
    if wrong.any():
        raise UserError(
            f"positive: cosine similarities lie in [-1, 1], got {similarities[wrong][0]:g}"
        )
    return similarities


def _write(table: NormalizerTable, temperature: Temperature, side: _Rows, visits: int) -> None:
    log_u = torch.full((table.num_rows,), -math.inf, dtype=torch.float64)
    log_u[side.rows] = side.log_u
    table.fill(log_u.to(table.table), visits * (log_u > -math.inf).to(table.table))
    if side.tau is not None:
        assert isinstance(temperature, IndividualTemperature)
        rows = side.rows.to(temperature.tau.device)
        temperature.tau[rows] = side.tau.to(temperature.tau)
        if side.velocity is not None:
            temperature.velocity[rows] = side.velocity.to(temperature.velocity)
