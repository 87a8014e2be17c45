"""Losses for two views of one sample: every view is an anchor, the other view its positive."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..distributed.exchange import Shares, agree
from .backends.shared import Block, SharedNegatives
from .backends.tiled import Absent, Diagonals, Negatives
from .contrast import Anchors, Compared, ContrastiveLoss, Scale, checked_candidates
from .equal_rows import all_different
from .identities import move_keys, rows_of_views
from .inputs import (
    UnitVectors,
    check_shapes,
    distinct,
    fuses,
    never_negatives,
    wants_gradients,
    with_gradients,
    without_autocast,
)
from .memory import FeatureMemory
from .normalizer import InBatchNormalizer, Normalizer
from .normalizer_sharded import normalizer_table
from .temperature import Temperature, as_temperature

__all__ = ["DecoupledContrastiveLoss", "GlobalContrastiveLoss", "NTXentLoss", "TwoViewLoss"]


class TwoViewLoss(ContrastiveLoss):
    """What is common to the losses below.

    Args:
        temperature: a number, or a module of `sogclr.losses.temperature`.
        scale: "temperature" or "cross-entropy", see the package.
        process_group: see the package.
        num_samples: size of the training set, where something is kept per sample.
    """

    num_stored_views: int | None = None

    def __init__(
        self,
        temperature: float | Temperature,
        scale: Scale,
        num_samples: int | None = None,
        process_group: Any = "auto",
    ) -> None:
        super().__init__(scale, process_group)
        self.temperature = as_temperature(temperature).for_rows(num_samples)
        self.normalizer: Normalizer = InBatchNormalizer()

    def sides(self) -> list[tuple[Normalizer, Temperature]]:
        """The estimators of both views, which share them."""
        return [(self.normalizer, self.temperature)]

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
        shares = agree(self.process_group, view1.shape[0])
        index = distinct(view1, shares) if index is None else index
        rows = self.normalizer.resolve(index, view1.device)
        return self._loss(view1, view2, rows, rows.repeat(2), shares)

    def _loss(
        self,
        view1: Tensor,
        view2: Tensor,
        sample: Tensor,
        rows: Tensor,
        shares: Shares | None,
    ) -> Tensor:
        """Of `sample` `(B,)` only equality counts; `rows` `(2B,)` are the estimator's."""
        check_shapes(view1, view2, sample)
        with without_autocast(view1.device):
            size, sample, memory_size = (
                view1.shape[0],
                sample.repeat(2),
                self.memory_in_use(),
            )  # (2B,)
            if shares is None and memory_size is None and fuses(view1, view2):
                return self._fused(view1, view2, sample, rows)
            units = UnitVectors.of(view1, view2)
            own1, own2 = x, y = units.vectors.unbind()
            there, live = None, size
            z = units.vectors.flatten(0, 1)  # (2B, d)
            if shares is not None or memory_size is not None:
                own, who = units.vectors, torch.stack([sample[:size], *rows.chunk(2)])
                if shares is not None:
                    own, who = shares.gather(own, dim=1), shares.gather(who, dim=1)
                (x, y), everyone, live = own, who, own.shape[1]
                if memory_size is not None:
                    (x, y), everyone, here = memory_size.beside(own, who)
                    memory_size.put(own, who)
                    there = _live_first(here, here, live)
                z = _live_first(x, y, live)
                sample = _live_first(everyone[0], everyone[0], live)
                rows = _live_first(everyone[1], everyone[2], live)
            absent: Absent = partial(never_negatives, [sample], there=there)
            alone = shares is None and memory_size is None
            if alone and size > 1 and all_different(sample[:size]):
                absent = Diagonals((0, size, -size), each=2)
            similarity = (x * y).sum(dim=1)
            found = self.contrast(
                (self._anchors(rows),),
                _live_first(similarity, similarity, live),
                partial(Negatives, z, None, absent, 1)
                if shares is None
                else _shared(z, absent, live, shares),
                learning=wants_gradients(view1, view2),
                live=2 * live,
                processes=1 if shares is None else shares.processes,
            )
            if found.rows is None or found.pull is None:
                return found.value
            # Each is its partner's positive, too.
            pull = found.pull.view(2, live).sum(dim=0)
            pull = (pull if shares is None else pull[shares.own])[:, None]
            gradient = found.rows.view_as(units.vectors)
            by_view1, by_view2 = units.by_features(gradient, (pull, own2), (pull, own1))
            return with_gradients(found.value, (view1, by_view1), (view2, by_view2), *found.tau)

    def _fused(self, view1: Tensor, view2: Tensor, sample: Tensor, rows: Tensor) -> Tensor:
        """As `_loss`, of a batch that kernels serve, whose samples are `(2B,)`."""
        from .backends.fused import FusedNegatives, compared

        features, size = torch.cat([view1.detach(), view2.detach()]), view1.shape[0]
        z, partner, positive = compared(features, features.roll(size, dims=0))
        found = self.contrast(
            (self._anchors(rows),),
            positive,
            partial(FusedNegatives, z, None, [sample]),
            learning=wants_gradients(view1, view2),
        )
        if found.rows is None or found.pull is None:
            return found.value
        pull = found.pull + found.pull.roll(size)
        by_view1, by_view2 = z.by_features(found.rows[0], pull, partner).chunk(2)
        return with_gradients(found.value, (view1, by_view1), (view2, by_view2), *found.tau)

    def _anchors(self, rows: Tensor) -> Anchors:
        """Of both views; all views of a sample share its temperature."""
        samples = rows if self.num_stored_views is None else rows // self.num_stored_views
        return Anchors(self.normalizer, rows, self.temperature, samples)


