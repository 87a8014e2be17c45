"""How the log-normalizer of an anchor is estimated: from the batch alone, or over time.

A softmax contrastive loss is an alignment term plus, for each anchor, an estimate of
log g, the logarithm of its normalizer. A mini-batch offers an unbiased estimate ĝ of g, but
log ĝ is biased, and so is its gradient. Two estimators share one interface here:

    InBatchNormalizer   log u = log ĝ: SimCLR, DCL, CLIP
    NormalizerTable     log u = moving average of ĝ per sample: SogCLR

Both are called `estimator(rows, log_g)` and return log u without gradient, or several of them by
`log_normalizers`. With u = ĝ the loss's gradient is the plain one of tau log ĝ; with u the true
normalizer its expectation over batches is that of the global objective (paper, equation 6).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .equal_rows import all_different, log_mean_over_equal_rows
from .per_sample import PerSample
from .sample_ids import check_ids, move_ids

__all__ = [
    "InBatchNormalizer",
    "Normalizer",
    "NormalizerTable",
    "log_normalizers",
    "step_size",
]


def step_size(
    visits: Tensor,
    gamma_min: float,
    gamma_decay_visits: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """gamma, the weight of the new estimate, as a function of a sample's own visits.

    It depends on nothing else, so there is no schedule that a caller could forget to advance,
    and a sample added later starts fresh. The first visit always has gamma = 1.

    Args:
        visits: `(...)` integers >= 1, this visit counted.
        gamma_min: the limit, in (0, 1].
        gamma_decay_visits: None for `max(gamma_min, 1/visits)`, under which u is the plain mean of
            all visits until it turns into a moving average; or the number of visits over
            which gamma falls from 1 to gamma_min along a cosine (FastCLIP, arXiv 2407.01445:
            half the epochs of the run). 1 gives a constant gamma after the first visit.
        dtype: of the result.
    """
    visits = visits.to(dtype)
    if gamma_decay_visits is None:
        return visits.reciprocal().clamp(min=gamma_min)
    progress = ((visits - 1) / gamma_decay_visits).clamp(max=1)
    return gamma_min + (1 - gamma_min) * 0.5 * (1 + (math.pi * progress).cos())


class Normalizer(nn.Module):
    """The interface: who the rows are, then log u for their log ĝ."""

    def resolve(self, index: Tensor, device: torch.device) -> Tensor:
        """Sample ids `(B,)` to rows on `device`, int64."""
        raise NotImplementedError

    def forward(self, rows: Tensor, log_g: Tensor) -> Tensor:
        """log u `(M,)`, without graph, of anchors in these rows with this log ĝ `(M,)`."""
        raise NotImplementedError

    def peek(self, rows: Tensor, log_g: Tensor) -> Tensor:
        """What `forward` would return in training, without leaving a trace."""
        raise NotImplementedError


class InBatchNormalizer(Normalizer):
    """The mini-batch estimate, log u = log ĝ. It keeps nothing and ignores who the rows are."""

    def resolve(self, index: Tensor, device: torch.device) -> Tensor:
        return move_ids(index, device)

    def forward(self, rows: Tensor, log_g: Tensor) -> Tensor:
        return log_g.detach()

    def peek(self, rows: Tensor, log_g: Tensor) -> Tensor:
        return log_g.detach()


class NormalizerTable(PerSample, Normalizer):
    """log u and the number of visits of every row, a row being a sample (or a view of one).

        log u <- log( (1 - gamma) u + gamma ĝ ),   gamma = step_size(visits)

    The average is formed in log space, so nothing overflows at any temperature and no epsilon
    stands in a denominator. Rows that occur several times in one call are averaged and count
    one visit. The value returned is the one before it is rounded to the table's dtype.

    The table is written only in training mode with gradients enabled; otherwise what is
    stored is used as it stands (as batch normalization does in `eval()`), and a row without a
    visit falls back on ĝ. An estimate that is not finite is never written.

    Args:
        num_rows: how many rows; memory is 8 bytes each.
        gamma_min: smallest weight of a new estimate, see `step_size`.
        gamma_decay_visits: shape of the way there, see `step_size`.
        dtype: float32, or float64 for exact tests (u is off by 6e-8 |log u|). It stays when the
            module is cast with `.half()`, `.bfloat16()` or `.to(dtype)`.

    Attributes:
        table: `(num_rows + 1, 2)`, log u beside the number of visits: what one look-up of a large
            table brings into the cache. float32 counts to 2**24, when gamma has long ceased to
            depend on it. The spare last row takes ids that turn out to be invalid on an
            accelerator, where branching on them would stall the device.

    Raises:
        ValueError: for num_rows < 1, gamma_min outside (0, 1], gamma_decay_visits < 1.
    """

    table: Tensor
    invalid: Tensor

    def __init__(
        self,
        num_rows: int,
        *,
        gamma_min: float,
        gamma_decay_visits: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if num_rows < 1:
            raise ValueError(f"the table needs at least one row, got {num_rows}")
        if not 0 < gamma_min <= 1:
            raise ValueError(f"gamma_min must be in (0, 1], got {gamma_min}")
        if gamma_decay_visits is not None and gamma_decay_visits < 1:
            raise ValueError(
                f"gamma_decay_visits must be at least 1 visit, got {gamma_decay_visits}"
            )
        self.num_rows = num_rows
        self.gamma_min = gamma_min
        self.gamma_decay_visits = gamma_decay_visits
        self.register_buffer("table", torch.zeros(num_rows + 1, 2, dtype=dtype))
        self.log_u.fill_(-math.inf)
        self.register_buffer("invalid", torch.zeros((), dtype=torch.int64), persistent=False)

    @property
    def log_u(self) -> Tensor:
        """`(num_rows + 1,)`, a view of the table; -inf before the first visit."""
        return self.table.select(1, 0)

    @property
    def visits(self) -> Tensor:
        """`(num_rows + 1,)`, a view of the table, in its dtype."""
        return self.table.select(1, 1)

    def resolve(self, index: Tensor, device: torch.device) -> Tensor:
        """Ids to rows on `device`, checked.

        Args:
            index: `(B,)` integers in [0, num_rows).
            device: where the features are.

        Returns:
            `(B,)` int64.

        Raises:
            IndexError: an id on the CPU is out of range or negative; nothing has been copied
                or written then. Ids that are on an accelerator already are not waited for:
                invalid ones are counted, and `raise_for_invalid_ids` raises for them.
            TypeError: the ids are not integers.
        """
        if check_ids(index, self.num_rows, "sample id"):
            return move_ids(index, device)
        return self._mask_on_device(move_ids(index, device))

    def raise_for_invalid_ids(self) -> None:
        """Raise IndexError if invalid ids were met on the device. Waits for the device.

        Call it where the host reads results anyway (when logging); saving does so by itself.
        """
        count = int(self.invalid)
        if count:
            self.invalid.zero_()
            raise IndexError(
                f"{count} sample ids were outside [0, {self.num_rows}) and left no trace in the "
                "table; num_samples must be larger than the largest id"
            )

    def forward(self, rows: Tensor, log_g: Tensor) -> Tensor:
        """Average ĝ into the rows and return log u.

        Args:
            rows: `(M,)` from `resolve`; equal rows are averaged.
            log_g: `(M,)` log ĝ.

        Returns:
            `(M,)` log u, no graph, dtype of `log_g`.
        """
        return _updated([self], [rows], log_g[None])[0]

    @torch.no_grad()
    def peek(self, rows: Tensor, log_g: Tensor) -> Tensor:
        estimate = _estimates([self], [rows], log_g[None])
        _, stored = _looked_up([self], [rows])
        log_u, visits = stored.unbind(-1)
        new = self._joined([self], [rows], self._averaged(log_u, visits, estimate), estimate)
        return new[0].to(log_g.dtype)

    def averages_like(self, other: Normalizer) -> bool:
        """Whether one update can serve both, and neither has a way of its own."""
        return (
            type(other) is type(self)
            and isinstance(other, NormalizerTable)
            and type(self).forward is NormalizerTable.forward
            and self.training == other.training
            and self._settings() == other._settings()
        )

    def _settings(self) -> tuple[object, ...]:
        return self.gamma_min, self.gamma_decay_visits, self.table.dtype

    def _places(self, rows: Tensor) -> Tensor:
        """Where the rows are kept, `(M,)`."""
        return rows

    @staticmethod
    def _joined(
        tables: Sequence["NormalizerTable"], rows: Sequence[Tensor], log_u: Tensor, estimate: Tensor
    ) -> Tensor:
        """log u `(S, M)` of all rows, given those that are kept here."""
        return log_u

    def _averaged(self, log_u: Tensor, visits: Tensor, estimate: Tensor) -> Tensor:
        """log u with one visit more, of what is stored and log ĝ, `(S, M)` each."""
        gamma = step_size(visits + 1, self.gamma_min, self.gamma_decay_visits, estimate.dtype)
        return torch.logaddexp((-gamma).log1p() + log_u, gamma.log() + estimate)

    def extra_repr(self) -> str:
        decay = (
            "1/visits"
            if self.gamma_decay_visits is None
            else f"cosine over {self.gamma_decay_visits} visits"
        )
        return f"{self.num_rows}, gamma_min={self.gamma_min}, gamma={decay}, {self.table.dtype}"

    def _mask_on_device(self, index: Tensor) -> Tensor:
        valid = (index >= 0) & (index < self.num_rows)
        self.invalid += (~valid).sum()
        return torch.where(valid, index, self.num_rows)

    # The signature of the overridden hook is torch's, which leaves it untyped.
    def _save_to_state_dict(self, destination, prefix, keep_vars):  # type: ignore[no-untyped-def]
        self.raise_for_invalid_ids()
        super()._save_to_state_dict(destination, prefix, keep_vars)


def log_normalizers(sides: Sequence[tuple[Normalizer, Tensor]], log_g: Tensor) -> Tensor:
    """log u of the anchors of several sides, each with an estimator of its own.

    Tables that average alike are updated together, which takes as many operations as one of them.

    Args:
        sides: S estimators, each with rows `(M,)` from its `resolve`.
        log_g: `(S, M)` log ĝ.

    Returns:
        `(S, M)`, no graph, dtype of `log_g`.
    """
    estimators, rows = zip(*sides, strict=True)
    first = estimators[0]
    if isinstance(first, NormalizerTable) and all(map(first.averages_like, estimators)):
        return _updated(estimators, rows, log_g)
    return _stacked([own(*given) for own, *given in zip(estimators, rows, log_g, strict=True)])


def _updated(tables: Sequence[NormalizerTable], rows: Sequence[Tensor], log_g: Tensor) -> Tensor:
    """`NormalizerTable.forward` of several that average alike, `(S, M)`."""
    first = tables[0]
    learning = first.training and torch.is_grad_enabled()
    with torch.no_grad():
        estimate = _estimates(tables, rows, log_g)
        places, stored = _looked_up(tables, rows)
        log_u, visits = stored.unbind(-1)
        if not learning:
            known = torch.where(visits > 0, log_u.to(estimate.dtype), estimate)
            return first._joined(tables, rows, known, estimate).to(log_g.dtype)
        new, finite = first._averaged(log_u, visits, estimate), estimate.abs() < math.inf
        written = torch.where(finite, new.to(log_u.dtype), log_u)
        # Equal rows write equal numbers.
        for table, place, own in zip(
            tables, places, torch.stack([written, visits + finite], dim=-1), strict=True
        ):
            table.table.index_copy_(0, place, own)
        return first._joined(tables, rows, new, estimate).to(log_g.dtype)


def _estimates(tables: Sequence[NormalizerTable], rows: Sequence[Tensor], log_g: Tensor) -> Tensor:
    """log ĝ of each entry's row `(S, M)`, in the wider of both dtypes."""
    kept = tables[0].table.dtype
    log_g = log_g if log_g.dtype == kept else log_g.to(torch.promote_types(log_g.dtype, kept))
    if all_different(*rows):
        return log_g
    return _stacked([log_mean_over_equal_rows(*own) for own in zip(rows, log_g, strict=True)])


def _looked_up(
    tables: Sequence[NormalizerTable], rows: Sequence[Tensor]
) -> tuple[list[Tensor], Tensor]:
    """Where the rows are kept, `(M,)` each; and what is stored there, `(S, M, 2)`."""
    places = [table._places(own) for table, own in zip(tables, rows, strict=True)]
    found = [table.table.index_select(0, at) for table, at in zip(tables, places, strict=True)]
    return places, _stacked(found)


def _stacked(sides: Sequence[Tensor]) -> Tensor:
    """`(S, ...)`, of one side a view."""
    return sides[0][None] if len(sides) == 1 else torch.stack(list(sides))
