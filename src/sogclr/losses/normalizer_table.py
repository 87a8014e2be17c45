"""SogCLR's estimator of log g: a moving average of ĝ for each sample, kept in a table."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .equal_rows import all_different, log_mean_over_equal_rows
from .normalizer import Normalizer
from .per_sample import PerSample, append_rows, require_forward_pass, require_growth
from .sample_ids import check_ids, move_ids

__all__ = ["NormalizerTable", "peek_normalizers", "step_size", "update_normalizers"]


class NormalizerTable(PerSample, Normalizer):
    """SogCLR's table: log u and the number of visits of each sample (or stored view), one per row.

        log u <- log( (1 - gamma) u + gamma ĝ ),   gamma = step_size(visits)

    The average is formed in log space: nothing overflows at any temperature, and no denominator
    needs an epsilon. Entries with equal rows in one call are averaged and count as one visit. The
    returned log u is not rounded to the table's dtype.

    The table is written in training mode with gradients enabled. Otherwise its values are used as
    they are, like batch normalization's in `eval()`, and a row without a visit returns ĝ. For
    held-out samples, use `sogclr.validation_loss`. An estimate that is not finite is never written.

    Args:
        num_rows: number of rows, of 8 bytes each.
        gamma_min, gamma_decay_visits: see `step_size`.
        dtype: float32, or float64 for exact tests (in float32 u is off by 6e-8 |log u|). It stays
            when the module is cast with `.half()`, `.bfloat16()` or `.to(dtype)`.

    Attributes:
        table: `(num_rows + 1, 2)`, log u beside the number of visits, so that a look-up reads one
            cache line. float32 counts to 2**24, when gamma has long been constant. The last row is
            a spare for invalid ids on an accelerator, where the host does not wait for a check.
    """

    rule: tuple[str, ...] = ("gamma_min", "gamma_decay_visits")  # what `_average` depends on
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
        if gamma_decay_visits is not None and not 1 <= gamma_decay_visits < math.inf:
            raise ValueError(
                f"gamma_decay_visits must be at least 1 and finite, got {gamma_decay_visits}"
            )
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype of the table must be float32 or float64, got {dtype}")
        self.num_rows = num_rows
        self.gamma_min, self.gamma_decay_visits = gamma_min, gamma_decay_visits
        self.register_state("table", torch.zeros(num_rows + 1, 2, dtype=dtype))
        self.table[:, 0] = -math.inf
        self.register_state("invalid", torch.zeros((), dtype=torch.int64), persistent=False)

    @property
    def log_u(self) -> Tensor:
        """Return log u, `(num_rows + 1,)`, a view of the table; -inf before the first visit."""
        return self.table.select(1, 0)

    @property
    def visits(self) -> Tensor:
        """Return the numbers of visits, `(num_rows + 1,)`, a view of the table, in its dtype."""
        return self.table.select(1, 1)

    def resolve(self, index: Tensor, device: torch.device) -> Tensor:
        """Check the rows of samples, `(B,)` integers in [0, num_rows), and move them to `device`.

        An invalid id on an accelerator becomes the spare row, and is counted without waiting, for
        `raise_for_invalid_ids`.

        Raises:
            IndexError: an id on the CPU is out of range; nothing is written then.
            TypeError: the ids are not integers.
        """
        if check_ids(index, self.num_rows, "sample id"):
            return move_ids(index, device)
        index = move_ids(index, device)
        valid = (index >= 0) & (index < self.num_rows)
        self.invalid += (~valid).sum()
        return torch.where(valid, index, self.num_rows)

    def raise_for_invalid_ids(self) -> None:
        """Raise IndexError if `resolve` met invalid ids on an accelerator; waits for the device.

        Call it when the host reads results anyway, as in logging. Saving the table calls it.
        """
        count = int(self.invalid)
        if count:
            self.invalid.zero_()
            raise IndexError(
                f"{count} sample ids were outside [0, {self.num_rows}) and were not written to the "
                "table; make the loss with a num_samples above the largest id"
            )

    def forward(self, rows: Tensor, log_g: Tensor) -> Tensor:
        """Average ĝ into the rows and return log u, see `update_normalizers`."""
        return _update([self], [rows], log_g.detach()[None])[0]

    @torch.no_grad()
    def peek(self, rows: Tensor, log_g: Tensor) -> Tensor:
        return _update([self], [rows], log_g[None], peek=True)[0]

    def fill(self, log_u: Tensor, visits: Tensor) -> None:
        """Replace the whole table by log u and the numbers of visits, `(num_rows,)` each."""
        rows = torch.stack([log_u, visits.to(log_u.dtype)], dim=1)
        spare = rows.new_tensor([[-math.inf, 0]])
        # A shard takes its rows from the whole table when it is loaded.
        self.load_state_dict({"table": torch.cat([rows, spare])}, strict=False)

    def grow(self, num_rows: int) -> None:
        """Add rows without a visit; rows that exist stay as they are.

        Args:
            num_rows: number of rows afterwards.

        Raises:
            ValueError: there are more rows already.
        """
        require_growth(self.num_rows, num_rows)
        self.table = append_rows(self.table, num_rows, torch.tensor([-math.inf, 0]))
        self.num_rows = num_rows

    def averages_like(self, other: Normalizer) -> bool:
        """Return whether one update can serve both tables."""
        return other is self or (
            type(other) is type(self)
            and isinstance(other, NormalizerTable)
            and self.training == other.training
            and self.table.dtype == other.table.dtype
            and all(getattr(self, name) == getattr(other, name) for name in self.rule)
        )

    def _levels(
        self, tables: Sequence["NormalizerTable"], estimate: Tensor, update: bool
    ) -> Tensor | float:
        """Return what the tables subtract from log u, `(S, 1)` or 0.

        Before, `update` it from log ĝ = `estimate` `(S, M)`.
        """
        return 0.0

    def _places(self, rows: Tensor) -> Tensor:
        """Return the indices in this process's `table` of rows `(M,)`."""
        return rows

    def _complete(
        self,
        tables: Sequence["NormalizerTable"],
        rows: Sequence[Tensor],
        log_u: Tensor,
        estimate: Tensor,
    ) -> Tensor:
        """Fill in log u `(S, M)` of rows that other processes hold; `estimate` for invalid ids."""
        return log_u

    def _average(self, log_u: Tensor, visits: Tensor, estimate: Tensor) -> Tensor:
        """Compute log u after one more visit with log ĝ = `estimate`, `(S, M)` each."""
        gamma = step_size(visits + 1, self.gamma_min, self.gamma_decay_visits, estimate.dtype)
        return torch.logaddexp((-gamma).log1p_().add(log_u), gamma.log_().add(estimate))

    def extra_repr(self) -> str:
        decay = self.gamma_decay_visits
        gamma = "1/visits" if decay is None else f"cosine over {decay} visits"
        return f"{self.num_rows}, gamma_min={self.gamma_min}, gamma={gamma}, {self.table.dtype}"

    # torch leaves the overridden hook untyped.
    def _save_to_state_dict(self, destination, prefix, keep_vars):  # type: ignore[no-untyped-def]
        self.raise_for_invalid_ids()
        super()._save_to_state_dict(destination, prefix, keep_vars)


