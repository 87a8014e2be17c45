"""MoCo's loss for two views: the negatives of a query are a queue of keys of earlier batches."""

from typing import Any

import torch
from torch import Tensor

from .backends import choose
from .backends.similarities import Excluded
from .base import ContrastiveLoss, Scale, Side
from .contrast import contrast
from .inputs import Features, check_shapes, normalize_both, receive, without_autocast
from .normalizer import InBatchNormalizer
from .per_sample import PerSample, require_forward_pass
from .sample_ids import move_ids
from .temperature import Temperature, as_temperature

__all__ = ["KeyQueue", "MoCoLoss"]


class MoCoLoss(ContrastiveLoss):
    """MoCo: InfoNCE of a query, its positive key and a queue of keys of earlier batches.

    He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020,
    equation 1: the positive is in the normalizer. Keys come from an encoder that is a moving
    average of the trained encoder (`sogclr.models.momentum`), so that old keys stay comparable
    with new ones. The number of negatives is the size of the queue, not of the batch.

    The features of both views are queries, and the keys of both views enter the queue after the
    loss is computed. The authors' demo on CIFAR-10 has this symmetric form as an option and adds
    the two halves; here the loss is their mean. With `scale="cross-entropy"` each half is
    `cross_entropy(logits, 0)` as published.

    Unlike the published loss, keys of the query's own sample are no negatives. As published, keys
    of this batch are none either, so the loss of the first batch is 0. The queue is written only in
    training mode with gradients enabled.

    Args:
        queue_size: K, the number of keys. 4,096 suits CIFAR-10, 65,536 ImageNet.
        width: d of the features.
        temperature: tau; 0.1 as in the other losses for two views and the authors' demo on CIFAR-10
            (0.07 in the paper, 0.2 in MoCo v2). Or a `LearnedTemperature`.
        scale, process_group: see `sogclr.losses`.
        dtype: of the keys in the queue, float32 or float64.

    Example:
        >>> loss = MoCoLoss(queue_size=4096, width=128)
        >>> queries, keys = torch.randn(2, 64, 128), torch.randn(2, 64, 128)
        >>> value = loss(*queries, *keys, torch.arange(64))

    Raises:
        ValueError: temperature <= 0, queue_size or width < 1, shapes that do not match.
    """

    positive_in_normalizer = True

    def __init__(
        self,
        queue_size: int,
        width: int,
        *,
        temperature: float | Temperature = 0.1,
        scale: Scale = "cross-entropy",
        process_group: Any = "auto",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(scale, process_group)
        self.temperature = as_temperature(temperature).for_rows(None)
        self.normalizer = InBatchNormalizer()
        self.queue = KeyQueue(queue_size, width, dtype)

    def forward(
        self, query1: Tensor, query2: Tensor, key1: Tensor, key2: Tensor, index: Tensor
    ) -> Tensor:
        """Compute the loss of a batch as `TwoViewLoss`, then store its keys in the queue.

        Args:
            query1, query2: `(B, d)` features of two views of each sample, any float dtype.
            key1, key2: `(B, d)` the key encoder's features of the same views; no gradient.
            index: `(B,)` integers that identify the samples.
        """
        writes = self.training and torch.is_grad_enabled()
        if writes:
            require_forward_pass()  # a recomputed batch would meet its own keys in the queue
        device, shares = receive(query1, self.process_group)
        sample = move_ids(index, device)
        check_shapes(query1, query2, sample, shares=shares)
        check_shapes(key1, key2, sample, shares=shares)
        if not query1.shape[1] == key1.shape[1] == self.queue.width:
            raise ValueError(
                f"the queue was made for features of width {self.queue.width}, got queries of "
                f"{query1.shape[1]} and keys of {key1.shape[1]}"
            )
        with without_autocast(query1.device):
            queries, length = normalize_both(query1, query2)  # (2, n, d)
            keys, _ = normalize_both(key1, key2)
            key1, key2 = keys.to(queries.dtype)
            features = Features(
                (query1, query2), queries, length, (key2, key1), mutual=False, shares=shares
            )
            positive = torch.stack([(queries[0] * key2).sum(1), (queries[1] * key1).sum(1)])
            if shares is not None:
                sample, keys = shares.gather(sample), shares.gather(keys, dim=1)
                positive = shares.gather(positive, dim=1)
            sample = sample.repeat(2)  # (2N,)
            side = Side(self.normalizer, sample, self.temperature, sample)
            negatives = self.queue.negatives(sample, queries.dtype)
            similarities = choose.for_queue(queries, *negatives, shares, self.temperature)
            loss = contrast(
                self, features, (side,), positive.flatten(), similarities, fresh=len(sample)
            )
            if writes:
                self.queue.store(keys.flatten(0, 1), sample)
            return loss


class KeyQueue(PerSample):
    """The latest keys and their sample ids, in a ring buffer.

    The queue starts empty, and empty places are no negatives. Published code starts with random
    vectors: they are far from the keys of any encoder, so they are too easy as negatives.

    Attributes:
        keys: `(size, width)` unit vectors; each takes 4 width + 9 bytes in float32.
        ids: `(size,)` int64, the sample id of each key.
        filled: `(size,)` bool, whether a place holds a key.
        position: int64 scalar, the next place to write; on the device, so that the host never
            waits for it.
    """

    keys: Tensor
    ids: Tensor
    filled: Tensor
    position: Tensor

    def __init__(self, size: int, width: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if size < 1 or width < 1:
            raise ValueError(
                f"a queue needs at least one key of width 1, got size {size} and width {width}"
            )
        self.size, self.width = size, width
        self.register_state("keys", torch.zeros(size, width, dtype=dtype))
        self.register_state("ids", torch.zeros(size, dtype=torch.int64))
        self.register_state("filled", torch.zeros(size, dtype=torch.bool))
        self.register_state("position", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def store(self, keys: Tensor, ids: Tensor) -> None:
        """Store keys `(M, width)` with sample ids `(M,)`, in this order, over the oldest keys.

        If M exceeds the size, only the last keys are stored. A key with a value that is not finite
        leaves its place empty: even masked, it would make the gradient NaN.
        """
        count = min(len(keys), self.size)
        places = (self.position + torch.arange(count, device=keys.device)) % self.size
        keys, ids = keys[-count:], ids[-count:]
        finite = keys.isfinite().all(dim=1)
        kept = torch.where(finite[:, None], keys, 0).to(self.keys.dtype)
        # All places differ, so the copies are deterministic on every device.
        self.keys.index_copy_(0, places, kept)
        self.ids.index_copy_(0, places, ids)
        self.filled.index_copy_(0, places, finite)
        self.position.add_(count).remainder_(self.size)

    def negatives(self, samples: Tensor, dtype: torch.dtype) -> tuple[Tensor, Excluded]:
        """Return a copy of the keys, and which keys are no negatives of the samples `(M,)`."""
        # Copy: before backward, the keys of this batch replace the oldest keys.
        keys, ids, empty = self.keys.to(dtype, copy=True), self.ids.clone(), ~self.filled

        def excluded(rows: slice, columns: slice) -> Tensor:
            return empty[None, columns] | (ids[None, columns] == samples[rows, None])

        return keys, excluded

    def extra_repr(self) -> str:
        return f"{self.size}, width={self.width}, {self.keys.dtype}"
