"""SogCLR in one function, for a small batch of different samples on a CPU. Read this first.

At a batch of 64, the calls and checks between operations take longer than the arithmetic. Here
Algorithm 1 (Yuan et al., ICML 2022) is some forty operations in a row. `contrast.py` computes the
same from exchangeable parts, for all other cases: repeated samples, other devices, several
processes, other normalizers and temperatures.
"""

import math

import torch
from torch import Tensor

from . import torch_versions
from .backends.similarities import needs_shift, scaled_products
from .base import ContrastiveLoss
from .gradient import with_gradient_function
from .inputs import normalize_both, through_normalization
from .normalizer_table import NormalizerTable, step_size
from .per_sample import require_forward_pass
from .sample_ids import holds_integers
from .temperature import ConstantTemperature

__all__ = ["small_batch_loss"]

LARGEST = 256  # rows of the matrix; with more, the arithmetic takes longer than the calls


def small_batch_loss(
    settings: ContrastiveLoss, a: Tensor, b: Tensor, index: Tensor | None, *others: Tensor | None
) -> Tensor | None:
    """Compute the loss of a batch and update the tables, or return None if it does not fit here.

    Args:
        settings: the loss; with one table it is for two views, with two for pairs.
        a, b: `(B, d)` features of the two views, or of the two sides of pairs.
        index: `(B,)` integers, the row of each sample in the tables.
        others: `(B,)` integers each, sample keys or groups; None for none.

    Returns:
        The scalar that `contrast` returns. None, with nothing written, if ids repeat or are
        invalid, the loss is not finite, or a setting, dtype or device needs `contrast`.
    """
    sides = settings.sides()
    temperature = sides[0][1]
    tables = [table for table, _ in sides if type(table) is NormalizerTable]
    plain = settings.memory is None and settings.effective_negatives is None
    if not plain or len(tables) < len(sides) or type(temperature) is not ConstantTemperature:
        return None
    ids = [each for each in (index, *others) if each is not None]
    if index is None or not _fits(a, b, ids, tables, temperature.value):
        return None
    require_forward_pass()
    first, index = tables[0], index.to(torch.int64)
    tau, batch, two_views = temperature.value, len(index), len(tables) == 1
    unit, length = normalize_both(a, b)  # (2, B, d)
    # Rows and columns of the matrix are anchors: the 2B views along both, or side a along rows
    # and side b along columns. An entry is s / tau, later exp(s / tau), or 0 if no negative.
    x, y = (unit.flatten(0, 1),) * 2 if two_views else unit.unbind()
    matrix = scaled_products(x, y, tau)
    positive = matrix.diagonal(batch if two_views else 0).clone()  # (B,)
    matrix.exp_()
    for offset in (0, batch, -batch) if two_views else (0,):
        matrix.diagonal(offset).zero_()
    # Line 5 of Algorithm 1: ĝ, (1, B), the mean over both views; of pairs (2, B).
    if two_views:
        negatives, g = 2 * batch - 2, matrix.sum(dim=1).view(1, 2, batch).mean(dim=1)
    else:
        negatives, g = batch - 1, torch.stack([matrix.sum(dim=1), matrix.sum(dim=0)])
    # Line 6: u. `rows` is a copy, which is written back only if the loss is finite.
    rows = torch.stack([table.table.index_select(0, index) for table in tables])  # (S, B, 2)
    log_u, visits = rows.unbind(-1)
    gamma = step_size(visits.add_(1), first.gamma_min, first.gamma_decay_visits, a.dtype)
    u = log_u.exp().lerp_(g.div_(negatives), gamma)  # (S, B)
    loss = log_u.copy_(u.log()).sub(positive).mean()
    if not math.isfinite(loss.item()):
        return None
    for table, own in zip(tables, rows, strict=True):
        table.table.index_copy_(0, index, own)

    divided = settings.scale == "cross-entropy"

    def gradient(upstream: Tensor) -> tuple[Tensor, Tensor]:
        """Compute line 7 of Algorithm 1, the gradient by a and b."""
        per_anchor = upstream.item() / (2 * batch * (tau if divided else 1))
        weight = (per_anchor / negatives) / u  # (S, B)
        by_unit = torch.empty_like(unit)
        # The derivative of an anchor's loss by s is exp(s / tau) / (u * negatives) for a negative,
        # -1 for the positive. Two anchors share each entry, so their derivatives add up.
        if two_views:
            weight = weight.repeat(1, 2)  # (1, 2B)
            by_similarity = matrix * (weight.T + weight)
            for offset in (batch, -batch):
                by_similarity.diagonal(offset).fill_(-2 * per_anchor)
            torch.mm(by_similarity, x, out=by_unit.view_as(x))
        else:
            by_row, by_column = weight.unbind()
            by_similarity = matrix * (by_row.unsqueeze(1) + by_column)
            by_similarity.diagonal().fill_(-2 * per_anchor)
            torch.mm(by_similarity, y, out=by_unit[0])
            torch.mm(by_similarity.T, x, out=by_unit[1])
        return through_normalization(by_unit, unit, length)

    return with_gradient_function(loss if divided else loss * tau, gradient, a, b)


def _fits(
    a: Tensor, b: Tensor, ids: list[Tensor], tables: list[NormalizerTable], tau: float
) -> bool:
    """Return whether features, ids (the rows first), tables and tau suit this computation."""
    first = tables[0]
    if torch_versions.is_compiling() or not (
        isinstance(b, Tensor)
        and a.dtype == b.dtype == first.table.dtype
        and a.is_cpu
        and b.is_cpu
        and first.table.is_cpu
        and a.ndim == 2
        and a.shape == b.shape
        and 2 <= a.shape[0] <= LARGEST // (1 if len(tables) > 1 else 2)
        and first.training
        and torch.is_grad_enabled()
        and not torch_versions.autocasts("cpu")
        and not needs_shift(False, tau, a.dtype)
        and all(first.averages_like(table) for table in tables[1:])
    ):
        return False
    listed = []
    for each in ids:
        if not (isinstance(each, Tensor) and each.is_cpu and holds_integers(each)):
            return False
        listed.append(each.tolist() if each.shape == a.shape[:1] else [])
        if len(set(listed[-1])) < len(a):
            return False
    rows = listed[0]
    return min(rows) >= 0 and max(rows) < min(table.num_rows for table in tables)
