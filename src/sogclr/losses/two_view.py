"""Losses for two views of each sample: every view is an anchor, the other view its positive."""

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
from .sample_ids import SampleIds, move_ids, view_rows
from .small_batch import small_batch_loss
from .temperature import Temperature, as_temperature

__all__ = ["DecoupledContrastiveLoss", "GlobalContrastiveLoss", "NTXentLoss", "TwoViewLoss"]


class TwoViewLoss(ContrastiveLoss):
    """The base of the losses for two views.

    Args:
        temperature: tau, or a module of `sogclr.losses.temperature`; 0.1 as in SimCLR for long runs
            (0.5 in its runs on CIFAR-10).
        scale: "cross-entropy" or "temperature", see `sogclr.losses`.
        process_group: see `sogclr.losses`.
        num_samples: size of the training set; None for losses without state per sample.
    """

    num_stored_views: int | None = None

    def __init__(
        self,
        temperature: float | Temperature = 0.1,
        *,
        scale: Scale = "cross-entropy",
        process_group: Any = "auto",
        num_samples: int | None = None,
    ) -> None:
        super().__init__(scale, process_group)
        self.temperature = as_temperature(temperature).for_rows(num_samples)
        self.normalizer: Normalizer = InBatchNormalizer()

    def sides(self) -> list[tuple[Normalizer, Temperature]]:
        """Return normalizer and temperature, which both views share."""
        return [(self.normalizer, self.temperature)]

    def forward(self, view1: Tensor, view2: Tensor, index: Tensor | None = None) -> Tensor:
        """Compute the loss of a batch, a scalar in float32 (float64 for float64 features).

        Args:
            view1, view2: `(B, d)` features of two views of each sample, any float dtype.
            index: `(B,)` integers that identify the samples: a sample that occurs twice in the
                batch is not its own negative. Default: all samples are different.
        """
        device, shares = receive(view1, self.process_group)
        rows = self.normalizer.resolve(self.identify(index, view1, shares), device)
        return self._loss(view1, view2, SampleIds(rows, rows, [rows]), shares)

    def _loss(self, view1: Tensor, view2: Tensor, ids: SampleIds, shares: Shares | None) -> Tensor:
        check_shapes(view1, view2, ids.rows_a, ids.rows_b, *ids.identities, shares=shares)
        memory = self.memory if self.training and torch.is_grad_enabled() else None
        with without_autocast(view1.device):
            batch = assemble(view1, view2, ids, shares, memory)
            rows = batch.fresh_first(batch.ids.rows_a, batch.ids.rows_b)  # (M,)
            views = self.num_stored_views
            # All stored views of a sample share tau.
            samples = rows if views is None else rows // views
            side = Side(self.normalizer, rows, self.temperature, samples)
            positive = batch.fresh_first(batch.positive, batch.positive)
            similarities = choose.for_two_views(batch, self.temperature)
            return contrast(self, batch.features, (side,), positive, similarities, 2 * batch.fresh)


