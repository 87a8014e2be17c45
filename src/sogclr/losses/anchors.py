"""What all softmax contrastive losses share: alignment plus an estimated log-normalizer."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus

from ..normalizer import Normalizer, NormalizerTable, surrogate_log_normalizer
from ..objective import against_candidates
from ..temperature import Temperature, column

__all__ = ["ContrastiveLoss", "Scale", "check_shapes", "checked_candidates", "distinct", "unit"]

Scale = Literal["temperature", "cross-entropy"]


class ContrastiveLoss(nn.Module):
    """The scale, and the loss of each anchor."""

    positive_in_normalizer = False
    candidates: float | None = None
    sum_when_cross_entropy = True  # a moving average of means has no batch size to multiply by

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        if scale not in ("temperature", "cross-entropy"):
            raise ValueError(f'scale is "temperature" or "cross-entropy", got {scale!r}')
        self.scale = scale

    def check(self) -> None:
        """Raise IndexError for invalid ids met on an accelerator; see `NormalizerTable.check`."""
        for module in self.modules():
            if isinstance(module, NormalizerTable):
                module.check()

    def extra_repr(self) -> str:
        return f"scale={self.scale}"

    def anchors(
        self,
        similarity: Tensor,
        same_sample: Tensor,
        positive: Tensor,
        estimator: Normalizer,
        rows: Tensor,
        temperature: Temperature,
        temperature_rows: Tensor,
    ) -> Tensor:
        """Loss of each anchor.

        Args:
            similarity: `(M, N)` cosine similarities.
            same_sample: `(M, N)` bool, what is never a negative.
            positive: `(M,)` the positive's column.
            estimator: of log g.
            rows: `(M,)` the anchors' rows in it.
            temperature: of this side.
            temperature_rows: `(M,)` the anchors' rows in it.

        Returns:
            `(M,)`.
        """
        tau = temperature(temperature_rows)
        aligned = similarity.gather(1, positive[:, None]).squeeze(1)  # (M,)
        candidates = ~same_sample
        if self.positive_in_normalizer:
            candidates = candidates.scatter(1, positive[:, None], True)
        has_negatives = candidates.any(dim=1)
        # An anchor without negatives gets a harmless finite row, then no term at all.
        kept = candidates | ~has_negatives[:, None]
        logits = (similarity / column(tau)).masked_fill(~kept, -math.inf)
        log_sum = logits.logsumexp(dim=1)
        log_count = kept.sum(dim=1).to(log_sum.dtype).log()
        log_g = log_sum - log_count
        log_u = estimator(rows, torch.where(has_negatives, log_g.detach(), -math.inf))
        if temperature.learns():
            slope = _slope(logits, log_sum, log_g, log_u)
            slope = self._slope_against_candidates(slope, log_u, aligned.detach(), tau)
            temperature.learn(temperature_rows, torch.where(has_negatives, slope, math.nan))
        log_u = torch.where(has_negatives, log_u, log_g.detach())
        term = surrogate_log_normalizer(log_g, log_u, tau)
        excess = against_candidates(term - aligned, tau, self.candidates)
        loss = torch.where(has_negatives, excess, -aligned)
        # Alignment alone says nothing of the temperature.
        loss = torch.where(has_negatives, temperature.objective(loss, tau), loss)
        if self.scale == "temperature":
            return loss
        loss = loss / (tau.detach() if isinstance(tau, Tensor) else tau)
        # After all that depends on tau: how many candidates there are does not pull at it.
        if self.sum_when_cross_entropy:
            loss = loss + torch.where(has_negatives, log_count, 0.0)
        return loss

    def _slope_against_candidates(
        self, slope: Tensor, log_u: Tensor, aligned: Tensor, tau: float | Tensor
    ) -> Tensor:
        """d/dtau of the loss, given that of tau log g, `(M,)`."""
        if self.candidates is None:
            return slope
        log_k = math.log(self.candidates)
        x = log_u - aligned / tau + log_k
        return softplus(x) - log_k + x.sigmoid() * (slope - log_u + aligned / tau)


@torch.no_grad()
def _slope(logits: Tensor, log_sum: Tensor, log_g: Tensor, log_u: Tensor) -> Tensor:
    """d/dtau of tau log g, `(M,)`: log u - (ĝ/u) E[s]/tau, the gradient of the surrogate."""
    share = (logits - log_sum[:, None]).exp()  # (M, N), 0 for what is left out
    mean = (share * logits.clamp(min=torch.finfo(logits.dtype).min)).sum(dim=1)
    return log_u - (log_g - log_u).exp() * mean


def checked_candidates(candidates: float | None) -> float | None:
    """As given; raises ValueError unless above 0."""
    if candidates is not None and not 0 < candidates < math.inf:
        raise ValueError(f"candidates must be above 0, got {candidates}")
    return candidates


def unit(features: Tensor) -> Tensor:
    """On the sphere, in float32 at least."""
    return normalize(features if features.dtype == torch.float64 else features.float(), dim=-1)


def distinct(features: Tensor) -> Tensor:
    """The ids of samples nobody named: all different, `(B,)`."""
    return torch.arange(len(features), device=features.device)


def check_shapes(a: Tensor, b: Tensor, *ids: Tensor) -> None:
    """Raise ValueError unless features are `(B, d)` twice and all ids `(B,)`."""
    if a.ndim != 2 or a.shape != b.shape or any(index.shape != a.shape[:1] for index in ids):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (a, b, *ids))
        raise ValueError(f"expected features (B, d), (B, d) and ids (B,), got {shapes}")