def _shared(z: Tensor, absent: Absent, live: int, shares: Shares) -> Compared:
    """Views of this process's samples are compared with all; of earlier batches, everywhere."""
    own = shares.own
    firsts = [z[first + own.start : first + own.stop] for first in (0, live)]
    blocks = [Block(0, i * live, rows, z, 0) for i, rows in enumerate(firsts)]
    alike = [Block(0, 2 * live, z[2 * live :], z, 0)]
    return partial(SharedNegatives, shares, blocks, alike, absent, (1, z.shape[0]))


class GlobalContrastiveLoss(TwoViewLoss):
    """SogCLR for two views: the normalizer of each sample is remembered between its visits.

    One u a sample, the mean over both its views, is the paper's algorithm (Algorithm 1); it
    optimizes `two_view_objective(..., "v2")`. For a finite number of stored augmentations,
    `num_stored_views` keeps one u per (sample, view) instead, which optimizes `"v1"`.

    The value is the running estimate of the objective (comparable over batch sizes), the
    gradient the estimator's.

    Args:
        num_samples: size of the training set; ids passed as `index` are below it. Of a stream,
            whose samples are passed by `key`, how many rows to keep, see `sogclr.hashed_rows`.
        temperature: tau. 0.1, the paper's for ImageNet; 0.2 to 0.3 suit small images. Or a
            `LearnedTemperature` or an `IndividualTemperature` (iSogCLR).
        gamma_min: smallest weight of a new estimate in the moving average. 0.2: at batch 16
            to 64 an average of about five visits. Raise it (up to 1, the mini-batch loss)
            where epochs are few or batches large, since u lags behind a moving encoder.
        gamma_decay_visits: None for gamma = max(gamma_min, 1/visits); or the visits over which it
            falls to gamma_min along a cosine. See `sogclr.losses.normalizer.step_size`.
        candidates: with how many negatives of average weight the positive competes; None for the
            paper's objective. See `sogclr.losses.objective.against_candidates`.
        recent: how many samples of earlier batches count as negatives of this one, and have it
            as theirs; see `sogclr.losses.memory`. It takes the noise of few negatives away, and
            with it what is left of a difference between small and large batches; for batches
            below 64.
        num_stored_views: number of stored augmentations, or None for freshly drawn ones.
        scale: "temperature" or "cross-entropy", see the package.
        process_group: see the package.
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
        temperature: float | Temperature = 0.1,
        gamma_min: float = 0.2,
        gamma_decay_visits: int | None = None,
        effective_negatives: float | None = None,
        memory_size: int | None = None,
        num_stored_views: int | None = None,
        scale: Scale = "temperature",
        process_group: Any = "auto",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(temperature, scale, num_samples, process_group)
        self.num_samples = num_samples
        self.effective_negatives = checked_candidates(effective_negatives)
        self.num_stored_views = num_stored_views
        self.normalizer = normalizer_table(
            num_samples * (num_stored_views or 1),
            gamma_min=gamma_min,
            gamma_decay_visits=gamma_decay_visits,
            dtype=dtype,
            process_group=process_group,
        )
        self.memory = None if memory_size is None else FeatureMemory(memory_size, dtype)

    # Overrides with ids that must be given: a table without them has no rows.
    def forward(  # type: ignore[override]
        self,
        view1: Tensor,
        view2: Tensor,
        index: Tensor,
        views: tuple[Tensor, Tensor] | None = None,
        sample_key: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch; updates the normalizers of its samples.

        Args:
            view1: `(B, d)` features of one view of each sample, any float dtype.
            view2: `(B, d)` features of another.
            index: `(B,)` integers in [0, num_samples), the samples' ids. Keep them on the
                CPU where they come from the loader: they are checked there without a wait.
            views: with `num_stored_views`, two `(B,)` integers below it: which stored
                augmentation each view is.
            sample_key: `(B,)` integers, any of 64 bits, who the samples are where several may
                have one id: `index` is then only the row that they share, and only samples of
                equal key are no negatives of each other. Default: `index`.

        Returns:
            A scalar, float32 (float64 for float64 features).
        """
        if (views is None) != (self.num_stored_views is None):
            raise ValueError(
                "views are passed if and only if the loss was made with num_stored_views"
            )
        if views is None:
            sample = self.normalizer.resolve(index, view1.device)
            rows = sample.repeat(2)  # (2B,)
        else:
            assert self.num_stored_views is not None
            sizes = self.num_samples, self.num_stored_views
            sample, rows = rows_of_views(index, views, sizes, view1.device)
            rows = self.normalizer.resolve(rows, view1.device)
        if sample_key is not None:
            sample_key = move_keys(sample_key, view1.device)
            check_shapes(view1, view2, sample, sample_key)
        shares = agree(self.process_group, view1.shape[0])
        return self._loss(view1, view2, sample if sample_key is None else sample_key, rows, shares)


