"""SigLIP's loss, a baseline: every pair of the batch is judged by itself, without a normalizer."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, normalize

from ..distributed.exchange import Shares, agree, with_backward
from .inputs import check_shapes, distinct_ids
from .sample_ids import move_ids, never_negatives

__all__ = ["SigLipLoss"]


class SigLipLoss(nn.Module):
    """Mean over pairs of -sum over the other side of log sigmoid(z (s / tau + bias)).

    z is 1 for partners and -1 for negatives. Zhai et al., "Sigmoid Loss for Language Image
    Pre-Training", ICCV 2023, algorithm 1. tau and the bias are parameters: give
    `loss.parameters()` to the optimizer.

    Args:
        temperature: initial tau; 0.1 as published (t = 10).
        bias: initial bias; -10 as published, since negatives outnumber positives.
        process_group: see the package.
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
        """Nothing is kept that an invalid id could hurt."""

    def forward(
        self,
        a: Tensor,
        b: Tensor,
        index: Tensor | None = None,
        *,
        index_b: Tensor | None = None,
        group: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch of pairs; arguments as of `ClipLoss`."""
        shares = agree(self.process_group, a.shape[0])
        index = distinct_ids(a, shares) if index is None else move_ids(index, a.device)
        index_b = index if index_b is None else move_ids(index_b, a.device)
        group = index if group is None else move_ids(group, a.device)
        check_shapes(a, b, index, index_b, group)
        ids = [index, index_b, group]
        with torch.autocast(a.device.type, enabled=False):
            x, y = _unit(a), _unit(b)
            if shares is None:
                scale, bias = self.log_scale.exp(), self.bias
                return _sum(x @ y.T, scale, bias, ids, slice(0, len(a))) / len(a)
            return self._shared(x, y, torch.stack(ids), shares)

    def _shared(self, x: Tensor, y: Tensor, ids: Tensor, shares: Shares) -> Tensor:
        """Rows of each side with all of the other; see `sogclr.distributed.exchange`."""
        everyone = list(shares.gather(ids, dim=1))
        all_x, all_y = shares.gather(torch.stack([x, y]), dim=1)
        x, y = (with_backward(each, lambda grad: grad * shares.processes) for each in (x, y))
        log_scale, bias = (with_backward(each, shares.sum) for each in (self.log_scale, self.bias))
        scale, own = log_scale.exp(), shares.own
        mine = _sum(x @ all_y.T, scale, bias, everyone, own) / shares.total
        # The same sum by columns, of which only the gradient by `y` is missing.
        turned = _sum(y @ all_x.T, scale.detach(), bias.detach(), everyone, own) / shares.total
        return mine + turned + (shares.sum(mine) - mine - turned).detach()


def _sum(similarity: Tensor, scale: Tensor, bias: Tensor, ids: list[Tensor], rows: slice) -> Tensor:
    """Of the terms of these rows with all columns, `(n, N)`."""
    logits = similarity * scale + bias
    count = similarity.shape[1]
    own = torch.eye(count, dtype=torch.bool, device=similarity.device)[rows]
    terms = logsigmoid(torch.where(own, logits, -logits))
    absent = never_negatives(ids, rows) & ~own
    return -terms.masked_fill(absent, 0.0).sum()


def _unit(features: Tensor) -> Tensor:
    return normalize(features if features.dtype == torch.float64 else features.float(), dim=-1)
