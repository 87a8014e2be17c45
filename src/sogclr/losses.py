"""Contrastive losses: what is compared (two views, or pairs), times how log g is estimated.

Every loss here is   mean over anchors of   -s(anchor, positive) + tau log u,

s the cosine similarity, tau the temperature, log u the estimate of the anchor's
log-normalizer. The classes differ in two choices only:

                                   two views, negatives 2(B-1)   pairs, negatives B-1
    per sample, over time          GlobalContrastiveLoss         TwoWayGlobalContrastiveLoss
    in the batch                   DecoupledContrastiveLoss
    in the batch, with positive    NTXentLoss (SimCLR)           ClipLoss

Features come un-normalized, `(B, d)`, in any float dtype, also under autocast: similarities
are formed, exponentiated and summed in float32 (float64 stays float64).

Scale. By default ("temperature") losses are tau times a cross-entropy with the *mean* over
negatives in the normalizer, so that values and gradients do not depend on the batch size and
methods compare. "cross-entropy" divides by tau and, for the in-batch losses, sums over
negatives: NTXentLoss and ClipLoss then equal `cross_entropy(logits, positive)` as published.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from .normalizer import (
    InBatchNormalizer,
    Normalizer,
    NormalizerTable,
    check_ids,
    move_ids,
    surrogate_log_normalizer,
)

__all__ = [
    "ClipLoss",
    "DecoupledContrastiveLoss",
    "GlobalContrastiveLoss",
    "NTXentLoss",
    "TwoWayGlobalContrastiveLoss",
]

Scale = Literal["temperature", "cross-entropy"]


class _ContrastiveLoss(nn.Module):
    """What all share: the temperature, the scale, and alignment plus normalizer."""

    positive_in_normalizer = False
    sum_when_cross_entropy = True  # a moving average of means has no batch size to multiply by

    def __init__(self, temperature: float, scale: Scale) -> None:
        super().__init__()
        if not (temperature > 0 and math.isfinite(temperature)):
            raise ValueError(f"temperature must be a positive number, got {temperature}")
        if scale not in ("temperature", "cross-entropy"):
            raise ValueError(f'scale is "temperature" or "cross-entropy", got {scale!r}')
        self.temperature = temperature
        self.scale = scale

    def check(self) -> None:
        """Raise IndexError for invalid ids met on an accelerator; see `NormalizerTable.check`."""
        for module in self.modules():
            if isinstance(module, NormalizerTable):
                module.check()

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, scale={self.scale}"

    def _anchors(
        self,
        similarity: Tensor,
        same_sample: Tensor,
        positive: Tensor,
        estimator: Normalizer,
        rows: Tensor,
    ) -> Tensor:
        """Loss of each anchor: `(M,)` from similarities `(M, N)`.

        `same_sample` marks what is never a negative, `positive` `(M,)` the positive's column.
        """
        tau = self.temperature
        aligned = similarity.gather(1, positive[:, None]).squeeze(1)  # (M,)
        candidates = ~same_sample
        if self.positive_in_normalizer:
            candidates = candidates.scatter(1, positive[:, None], True)
        has_negatives = candidates.any(dim=1)
        # An anchor without negatives gets a harmless finite row, then no term at all.
        kept = candidates | ~has_negatives[:, None]
        log_sum = (similarity / tau).masked_fill(~kept, -math.inf).logsumexp(dim=1)
        log_count = kept.sum(dim=1).to(log_sum.dtype).log()
        log_g = log_sum - log_count
        log_u = estimator(rows, torch.where(has_negatives, log_g.detach(), -math.inf))
        if self.scale == "cross-entropy" and self.sum_when_cross_entropy:
            log_g, log_u = log_g + log_count, log_u + log_count
        log_u = torch.where(has_negatives, log_u, log_g.detach())
        term = surrogate_log_normalizer(log_g, log_u, tau)
        loss = torch.where(has_negatives, term, 0.0) - aligned
        return loss / tau if self.scale == "cross-entropy" else loss


class TwoViewLoss(_ContrastiveLoss):
    """Every view is an anchor; its positive is the other view of the sample."""

    def __init__(self, temperature: float, scale: Scale) -> None:
        super().__init__(temperature, scale)
        self.normalizer: Normalizer = InBatchNormalizer()

    def forward(self, view1: Tensor, view2: Tensor, index: Tensor | None = None) -> Tensor:
        """The loss of a batch.

        Args:
            view1: `(B, d)` features of one view of each sample, any float dtype.
            view2: `(B, d)` features of another.
            index: `(B,)` integers, who the samples are, so that a sample which occurs twice
                is not its own negative. Default: all different.

        Returns:
            A scalar, float32 (float64 for float64 features).
        """
        index = _default_index(view1) if index is None else index
        rows = self.normalizer.resolve(index, view1.device)
        return self._loss(view1, view2, rows, rows.repeat(2))

    def _loss(self, view1: Tensor, view2: Tensor, sample: Tensor, rows: Tensor) -> Tensor:
        _check_shapes(view1, view2, sample)
        with torch.autocast(view1.device.type, enabled=False):
            z = _unit(torch.cat([view1, view2]))  # (2B, d)
            sample = sample.repeat(2)  # (2B,)
            anchor = torch.arange(len(z), device=z.device)
            return self._anchors(
                similarity=z @ z.T,  # (2B, 2B)
                same_sample=sample[:, None] == sample[None, :],
                positive=anchor.roll(len(view1)),
                estimator=self.normalizer,
                rows=rows,
            ).mean()


class GlobalContrastiveLoss(TwoViewLoss):
    """SogCLR for two views: the normalizer of each sample is remembered between its visits.

    One u a sample, the mean over both its views, is the paper's algorithm (Algorithm 1); it
    optimizes `two_view_objective(..., "v2")`. For a finite number of stored augmentations,
    `num_views` keeps one u per (sample, view) instead, which optimizes `"v1"`.

    The value is the running estimate of the objective (comparable over batch sizes), the
    gradient the estimator's.

    Args:
        num_samples: size of the training set; ids passed as `index` are below it.
        temperature: tau. 0.1, the paper's for ImageNet; 0.2 to 0.3 suit small images.
        gamma_min: smallest weight of a new estimate in the moving average. 0.2: at batch 16
            to 64 an average of about five visits. Raise it (up to 1, the mini-batch loss)
            where epochs are few or batches large, since u lags behind a moving encoder.
        gamma_decay: None for gamma = max(gamma_min, 1/visits); or the visits over which it
            falls to gamma_min along a cosine. See `sogclr.normalizer.step_size`.
        num_views: number of stored augmentations, or None for freshly drawn ones.
        scale: "temperature" or "cross-entropy", see the module.
        dtype: of the table, float32 or float64.

    Example:
        >>> loss = GlobalContrastiveLoss(num_samples=50_000)
        >>> value = loss(torch.randn(64, 128), torch.randn(64, 128), torch.arange(64))

    Raises:
        ValueError: temperature <= 0, shapes that do not match.
        IndexError: ids outside [0, num_samples); see `NormalizerTable.resolve`.
    """

    sum_when_cross_entropy = False

    def __init__(
        self,
        num_samples: int,
        *,
        temperature: float = 0.1,
        gamma_min: float = 0.2,
        gamma_decay: int | None = None,
        num_views: int | None = None,
        scale: Scale = "temperature",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(temperature, scale)
        self.num_samples = num_samples
        self.num_views = num_views
        self.normalizer = NormalizerTable(
            num_samples * (num_views or 1),
            gamma_min=gamma_min,
            gamma_decay=gamma_decay,
            dtype=dtype,
        )

    # Overrides with ids that must be given: a table without them has no rows.
    def forward(  # type: ignore[override]
        self,
        view1: Tensor,
        view2: Tensor,
        index: Tensor,
        views: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """The loss of a batch; updates the normalizers of its samples.

        Args:
            view1: `(B, d)` features of one view of each sample, any float dtype.
            view2: `(B, d)` features of another.
            index: `(B,)` integers in [0, num_samples), the samples' ids. Keep them on the
                CPU where they come from the loader: they are checked there without a wait.
            views: with `num_views`, two `(B,)` integers in [0, num_views): which stored
                augmentation each view is.

        Returns:
            A scalar, float32 (float64 for float64 features).
        """
        if (views is None) != (self.num_views is None):
            raise ValueError("views are passed if and only if the loss was made with num_views")
        if views is None or self.num_views is None:
            return super().forward(view1, view2, index)
        check_ids(index, self.num_samples, "sample id")
        sample = move_ids(index, view1.device)
        rows = torch.cat([self._view_rows(sample, view) for view in views])  # (2B,)
        return self._loss(view1, view2, sample, self.normalizer.resolve(rows, view1.device))

    def _view_rows(self, sample: Tensor, view: Tensor) -> Tensor:
        assert self.num_views is not None
        if view.shape != sample.shape:
            raise ValueError(f"views {tuple(view.shape)} do not match ids {tuple(sample.shape)}")
        check_ids(view, self.num_views, "view")
        view = move_ids(view, sample.device)
        valid = (view >= 0) & (view < self.num_views)
        # Out of range as a view must not come out as a row of the next sample.
        return torch.where(valid, sample * self.num_views + view, -1)


class NTXentLoss(TwoViewLoss):
    """NT-Xent, SimCLR's loss: the positive and 2(B-1) negatives of the batch in the normalizer.

    Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations",
    ICML 2020, equation 1. With `scale="cross-entropy"` the value is as published.

    Args:
        temperature: tau; 0.1 as in SimCLR's longest runs (0.5 in its CIFAR-10 runs).
        scale: "temperature" or "cross-entropy", see the module.
    """

    positive_in_normalizer = True

    def __init__(self, temperature: float = 0.1, *, scale: Scale = "temperature") -> None:
        super().__init__(temperature, scale)


class DecoupledContrastiveLoss(TwoViewLoss):
    """DCL: NT-Xent without the positive in the normalizer. The stateless twin of SogCLR.

    Yeh et al., "Decoupled Contrastive Learning", ECCV 2022, equation 3.

    Args:
        temperature: tau; 0.1 as the others here.
        scale: "temperature" or "cross-entropy", see the module.
    """

    def __init__(self, temperature: float = 0.1, *, scale: Scale = "temperature") -> None:
        super().__init__(temperature, scale)


class _TwoWayLoss(_ContrastiveLoss):
    """Every row of either side is an anchor; its positive is its partner on the other side."""

    def __init__(self, temperature: float, scale: Scale) -> None:
        super().__init__(temperature, scale)
        self.normalizer_a: Normalizer = InBatchNormalizer()
        self.normalizer_b: Normalizer = InBatchNormalizer()

    def forward(self, a: Tensor, b: Tensor, index: Tensor | None = None) -> Tensor:
        """The loss of a batch of pairs.

        Args:
            a: `(B, d)` features of one side (images), any float dtype.
            b: `(B, d)` features of the other (texts), row i paired with row i of `a`.
            index: `(B,)` integers, who the pairs are, so that one which occurs twice is not
                its own negative. Default: all different.

        Returns:
            A scalar, float32 (float64 for float64 features).
        """
        index = _default_index(a) if index is None else index
        rows = self.normalizer_a.resolve(index, a.device)
        _check_shapes(a, b, rows)
        with torch.autocast(a.device.type, enabled=False):
            similarity = _unit(a) @ _unit(b).T  # (B, B)
            same = rows[:, None] == rows[None, :]
            positive = torch.arange(len(a), device=a.device)
            loss_a = self._anchors(similarity, same, positive, self.normalizer_a, rows)
            loss_b = self._anchors(similarity.T, same, positive, self.normalizer_b, rows)
            return (loss_a.mean() + loss_b.mean()) / 2


class TwoWayGlobalContrastiveLoss(_TwoWayLoss):
    """SogCLR for pairs (image-text, text-text): one remembered normalizer a sample and side.

    It optimizes `two_way_objective`. Yuan et al. 2022; for image-text, Qiu et al., "Not All
    Semantics are Created Equal", ICML 2023 (there with learned temperatures).

    Args:
        num_samples: number of pairs in the training set.
        temperature: tau. 0.05, between CLIP's learned 0.01 and what small data wants (0.07).
        gamma_min: smallest weight of a new estimate, see `GlobalContrastiveLoss`.
        gamma_decay: see `GlobalContrastiveLoss`.
        scale: "temperature" or "cross-entropy", see the module.
        dtype: of the tables, float32 or float64.

    Raises:
        ValueError, IndexError: as `GlobalContrastiveLoss`.
    """

    sum_when_cross_entropy = False

    def __init__(
        self,
        num_samples: int,
        *,
        temperature: float = 0.05,
        gamma_min: float = 0.2,
        gamma_decay: int | None = None,
        scale: Scale = "temperature",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(temperature, scale)
        self.num_samples = num_samples
        self.normalizer_a, self.normalizer_b = (
            NormalizerTable(num_samples, gamma_min=gamma_min, gamma_decay=gamma_decay, dtype=dtype)
            for _ in range(2)
        )

    # Overrides with ids that must be given, as above.
    def forward(self, a: Tensor, b: Tensor, index: Tensor) -> Tensor:  # type: ignore[override]
        """The loss of a batch of pairs; updates the normalizers of both sides.

        Args:
            a: `(B, d)` features of one side, any float dtype.
            b: `(B, d)` features of the other, row i paired with row i of `a`.
            index: `(B,)` integers in [0, num_samples), the pairs' ids.

        Returns:
            A scalar, float32 (float64 for float64 features).
        """
        return super().forward(a, b, index)


class ClipLoss(_TwoWayLoss):
    """CLIP's loss: symmetric cross-entropy over the batch, the positive in the normalizer.

    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
    ICML 2021, figure 3. With `scale="cross-entropy"` the value is as published.

    Args:
        temperature: tau, constant; 0.05 as `TwoWayGlobalContrastiveLoss`.
        scale: "temperature" or "cross-entropy", see the module.
    """

    positive_in_normalizer = True

    def __init__(self, temperature: float = 0.05, *, scale: Scale = "temperature") -> None:
        super().__init__(temperature, scale)


def _unit(features: Tensor) -> Tensor:
    return normalize(features if features.dtype == torch.float64 else features.float(), dim=-1)


def _default_index(features: Tensor) -> Tensor:
    return torch.arange(len(features), device=features.device)


def _check_shapes(a: Tensor, b: Tensor, index: Tensor) -> None:
    if a.ndim != 2 or a.shape != b.shape or index.shape != a.shape[:1]:
        shapes = f"{tuple(a.shape)}, {tuple(b.shape)} and {tuple(index.shape)}"
        raise ValueError(f"expected features (B, d), (B, d) and ids (B,), got {shapes}")