def update_normalizers(sides: Sequence[tuple[Normalizer, Tensor]], log_g: Tensor) -> Tensor:
    """Update the normalizers of S sides, each with its rows `(M,)`, from log ĝ `(S, M)`.

    Return log u `(S, M)`, without graph. Tables that average alike are updated together, in as few
    operations as one table.
    """
    normalizers, rows = zip(*sides, strict=True)
    first = normalizers[0]
    # A subclass with a forward of its own is called once per side.
    together = isinstance(first, NormalizerTable) and type(first).forward is NormalizerTable.forward
    if together and all(first.averages_like(each) for each in normalizers):
        return _update(normalizers, rows, log_g)
    each_side = zip(normalizers, rows, log_g, strict=True)
    return _stack([normalizer(own_rows, own) for normalizer, own_rows, own in each_side])


def peek_normalizers(sides: Sequence[tuple[Normalizer, Tensor]], log_g: Tensor) -> Tensor:
    """Return what `update_normalizers` would return in training, without changing normalizers."""
    each_side = zip(sides, log_g, strict=True)
    return _stack([normalizer.peek(rows, own) for (normalizer, rows), own in each_side])


def _update(
    tables: Sequence[NormalizerTable], rows: Sequence[Tensor], log_g: Tensor, peek: bool = False
) -> Tensor:
    """Update tables that average alike, unless it is a `peek`, and return log u `(S, M)`."""
    first, estimate = tables[0], _average_equal_rows(tables, rows, log_g)
    writes = first.training and torch.is_grad_enabled() and not peek
    if writes:
        require_forward_pass()
    level = first._levels(tables, estimate, update=writes)
    estimate = estimate - level
    places = [table._places(side_rows) for table, side_rows in zip(tables, rows, strict=True)]
    pairs = zip(tables, places, strict=True)
    current = _stack([table.table.index_select(0, place) for table, place in pairs])  # (S, M, 2)
    log_u, visits = current.unbind(-1)
    if writes or peek:
        new = first._average(log_u, visits, estimate)
    else:
        new = torch.where(visits > 0, log_u.to(estimate.dtype), estimate)
    if writes:
        finite = estimate.abs() < math.inf
        # `current` is a copy of the rows: change it, then write it to the tables.
        log_u.copy_(torch.where(finite, new.to(log_u.dtype), log_u))
        visits.add_(finite)
        for table, place, new_rows in zip(tables, places, current.unbind(), strict=True):
            table.table.index_copy_(0, place, new_rows)  # equal places get equal values
    return (first._complete(tables, rows, new, estimate) + level).to(log_g.dtype)


