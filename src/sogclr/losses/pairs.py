"""Losses for pairs: rows of either side are anchors, their partners on the other positives."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..distributed.exchange import Shares, agree
from .backends.shared import Block, SharedNegatives
from .backends.tiled import Absent, Diagonals, Negatives
from .contrast import Anchors, Compared, ContrastiveLoss, Scale, checked_candidates
from .equal_rows import all_different
from .identities import PairIds
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

__all__ = [
    "ClipLoss",
    "DecoupledClipLoss",
    "GlobalClipLoss",
    "PairLoss",
]


class PairLoss(ContrastiveLoss):
    """What is common to the losses below.

    Args:
        temperature: a number, or a module of `sogclr.losses.temperature`.
        scale: "temperature" or "cross-entropy", see the package.
        process_group: see the package.
        num_samples: rows of either side, where something is kept per sample.
    """

    def __init__(
        self,
        temperature: float | Temperature,
        scale: Scale,
        num_samples: tuple[int, int] | tuple[None, None] = (None, None),
        process_group: Any = "auto",
    ) -> None:
        super().__init__(scale, process_group)
        shared = as_temperature(temperature)
        self.one_size = num_samples[0] == num_samples[1]
        # One module under two names where all samples share it.
        self.temperature_a, self.temperature_b = (shared.for_rows(n) for n in num_samples)
        self.normalizer_a: Normalizer = InBatchNormalizer()
        self.normalizer_b: Normalizer = InBatchNormalizer()

    def sides(self) -> list[tuple[Normalizer, Temperature]]:
        """The estimators of side a and of side b."""
        return [
            (self.normalizer_a, self.temperature_a),
            (self.normalizer_b, self.temperature_b),
        ]

    def forward(
        self,
        a: Tensor,
        b: Tensor,
        index: Tensor | None = None,
        index_b: Tensor | None = None,
        group: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch of pairs.

        Rows that share an id on either side, or a group, are never each other's negatives.

        Args:
            a: `(B, d)` features of one side (images), any float dtype.
            b: `(B, d)` features of the other (texts), row i paired with row i of `a`.
            index: `(B,)` integers, who the rows of `a` are. Default: all different.
            index_b: `(B,)` integers, who the rows of `b` are, where that is another numbering
                (captions, of which an image has several). Default: `index`.
            group: `(B,)` integers; rows of equal group mean the same (copies of a photo,
                members of a class). Default: nothing but the ids.

        Returns:
            A scalar, float32 (float64 for float64 features).
        """
        shares = agree(self.process_group, a.shape[0])
        index = distinct(a, shares) if index is None else index
        rows = self._rows(a.device, index, index_b)
        return self._loss(a, b, PairIds.told(*rows, group), shares)

    def _rows(
        self, device: torch.device, index: Tensor, index_b: Tensor | None
    ) -> tuple[Tensor, Tensor, bool]:
        """Of side a and of side b, and whether these tell more than those who is who."""
        rows_a = self.normalizer_a.resolve(index, device)
        if index_b is None and self.one_size:
            return rows_a, rows_a, False
        rows_b = self.normalizer_b.resolve(index if index_b is None else index_b, device)
        return rows_a, rows_b, index_b is not None

    def _loss(self, a: Tensor, b: Tensor, who: PairIds, shares: Shares | None) -> Tensor:
        check_shapes(a, b, who.rows_a, who.rows_b, *who.compared)
        with without_autocast(a.device):
            if shares is None and self.memory_in_use() is None and fuses(a, b):
                return self._fused(a, b, who)
            return self._in_tiles(a, b, who, shares)

    def _in_tiles(self, a: Tensor, b: Tensor, who: PairIds, shares: Shares | None) -> Tensor:
        memory_size = self.memory_in_use()
        units = UnitVectors.of(a, b)
        own_a, own_b = x, y = units.vectors.unbind()
        there, live = None, a.shape[0]
        if shares is not None or memory_size is not None:
            both, here = units.vectors, who.stacked()
            if shares is not None:
                both, here = shares.gather(both, dim=1), shares.gather(here, dim=1)
            (x, y), everyone, live = both, here, both.shape[1]
            if memory_size is not None:
                (x, y), everyone, there = memory_size.beside(both, here)
                memory_size.put(both, here)
            who = who.of(everyone)
        absent: Absent = partial(never_negatives, who.compared, there=there)
        if shares is None and memory_size is None and live > 1 and all_different(*who.compared):
            absent = Diagonals((0,), each=1)
        found = self.contrast(
            self._anchors(who),
            (x * y).sum(dim=1),
            partial(Negatives, x, y, absent, 2)
            if shares is None
            else _shared(x, y, absent, live, shares),
            learning=wants_gradients(a, b),
            live=live,
            processes=1 if shares is None else shares.processes,
        )
        if found.rows is None or found.pull is None:
            return found.value
        pull = (found.pull if shares is None else found.pull[shares.own])[:, None]
        by_a, by_b = units.by_features(found.rows, (pull, own_b), (pull, own_a))
        return with_gradients(found.value, (a, by_a), (b, by_b), *found.tau)

    def _fused(self, a: Tensor, b: Tensor, who: PairIds) -> Tensor:
        """As `_in_tiles`, of a batch that kernels serve."""
        from .backends.fused import FusedNegatives, compared

        x, y, positive = compared(a, b)
        found = self.contrast(
            self._anchors(who),
            positive,
            partial(FusedNegatives, x, y, who.compared),
            learning=wants_gradients(a, b),
        )
        if found.rows is None or found.pull is None:
            return found.value
        by_rows, by_columns = found.rows
        by_a = x.by_features(by_rows, found.pull, y)
        by_b = y.by_features(by_columns, found.pull, x)
        return with_gradients(found.value, (a, by_a), (b, by_b), *found.tau)

    def _anchors(self, who: PairIds) -> tuple[Anchors, Anchors]:
        return (
            Anchors(self.normalizer_a, who.rows_a, self.temperature_a, who.rows_a),
            Anchors(self.normalizer_b, who.rows_b, self.temperature_b, who.rows_b),
        )


