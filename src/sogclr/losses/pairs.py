"""Losses for pairs: each sample of either side is an anchor, its partner the positive."""

from typing import Any

import torch
from torch import Tensor

from ..distributed.exchange import Shares
from .backends import choose
from .base import ContrastiveLoss, Scale, Side
from .contrast import contrast
from .inputs import assemble, check_shapes, receive, without_autocast
from .memory import FeatureMemory
from .normalizer import InBatchNormalizer, MakeNormalizer, Normalizer
from .normalizer_sharded import choose_table
from .objective import check_effective_negatives
from .per_sample import require_growth
from .sample_ids import SampleIds
from .small_batch import small_batch_loss
from .temperature import Temperature, as_temperature

__all__ = ["ClipLoss", "DecoupledClipLoss", "GlobalClipLoss", "PairLoss"]


class PairLoss(ContrastiveLoss):
    """The base of the losses for pairs.

    Args:
        temperature: tau, or a module of `sogclr.losses.temperature`. 0.05 lies between 0.01, which
            CLIP learns, and 0.07 for small data.
        scale: "cross-entropy" or "temperature", see `sogclr.losses`.
        process_group: see `sogclr.losses`.
        num_samples: number of samples of side a and of side b; None for losses without state per
            sample.
    """

    def __init__(
        self,
        temperature: float | Temperature = 0.05,
        *,
        scale: Scale = "cross-entropy",
        process_group: Any = "auto",
        num_samples: tuple[int, int] | tuple[None, None] = (None, None),
    ) -> None:
        super().__init__(scale, process_group)
        shared = as_temperature(temperature)
        self.equal_sizes = num_samples[0] == num_samples[1]
        # One module under two names, unless each sample has its own temperature.
        self.temperature_a, self.temperature_b = (shared.for_rows(n) for n in num_samples)
        self.normalizer_a: Normalizer = InBatchNormalizer()
        self.normalizer_b: Normalizer = InBatchNormalizer()

    def sides(self) -> list[tuple[Normalizer, Temperature]]:
        """Return normalizer and temperature of side a and of side b."""
        return [
            (self.normalizer_a, self.temperature_a),
            (self.normalizer_b, self.temperature_b),
        ]

    def forward(
        self,
        a: Tensor,
        b: Tensor,
        index: Tensor | None = None,
        *,
        index_b: Tensor | None = None,
        group: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of a batch, a scalar in float32 (float64 for float64 features).

        Pairs that share an id on either side, or a group, are never each other's negatives.

        Args:
            a, b: `(B, d)` features of both sides (images and texts), any float dtype; b[i] is the
                partner of a[i].
            index: `(B,)` integers that identify the samples of `a`. Default: all are different.
            index_b: `(B,)` integers that identify the samples of `b`, if they are numbered
                differently (captions, of which an image has several). Default: `index`.
            group: `(B,)` integers; pairs of equal group have equal meaning (copies of a photo,
                members of a class). Default: no groups.
        """
        device, shares = receive(a, self.process_group)
        rows = self._rows(device, self.identify(index, a, shares), index_b)
        return self._loss(a, b, SampleIds.of_pairs(*rows, group), shares)

    def _rows(
        self, device: torch.device, index: Tensor, index_b: Tensor | None
    ) -> tuple[Tensor, Tensor, bool]:
        """Return the rows of side a and side b, and whether side b is numbered differently."""
        rows_a = self.normalizer_a.resolve(index, device)
        if index_b is None and self.equal_sizes:
            return rows_a, rows_a, False
        rows_b = self.normalizer_b.resolve(index if index_b is None else index_b, device)
        return rows_a, rows_b, index_b is not None

    def _loss(self, a: Tensor, b: Tensor, ids: SampleIds, shares: Shares | None) -> Tensor:
        check_shapes(a, b, ids.rows_a, ids.rows_b, *ids.identities, shares=shares)
        memory = self.memory if self.training and torch.is_grad_enabled() else None
        with without_autocast(a.device):
            batch = assemble(a, b, ids, shares, memory)
            rows_a, rows_b = batch.ids.rows_a, batch.ids.rows_b  # (M,)
            sides = (
                Side(self.normalizer_a, rows_a, self.temperature_a, rows_a),
                Side(self.normalizer_b, rows_b, self.temperature_b, rows_b),
            )
            similarities = choose.for_pairs(batch, self.temperature_a)
            return contrast(self, batch.features, sides, batch.positive, similarities, batch.fresh)


class GlobalClipLoss(PairLoss):
    """SogCLR for pairs (image-text, text-text): a table keeps a normalizer per sample and side.

    It optimizes `two_way_objective`. Sources: Yuan et al., ICML 2022; for image-text, Qiu et al.,
    "Not All Semantics are Created Equal", ICML 2023, with `temperature=IndividualTemperature(...)`.

    Pretrained towers separate most pairs from the start. They need about 255 `effective_negatives`,
    as many as a CLIP batch of 256 has. Untrained towers and heads did better with None. On Flickr8k
    a batch of 16 with a `memory_size` of 112 learns what a batch of 64 does.

    Args:
        num_samples: number of pairs in the training set; or two numbers, of samples on side a and
            on side b (images, captions). For a stream, see `GlobalContrastiveLoss`.
        temperature: see `PairLoss`.
        others: see `GlobalContrastiveLoss`. `normalizer` is called once for each side.

    Example:
        >>> loss = GlobalClipLoss(num_samples=(6_000, 30_000))
        >>> image, caption = torch.arange(64), torch.arange(64) * 5
        >>> value = loss(torch.randn(64, 256), torch.randn(64, 256), image, index_b=caption)
    """

    sums_negatives = False

    def __init__(
        self,
        num_samples: int | tuple[int, int],
        *,
        temperature: float | Temperature = 0.05,
        level: bool = False,
        gamma_min: float = 0.2,
        gamma_decay_visits: int | None = None,
        effective_negatives: float | None = None,
        memory_size: int | None = None,
        normalizer: MakeNormalizer | None = None,
        scale: Scale = "cross-entropy",
        process_group: Any = "auto",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        sizes = num_samples if isinstance(num_samples, tuple) else (num_samples, num_samples)
        super().__init__(temperature, scale=scale, process_group=process_group, num_samples=sizes)
        self.num_samples = sizes
        self.effective_negatives = check_effective_negatives(effective_negatives)
        make = normalizer or choose_table(
            level, gamma_min, gamma_decay_visits, dtype, process_group
        )
        self.normalizer_a, self.normalizer_b = map(make, sizes)
        self.memory = None if memory_size is None else FeatureMemory(memory_size, dtype)

    def grow(self, num_samples: int | tuple[int, int]) -> None:
        """Add rows for samples that the training set has gained, see `GlobalContrastiveLoss.grow`.

        Args:
            num_samples: number of pairs afterwards; or two numbers, of samples on each side.

        Raises:
            ValueError: a side would shrink.
        """
        sizes = num_samples if isinstance(num_samples, tuple) else (num_samples, num_samples)
        for old, new in zip(self.num_samples, sizes, strict=True):
            require_growth(old, new)
        for (normalizer, temperature), size in zip(self.sides(), sizes, strict=True):
            normalizer.grow(size)
            temperature.grow(size)
        self.num_samples, self.equal_sizes = sizes, sizes[0] == sizes[1]

    def forward(
        self,
        a: Tensor,
        b: Tensor,
        index: Tensor | None = None,
        *,
        index_b: Tensor | None = None,
        group: Tensor | None = None,
        sample_key: Tensor | None = None,
        sample_key_b: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of a batch as `PairLoss`, and update the normalizers of both sides.

        Args:
            a, b, group: see `PairLoss.forward`.
            index: `(B,)` integers, the row of each sample of `a`, which also identifies it; see
                `GlobalContrastiveLoss.forward`.
            index_b: `(B,)` integers, the rows of the samples of `b`, if they are numbered
                differently. Default: `index`.
            sample_key: `(B,)` integers of up to 64 bits that identify the samples of `a`, if
                several samples share a row. Default: `index`.
            sample_key_b: sample keys of `b`. Default: `index_b`; without it, `sample_key`.
        """
        device, shares = receive(a, self.process_group)
        if index_b is None and shares is None:
            loss = small_batch_loss(self, a, b, index, group, sample_key, sample_key_b)
            if loss is not None:
                return loss
        rows = self._rows(device, self.identify(index, a, shares), index_b)
        ids = SampleIds.of_pairs(*rows, group, sample_key, sample_key_b)
        return self._loss(a, b, ids, shares)


class ClipLoss(PairLoss):
    """CLIP's loss: symmetric cross-entropy over the batch, the positive in the normalizer.

    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
    ICML 2021, figure 3. With `scale="cross-entropy"` the value is as published.
    CLIP's temperature is `LearnedTemperature()`.

    Args: see `PairLoss`.
    """

    positive_in_normalizer = True


class DecoupledClipLoss(PairLoss):
    """DCL for pairs: CLIP's loss without the positive in the normalizer.

    Yeh et al., "Decoupled Contrastive Learning", ECCV 2022, equation 3, on both sides.
    `GlobalClipLoss` without tables is this loss.

    Args: see `PairLoss`.
    """