class NTXentLoss(TwoViewLoss):
    """NT-Xent, SimCLR's loss: the positive and 2(B-1) negatives of the batch in the normalizer.

    Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations",
    ICML 2020, equation 1. With `scale="cross-entropy"` the value is as published.

    Args:
        temperature: tau; 0.1 as in SimCLR's longest runs (0.5 in its CIFAR-10 runs). Or a
            `LearnedTemperature`.
        scale: "temperature" or "cross-entropy", see the package.
        process_group: see the package.
    """

    positive_in_normalizer = True

    def __init__(
        self,
        temperature: float | Temperature = 0.1,
        *,
        scale: Scale = "temperature",
        process_group: Any = "auto",
    ) -> None:
        super().__init__(temperature, scale, process_group=process_group)


class DecoupledContrastiveLoss(TwoViewLoss):
    """DCL: NT-Xent without the positive in the normalizer. The stateless twin of SogCLR.

    Yeh et al., "Decoupled Contrastive Learning", ECCV 2022, equation 3.

    Args:
        temperature: tau; 0.1 as the others here.
        scale: "temperature" or "cross-entropy", see the package.
        process_group: see the package.
    """

    def __init__(
        self,
        temperature: float | Temperature = 0.1,
        *,
        scale: Scale = "temperature",
        process_group: Any = "auto",
    ) -> None:
        super().__init__(temperature, scale, process_group=process_group)


def _live_first(one: Tensor, other: Tensor, live: int) -> Tensor:
    """Of both views' rows, `(B + R, ...)` each, those of this batch, then those of earlier ones."""
    return torch.cat([one[:live], other[:live], one[live:], other[live:]])
