"""Losses and log-sum-exps of anchors from whole matrices of similarities, for autograd."""

import math

import torch
from torch.nn.functional import softplus

from sogclr import ClipLoss, MoCoLoss, NTXentLoss
from sogclr.losses.backends.similarities import LogSumExp

POSITIVE_IN = [NTXentLoss, ClipLoss, MoCoLoss]


def dense(kind, logits, absent, positive, log_u, tau, effective_negatives):
    """Loss of each anchor: similarities and masks `(M, N)`, log u `(M,)` or None for log ĝ."""
    own = logits.gather(1, positive[:, None])
    if kind in POSITIVE_IN:
        absent = absent.scatter(1, positive[:, None], False)
    present = (~absent).any(dim=1)
    kept = (logits / tau).masked_fill(absent & present[:, None], -math.inf)
    count = (~absent).sum(dim=1).double()
    log_g = kept.logsumexp(dim=1) - count.clamp(min=1).log()
    log_u = log_g.detach() if log_u is None else log_u
    tau = tau.squeeze(1)
    ratio = (log_g.detach() - log_u).exp()
    loss = tau * log_u + tau.detach() * ratio * (log_g - log_g.detach()) - own.squeeze(1)
    if effective_negatives is not None:
        log_k = math.log(effective_negatives)
        loss = tau * (softplus(loss / tau + log_k) - log_k)
    return torch.where(present, loss, -own.squeeze(1)), present, count


def log_sum_exp(x, y, excluded, tau, sides):
    """Compute what `Similarities.sums` does, from a mask `(M, N)` and tau for `(S, M)`."""
    similarity, results = x @ y.T, []
    for side in range(sides):
        entries, mask = (similarity.T, excluded.T) if side else (similarity, excluded)
        logits = (entries / tau.expand(sides, len(x))[side, :, None]).masked_fill(mask, -math.inf)
        count = (~mask).sum(dim=1).to(x.dtype)
        # Without negatives, softmax and its gradient would be NaN: replace all logits by 0.
        logits = logits.where(count[:, None] > 0, 0.0)
        mean = (logits.softmax(dim=1) * logits.masked_fill(mask, 0.0)).sum(dim=1)
        results.append((logits.logsumexp(dim=1).where(count > 0, -math.inf), count, mean.detach()))
    return LogSumExp(*(torch.stack(numbers) for numbers in zip(*results, strict=True)))