def _shared(x: Tensor, y: Tensor, absent: Absent, live: int, shares: Shares) -> Compared:
    """Rows of either side are compared with all of the other; of earlier batches, everywhere."""
    own, earlier = shares.own, slice(live, None)
    sides = ((0, x, y, 1), (1, y, x, 0))
    blocks = [Block(side, 0, rows[own], columns, met) for side, rows, columns, met in sides]
    alike = [Block(side, live, rows[earlier], columns, met) for side, rows, columns, met in sides]
    return partial(SharedNegatives, shares, blocks, alike, absent, (2, x.shape[0]))


class GlobalClipLoss(PairLoss):
    """SogCLR for pairs (image-text, text-text): one remembered normalizer a sample and side.

    It optimizes `two_way_objective`. Yuan et al. 2022; for image-text, Qiu et al., "Not All
    Semantics are Created Equal", ICML 2023 (there with a temperature per sample, here with
    `temperature=IndividualTemperature(...)`).

    Args:
        num_samples: number of pairs in the training set; or a pair of numbers, of rows on the
            `a` side and on the `b` side (images, captions). Of a stream, see
            `GlobalContrastiveLoss`.
        temperature: tau. 0.05, between CLIP's learned 0.01 and what small data wants (0.07).
            Or a `LearnedTemperature` or an `IndividualTemperature`.
        gamma_min: smallest weight of a new estimate, see `GlobalContrastiveLoss`.
        gamma_decay_visits: see `GlobalContrastiveLoss`.
        candidates: see `GlobalContrastiveLoss`. Towers that are trained already, and tell most
            pairs apart from the start, want about 255: what CLIP's loss aims at with a batch of
            256. Towers and heads that start from nothing did better without.
        recent: see `GlobalContrastiveLoss`. On Flickr8k a batch of 16 with the last 112 pairs
            learns what a batch of 64 does.
        scale: "temperature" or "cross-entropy", see the package.
        process_group: see the package.
        dtype: of the tables, float32 or float64.

    Example:
        >>> loss = GlobalClipLoss(num_samples=(6_000, 30_000))
        >>> image, caption = torch.arange(64), torch.arange(64) * 5
        >>> value = loss(torch.randn(64, 256), torch.randn(64, 256), image, caption)

    Raises:
        ValueError, IndexError: as `GlobalContrastiveLoss`.
    """

    sum_when_cross_entropy = False

    def __init__(
        self,
        num_samples: int | tuple[int, int],
        *,
        temperature: float | Temperature = 0.05,
        gamma_min: float = 0.2,
        gamma_decay_visits: int | None = None,
        effective_negatives: float | None = None,
        memory_size: int | None = None,
        scale: Scale = "temperature",
        process_group: Any = "auto",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        sizes = num_samples if isinstance(num_samples, tuple) else (num_samples, num_samples)
        super().__init__(temperature, scale, sizes, process_group)
        self.num_samples = sizes
        self.effective_negatives = checked_candidates(effective_negatives)
        self.normalizer_a, self.normalizer_b = (
            normalizer_table(
                size,
                gamma_min=gamma_min,
                gamma_decay_visits=gamma_decay_visits,
                dtype=dtype,
                process_group=process_group,
            )
            for size in sizes
        )
        self.memory = None if memory_size is None else FeatureMemory(memory_size, dtype)

    # Overrides with ids that must be given: a table without them has no rows.
    def forward(  # type: ignore[override]
        self,
        a: Tensor,
        b: Tensor,
        index: Tensor,
        index_b: Tensor | None = None,
        group: Tensor | None = None,
        sample_key: Tensor | None = None,
        sample_key_b: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch of pairs; updates the normalizers of both sides.

        Args:
            a: `(B, d)` features of one side, any float dtype.
            b: `(B, d)` features of the other, row i paired with row i of `a`.
            index: `(B,)` integers below the number of samples, the ids of the rows of `a`.
            index_b: the same for `b`, where it is another numbering. Default: `index`.
            group: see `PairLoss.forward`.
            sample_key: `(B,)` integers, any of 64 bits, who the rows of `a` are where several
                may have one id: `index` is then only the row of the table that they share, and says
                nothing of who is whose negative. Default: `index`.
            sample_key_b: the same for `b`. Default: `index_b`; without that, `sample_key`.

        Returns:
            A scalar, float32 (float64 for float64 features).
        """
        shares = agree(self.process_group, a.shape[0])
        rows = self._rows(a.device, index, index_b)
        return self._loss(a, b, PairIds.told(*rows, group, sample_key, sample_key_b), shares)


class ClipLoss(PairLoss):
    """CLIP's loss: symmetric cross-entropy over the batch, the positive in the normalizer.

    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
    ICML 2021, figure 3. With `scale="cross-entropy"` the value is as published.

    Args:
        temperature: tau; 0.05 as `GlobalClipLoss`. CLIP's is
            `LearnedTemperature()`.
        scale: "temperature" or "cross-entropy", see the package.
        process_group: see the package.
    """

    positive_in_normalizer = True

    def __init__(
        self,
        temperature: float | Temperature = 0.05,
        *,
        scale: Scale = "temperature",
        process_group: Any = "auto",
    ) -> None:
        super().__init__(temperature, scale, process_group=process_group)


class DecoupledClipLoss(PairLoss):
    """DCL for pairs: CLIP's loss without the positive in the normalizer.

    Yeh et al., "Decoupled Contrastive Learning", ECCV 2022, equation 3, on both sides. The
    stateless twin of `GlobalClipLoss`.

    Args:
        temperature: tau; 0.05 as the others here, or a `LearnedTemperature`.
        scale: "temperature" or "cross-entropy", see the package.
        process_group: see the package.
    """

    def __init__(
        self,
        temperature: float | Temperature = 0.05,
        *,
        scale: Scale = "temperature",
        process_group: Any = "auto",
    ) -> None:
        super().__init__(temperature, scale, process_group=process_group)
