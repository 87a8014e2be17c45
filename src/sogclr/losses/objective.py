"""The exact global contrastive objectives, by brute force.

This file is the definition, to which every loss, estimator and benchmark is compared. It is written
to be checked against the paper, not to be fast; memory is O((n V)^2). All functions are
differentiable and keep the dtype of their input.

Notation: n samples, V views of each, features of width d, s(a, b) the cosine similarity,
tau the temperature.

Source: Yuan et al., "Provable Stochastic Optimization for Global Contrastive Learning:
Small Batch Does Not Harm Performance", ICML 2022, arXiv 2202.12387, equations (2) and (3).
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus

__all__ = [
    "against_effective_negatives",
    "check_effective_negatives",
    "log_two_view_normalizers",
    "log_two_way_normalizers",
    "two_view_objective",
    "two_way_objective",
]


def log_two_view_normalizers(features: Tensor, temperature: float) -> Tensor:
    """Compute log g(i, A) of every view; g is the mean over the views of all *other* samples.

        g(i, A) = mean over j != i and all views B of  exp( s(x_iA, x_jB) / tau )

    `features` `(n, V, d)`, n >= 2, need not be normalized. The result is `(n, V)`.
    """
    n, views, _ = features.shape
    unit = normalize(features, dim=-1).flatten(0, 1)  # (n V, d)
    logits = unit @ unit.T / temperature  # (n V, n V)
    sample = torch.arange(n, device=features.device).repeat_interleave(views)
    logits = logits.masked_fill(sample[:, None] == sample[None, :], -math.inf)
    log_sum = logits.logsumexp(dim=1)  # (n V,)
    return (log_sum - math.log((n - 1) * views)).view(n, views)


def two_view_objective(
    features: Tensor,
    temperature: float,
    version: Literal["v1", "v2"] = "v2",
    effective_negatives: float | None = None,
) -> Tensor:
    """Compute the global contrastive objective over stored views.

        v1: F  = -E[s(positive)] + tau/n sum_i  mean over A of log g(i, A)
        v2: F2 = -E[s(positive)] + tau/n sum_i  log( mean over A of g(i, A) )

    Positives are ordered pairs of distinct views of one sample. The positive is not in the
    normalizer. F <= F2 by Jensen's inequality; they are equal when g does not depend on A.

    Args:
        features: `(n, V, d)`, not necessarily normalized; n >= 2 samples, V >= 2 views.
        temperature: tau > 0.
        version: `"v2"` for one normalizer per sample (the paper's algorithm), `"v1"` for one per
            (sample, view).
        effective_negatives: see `against_effective_negatives`; None for the objective above. For
            `"v1"` only. With one normalizer per sample, the estimator's gradient is not that of an
            objective, since both the weight of an anchor and its part of g depend on its positive.

    Returns:
        A scalar, on the scale of tau times a cross-entropy.
    """
    if effective_negatives is not None and version == "v2":
        raise ValueError('effective_negatives is defined for version="v1" only')
    views = features.shape[1]
    unit = normalize(features, dim=-1)
    similarity = unit @ unit.mT  # (n, V, V)
    distinct = ~torch.eye(views, dtype=torch.bool, device=features.device)
    log_g = log_two_view_normalizers(features, temperature)  # (n, V)
    if version == "v2":
        log_g = (log_g.logsumexp(dim=1, keepdim=True) - math.log(views)).expand_as(log_g)
    excess = temperature * log_g[:, :, None] - similarity  # (n, V, V): anchor, positive
    return against_effective_negatives(excess[:, distinct], temperature, effective_negatives).mean()


def log_two_way_normalizers(
    a: Tensor,
    b: Tensor,
    temperature: float,
    pairing: Tensor | None = None,
    group: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute log g of every sample of both sides of paired data.

    If a sample of `a` has several partners in `b` (captions of one image), each visit draws one
    of them uniformly. So a sample of `a` counts 1 among the negatives, and each of its c partners
    1 / c. Let N(i) be the samples of `a` in other groups than sample i, and P(k) the partners of
    sample k:

        g_a(i) = mean over k in N(i), mean over j in P(k) of  exp( s(a_i, b_j) / tau )
        g_b(j) = mean over k in N(pairing_j) of               exp( s(a_k, b_j) / tau )

    Args:
        a, b: `(n_a, d)` and `(n_b, d)`, n_a >= 2, not necessarily normalized.
        temperature: tau > 0.
        pairing: `(n_b,)` integers, the index in `a` of the partner of each sample of `b`.
            Default: a[i] with b[i].
        group: `(n_a,)` integers, at least two different ones. Samples of equal group, and their
            partners, are never each other's negatives. Default: all groups are different.

    Returns:
        `(n_a,)` and `(n_b,)`, natural logarithms.
    """
    pairing = _pairing(a, b, pairing)
    group = torch.arange(len(a), device=a.device) if group is None else group
    logits = normalize(a, dim=-1) @ normalize(b, dim=-1).T / temperature  # (n_a, n_b)
    logits = logits.masked_fill(group[:, None] == group[pairing][None, :], -math.inf)
    partners = torch.bincount(pairing, minlength=len(a))
    log_share = -partners.to(a.dtype).log()[pairing]  # (n_b,), log 1/c
    log_count = (group[:, None] != group[None, :]).sum(dim=1).to(a.dtype).log()  # (n_a,)
    log_g_a = (logits + log_share).logsumexp(dim=1) - log_count
    log_g_b = logits.logsumexp(dim=0) - log_count[pairing]
    return log_g_a, log_g_b


def two_way_objective(
    a: Tensor,
    b: Tensor,
    temperature: float,
    pairing: Tensor | None = None,
    group: Tensor | None = None,
    effective_negatives: float | None = None,
) -> Tensor:
    """Compute the global contrastive objective of paired data (image-text, text-text).

        F = -E[s(a_i, b_j)] + tau/2 ( E_i[log g_a(i)] + E_j[log g_b(j)] )

    E draws a sample of `a` uniformly, then one of its partners uniformly.

    Args:
        a, b, temperature, pairing, group: see `log_two_way_normalizers`.
        effective_negatives: see `against_effective_negatives`; None for the objective above.

    Returns:
        A scalar, on the scale of tau times a cross-entropy.
    """
    pairing = _pairing(a, b, pairing)
    partners = torch.bincount(pairing, minlength=len(a))
    if (partners == 0).any():
        raise ValueError("pairing: every sample of a needs at least one partner in b")
    weight = 1 / (len(a) * partners[pairing].to(a.dtype))  # (n_b,), sums to 1
    positive = (normalize(a, dim=-1)[pairing] * normalize(b, dim=-1)).sum(dim=-1)  # (n_b,)
    log_g_a, log_g_b = log_two_way_normalizers(a, b, temperature, pairing, group)
    excess = [temperature * log_g - positive for log_g in (log_g_a[pairing], log_g_b)]
    loss_a, loss_b = (
        against_effective_negatives(x, temperature, effective_negatives) for x in excess
    )
    return (weight * (loss_a + loss_b) / 2).sum()


def against_effective_negatives(
    excess: Tensor, temperature: float | Tensor, effective_negatives: float | None
) -> Tensor:
    """Compute the loss of an anchor whose positive competes with K negatives of mean weight g.

        tau log( exp(s+/tau) + K g ) - s+ - tau log K
            = tau softplus( excess/tau + log K ) - tau log K

    This is InfoNCE (the loss of CLIP and SimCLR) with K negatives and an exact normalizer. Its
    gradient vanishes once the positive outweighs K negatives. As K grows, the loss becomes the
    excess itself: the paper's objective, whose gradient never vanishes.

    `excess` is tau log g - s+, of any shape; K is `effective_negatives`, and None its limit.
    """
    if effective_negatives is None:
        return excess
    log_k = math.log(effective_negatives)
    return temperature * (softplus(excess / temperature + log_k) - log_k)


def check_effective_negatives(effective_negatives: float | None) -> float | None:
    """Return the argument; raise ValueError unless it is None or a finite number above 0."""
    if effective_negatives is not None and not 0 < effective_negatives < math.inf:
        raise ValueError(f"effective_negatives must be above 0, got {effective_negatives}")
    return effective_negatives


def _pairing(a: Tensor, b: Tensor, pairing: Tensor | None) -> Tensor:
    """Return the pairing, by default a[i] with b[i]; raise ValueError if sizes differ then."""
    if pairing is not None:
        return pairing
    if len(a) != len(b):
        raise ValueError(
            f"a and b have {len(a)} and {len(b)} samples: pass pairing, the index in a of each "
            "sample's partner"
        )
    return torch.arange(len(a), device=a.device)