def _average_equal_rows(
    tables: Sequence[NormalizerTable], rows: Sequence[Tensor], log_g: Tensor
) -> Tensor:
    """Average ĝ over equal rows: log ĝ `(S, M)`, in the wider dtype of `log_g` and the table."""
    log_g = log_g.to(torch.promote_types(log_g.dtype, tables[0].table.dtype))
    # Both sides of pairs often have the same rows: compare them once. For a single side,
    # `log_mean_over_equal_rows` does.
    if len(rows) > 1 and all_different(*rows):
        return log_g
    return _stack([log_mean_over_equal_rows(*own) for own in zip(rows, log_g, strict=True)])


def _stack(sides: Sequence[Tensor]) -> Tensor:
    """Stack the tensors of S sides, `(S, ...)`; a view if S is 1."""
    return sides[0][None] if len(sides) == 1 else torch.stack(list(sides))


def step_size(
    visits: Tensor,
    gamma_min: float,
    gamma_decay_visits: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Compute gamma, the weight of the new estimate, from a sample's number of visits.

    The first visit has gamma = 1, also of samples that are added later: there is no global step.

    Args:
        visits: `(...)` integers >= 1, this visit counted.
        gamma_min: the smallest gamma, in (0, 1].
        gamma_decay_visits: None for `max(gamma_min, 1/visits)`: u is the plain mean of all visits
            until gamma reaches gamma_min. Or the number of visits over which gamma falls from 1 to
            gamma_min along a cosine; 1 makes gamma constant after the first visit. FastCLIP (arXiv
            2407.01445) takes half the epochs of the run.
        dtype: of the result.
    """
    visits = visits.to(dtype)
    if gamma_decay_visits is None:
        return visits.reciprocal().clamp_(min=gamma_min)
    progress = ((visits - 1) / gamma_decay_visits).clamp(max=1)
    return gamma_min + (1 - gamma_min) * 0.5 * (1 + (math.pi * progress).cos())
