"""Losses of anchors from whole matrices of similarities, for autograd."""

import math

import torch
from torch.nn.functional import softplus

from sogclr import ClipLoss, MoCoLoss, NTXentLoss

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
