"""SigLIP's loss, a baseline for pairs: a sum of logistic losses, without a normalizer."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, normalize

from ..distributed.exchange import Shares, with_backward
from . import torch_versions
from .inputs import check_shapes, distinct_ids, receive, stack_wide, without_autocast
from .sample_ids import move_ids, never_negatives

__all__ = ["SigLipLoss"]


class SigLipLoss(nn.Module):
    """SigLIP: logistic losses of all a with all b, summed over b and averaged over a.

        - mean over a, sum over b of  log sigmoid( z (s(a, b) / tau + bias) )

    z is 1 for partners and -1 for negatives. Zhai et al., "Sigmoid Loss for Language Image
    Pre-Training", ICCV 2023, algorithm 1. tau and the bias are parameters: give
    `loss.parameters()` to the optimizer.

    Args:
        temperature: initial tau; 0.1 as published (t = 10).
        bias: initial bias; -10 as published, since negatives outnumber positives.
        process_group: see `sogclr.losses`.
    """

    def __init__(
        self, temperature: float = 0.1, *, bias: float = -10.0, process_group: Any = "auto"
    ) -> None:
        super().__init__()
        if not (temperature > 0 and math.isfinite(temperature)):
            raise ValueError(f"temperature must be a positive number, got {temperature}")
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.bias = nn.Parameter(torch.tensor(float(bias)))
        self.process_group = process_group

    def raise_for_invalid_ids(self) -> None:
        """Do nothing: this loss has no table, so every id is valid."""

    @torch_versions.keep_from_old_compilers
    def forward(
        self,
        a: Tensor,
        b: Tensor,
        index: Tensor | None = None,
        *,
        index_b: Tensor | None = None,
        group: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of a batch of pairs; see `PairLoss.forward` for the arguments."""
        device, shares = receive(a, self.process_group)
        index = distinct_ids(a, shares) if index is None else move_ids(index, device)
        index_b = index if index_b is None else move_ids(index_b, device)
        group = index if group is None else move_ids(group, device)
        check_shapes(a, b, index, index_b, group, shares=shares)
        ids = [index, index_b, group]
        with without_autocast(a.device):
            units = normalize(stack_wide(a, b), dim=-1)  # (2, n, d)
            if shares is None:
                x, y = units.unbind()
                scale, bias = self.log_scale.exp(), self.bias
                return _sum(x @ y.T, scale, bias, ids, slice(0, len(a))) / len(a)
            return self._shared(units, torch.stack(ids), shares)

    def _shared(self, units: Tensor, ids: Tensor, shares: Shares) -> Tensor:
        """Compute the loss with the samples of all processes, see `sogclr.distributed.exchange`."""
        all_ids = list(shares.gather(ids, dim=1))
        all_x, all_y = shares.gather(units, dim=1)
        x, y = with_backward(units, lambda grad: grad * shares.processes).unbind()
        log_scale, bias = (with_backward(each, shares.sum) for each in (self.log_scale, self.bias))
        scale, own = log_scale.exp(), shares.own
        by_rows = _sum(x @ all_y.T, scale, bias, all_ids, own) / shares.total
        # The same terms by columns, only for the gradient by `y`: `by_rows` has the value.
        by_columns = _sum(y @ all_x.T, scale.detach(), bias.detach(), all_ids, own) / shares.total
        return by_rows + by_columns + (shares.sum(by_rows) - by_rows - by_columns).detach()


def _sum(similarity: Tensor, scale: Tensor, bias: Tensor, ids: list[Tensor], rows: slice) -> Tensor:
    """Sum the losses of some `rows` of the matrix; `similarity` `(n, N)` has all their columns.

    Pairs with an equal one of `ids`, `(N,)` each, are never negatives.
    """
    logits = similarity * scale + bias
    count = similarity.shape[1]
    partners = torch.eye(count, dtype=torch.bool, device=similarity.device)[rows]
    terms = logsigmoid(torch.where(partners, logits, -logits))
    excluded = never_negatives(ids, rows) & ~partners
    return -terms.masked_fill(excluded, 0.0).sum()