class GlobalContrastiveLoss(TwoViewLoss):
    """SogCLR for two views: a table keeps the normalizer of each sample between its visits.

    Algorithm 1 of Yuan et al. (ICML 2022, see `sogclr.losses.contrast`) has one u per sample,
    averaged over both of its views. It optimizes `two_view_objective(..., "v2")`. The value is a
    running estimate of the objective, comparable between batch sizes; the gradient is not its
    derivative, but line 7 of the algorithm.

    Args:
        num_samples: size of the training set; `index` is below it. For a stream, whose samples
            share rows, the number of rows, see `sogclr.hashed_rows`.
        temperature: tau; 0.1 as in the paper for ImageNet; 0.2 to 0.3 suit small images. Or a
            `LearnedTemperature` or an `IndividualTemperature` (iSogCLR).
        level: whether the table holds log u relative to a level that all samples share and that
            follows the encoder without lag (`sogclr.losses.normalizer_level`). False is the
            paper's estimator.
        gamma_min: smallest weight of a new estimate in the moving average. 0.2 averages about five
            visits, for batches of 16 to 64. Raise it for few epochs or large batches, since u lags
            behind the encoder; 1 is the mini-batch loss.
        gamma_decay_visits: None for gamma = max(gamma_min, 1/visits); or the number of visits over
            which gamma falls to gamma_min along a cosine. See `step_size` in
            `sogclr.losses.normalizer_table`.
        effective_negatives: number of negatives of mean weight that a positive competes with; None
            for the paper's objective. See `sogclr.losses.objective.against_effective_negatives`.
        memory_size: number of samples of earlier batches that count as negatives of this batch and
            as anchors; None for none. It reduces the noise of few negatives, for batches below 64.
            See `sogclr.losses.memory`.
        num_stored_views: number of stored augmentations of each sample, each of which gets its own
            u: this optimizes `"v1"`. None if every visit draws new ones.
        normalizer: function from the number of rows to an estimator of log g. It replaces the
            table, so `level`, `gamma_min` and `gamma_decay_visits` have no effect. See
            `sogclr.losses.normalizer`.
        scale, process_group: see `sogclr.losses`.
        dtype: of the table and the memory, float32 or float64.

    Example:
        >>> loss = GlobalContrastiveLoss(num_samples=50_000)
        >>> value = loss(torch.randn(64, 128), torch.randn(64, 128), torch.arange(64))

    Raises:
        ValueError: temperature <= 0, shapes that do not match.
        IndexError: ids outside [0, num_samples); see `NormalizerTable.resolve`.
    """

    sums_negatives = False

    def __init__(
        self,
        num_samples: int,
        *,
        temperature: float | Temperature = 0.1,
        level: bool = False,
        gamma_min: float = 0.2,
        gamma_decay_visits: int | None = None,
        effective_negatives: float | None = None,
        memory_size: int | None = None,
        num_stored_views: int | None = None,
        normalizer: MakeNormalizer | None = None,
        scale: Scale = "cross-entropy",
        process_group: Any = "auto",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(
            temperature, scale=scale, process_group=process_group, num_samples=num_samples
        )
        self.num_samples, self.num_stored_views = num_samples, num_stored_views
        self.effective_negatives = check_effective_negatives(effective_negatives)
        make = normalizer or choose_table(
            level, gamma_min, gamma_decay_visits, dtype, process_group
        )
        self.normalizer = make(num_samples * (num_stored_views or 1))
        self.memory = None if memory_size is None else FeatureMemory(memory_size, dtype)

    def grow(self, num_samples: int) -> None:
        """Add rows for samples that the training set has gained, in place.

        Rows that exist, the level and the memory stay. Training then goes on as with a loss that
        had these rows from the start. Load a checkpoint before, into a loss of its own size. Rows
        of hashed keys cannot grow: the hash of a key depends on their number.

        Args:
            num_samples: size of the training set afterwards; new samples have the highest ids.

        Raises:
            ValueError: the training set would shrink.
        """
        self.normalizer.grow(num_samples * (self.num_stored_views or 1))
        self.temperature.grow(num_samples)
        self.num_samples = num_samples

    def forward(
        self,
        view1: Tensor,
        view2: Tensor,
        index: Tensor | None = None,
        *,
        views: tuple[Tensor, Tensor] | None = None,
        sample_key: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of a batch as `TwoViewLoss`, and update the normalizers of its samples.

        Args:
            view1, view2: see `TwoViewLoss.forward`.
            index: `(B,)` integers in [0, num_samples), the row of each sample, which also
                identifies it. Leave them on the CPU if they come from a loader: there they are
                checked without waiting for the device. Optional only if no sample has state, as
                with a `ScalarNormalizer`.
            views: required with `num_stored_views`: two `(B,)` integers below it, the numbers of
                the stored views in `view1` and in `view2`.
            sample_key: `(B,)` integers of up to 64 bits that identify the samples, if several
                samples share a row. Default: `index`.
        """
        if (views is None) != (self.num_stored_views is None):
            raise ValueError("pass views if and only if the loss was made with num_stored_views")
        device, shares = receive(view1, self.process_group)
        if views is None and shares is None:
            loss = small_batch_loss(self, view1, view2, index, sample_key)
            if loss is not None:
                return loss
        index = self.identify(index, view1, shares)
        if views is None:
            sample = rows_a = rows_b = self.normalizer.resolve(index, device)
        else:
            sizes = self.num_samples, self.num_stored_views or 1
            sample, rows = view_rows(index, views, sizes, device)
            rows_a, rows_b = self.normalizer.resolve(rows, device)
        if sample_key is not None:
            sample = move_ids(sample_key, device, "sample key")
        return self._loss(view1, view2, SampleIds(rows_a, rows_b, [sample]), shares)


class NTXentLoss(TwoViewLoss):
    """NT-Xent, SimCLR's loss: the positive and 2(B-1) negatives of the batch in the normalizer.

    Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations",
    ICML 2020, equation 1. With `scale="cross-entropy"` the value is as published.

    Args: see `TwoViewLoss`.
    """

    positive_in_normalizer = True


class DecoupledContrastiveLoss(TwoViewLoss):
    """DCL: NT-Xent without the positive in the normalizer; SogCLR without its table.

    Yeh et al., "Decoupled Contrastive Learning", ECCV 2022, equation 3.

    Args: see `TwoViewLoss`.
    """
