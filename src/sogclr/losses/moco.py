"""MoCo's loss for two views: the negatives of a query are keys of earlier batches, in a queue."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..distributed.exchange import Shares, agree
from .backends.shared import Block, SharedNegatives
from .backends.tiled import Negatives
from .contrast import Anchors, Compared, ContrastiveLoss, Scale
from .inputs import UnitVectors, check_shapes, wants_gradients, with_gradients, without_autocast
from .normalizer import InBatchNormalizer
from .per_sample import PerSample
from .sample_ids import move_ids
from .temperature import Temperature, as_temperature

__all__ = ["KeyQueue", "MoCoLoss"]


class KeyQueue(PerSample):
    """The latest keys and the samples they are of, in a ring.

    It starts empty, and only what has been put in counts: random vectors, with which published
    code begins, are nobody's keys, far from those of an encoder and so the easiest of negatives.

    Args:
        size: how many keys; memory is 4 (width + 2) bytes each in float32, and one.
        width: d of a key.
        dtype: of the keys. It stays when the module is cast, see `PerSample`.

    Attributes:
        keys: `(size, width)`, on the sphere.
        ids: `(size,)` int64, whose they are.
        filled: `(size,)` bool, which places hold one.
        position: int64 scalar, the place that is written next. On the device, since the host
            need not know it.

    Raises:
        ValueError: size or width < 1.
    """

    keys: Tensor
    ids: Tensor
    filled: Tensor
    position: Tensor

    def __init__(self, size: int, width: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if size < 1 or width < 1:
            raise ValueError(f"a queue needs at least one key of one number, got {size} x {width}")
        self.size, self.width = size, width
        self.register_buffer("keys", torch.zeros(size, width, dtype=dtype))
        self.register_buffer("ids", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("filled", torch.zeros(size, dtype=torch.bool))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def put(self, keys: Tensor, ids: Tensor) -> None:
        """Put keys `(M, width)` of samples `(M,)` in, in this order, over the oldest ones.

        Of more than there are places only the last remain. A key that is not finite leaves its
        place empty: even where it is masked, its gradient would be NaN.
        """
        count = min(len(keys), self.size)
        places = (self.position + torch.arange(count, device=keys.device)) % self.size
        keys, ids = keys[-count:], ids[-count:]
        finite = keys.isfinite().all(dim=1)
        kept = torch.where(finite[:, None], keys, 0).to(self.keys.dtype)
        # No place occurs twice, so these are deterministic on every device.
        self.keys.index_copy_(0, places, kept)
        self.ids.index_copy_(0, places, ids)
        self.filled.index_copy_(0, places, finite)
        self.position.add_(count).remainder_(self.size)

    def extra_repr(self) -> str:
        return f"{self.size}, width={self.width}, {self.keys.dtype}"


class MoCoLoss(ContrastiveLoss):
    """MoCo's loss: InfoNCE of a query, its positive key and a queue of keys of earlier batches.

    He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020,
    equation 1: the positive is in the normalizer. Keys are the work of an encoder that is a
    moving average of the trained one (`sogclr.models.momentum` has it), or those of the queue would
    soon not compare with new ones. The number of negatives is the queue's, whatever the batch.

    Both views ask, and both views' keys enter the queue after the loss was taken: the symmetric
    form, which the authors' demo on CIFAR-10 offers; it adds the two halves, of which this is the
    mean. With `scale="cross-entropy"` each is `cross_entropy(logits, 0)` as published.

    Beyond what is published, a key in the queue that is of the query's own sample is no
    negative: the queue knows whose keys it holds. As published, keys of this batch are none
    either, so the very first batch has no negatives: it fills the queue, its loss is 0 and
    its gradient as well.

    The queue is written only in training mode with gradients enabled, as the normalizers of
    `GlobalContrastiveLoss` are.

    Args:
        queue_size: K, how many keys the queue holds. 4,096 suits CIFAR-10, 65,536 ImageNet.
        width: d of the features.
        temperature: tau; 0.1 as the others here and as in the authors' demo on CIFAR-10 (0.07
            in the paper, 0.2 in MoCo v2). Or a `LearnedTemperature`.
        scale: "temperature" or "cross-entropy", see the package.
        process_group: see the package.
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
        scale: Scale = "temperature",
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
        """The loss of a batch; puts its keys in the queue.

        Args:
            query1: `(B, d)` features of one view of each sample, any float dtype.
            query2: `(B, d)` features of another.
            key1: `(B, d)` the key encoder's features of the first view; no gradient reaches it.
            key2: `(B, d)` the key encoder's features of the second view.
            index: `(B,)` integers, who the samples are.

        Returns:
            A scalar, float32 (float64 for float64 features).
        """
        sample = move_ids(index, query1.device)
        check_shapes(query1, query2, sample)
        check_shapes(key1, key2, sample)
        if not query1.shape[1] == key1.shape[1] == self.queue.width:
            raise ValueError(
                f"the queue was made for features of width {self.queue.width}, got queries of "
                f"{query1.shape[1]} and keys of {key1.shape[1]}"
            )
        shares = agree(self.process_group, query1.shape[0])
        with without_autocast(query1.device):
            queries, keys = UnitVectors.of(query1, query2), UnitVectors.of(key1, key2).vectors
            partner = keys.flip(0).to(queries.vectors.dtype)
            positive = (queries.vectors * partner).sum(dim=2).flatten()  # (2B,)
            if shares is not None:
                sample = shares.gather(sample)
                keys = shares.gather(keys, dim=1)  # (2, N, d)
                positive = shares.gather(torch.stack(positive.chunk(2)), dim=1).flatten()
            sample = sample.repeat(2)  # (2N,)
            found = self.contrast(
                (Anchors(self.normalizer, sample, self.temperature, sample),),
                positive,
                self._compared(queries.vectors.flatten(0, 1), sample, shares),
                wants_gradients(query1, query2),
                processes=1 if shares is None else shares.processes,
            )
            if self.training and torch.is_grad_enabled():
                self.queue.put(keys.flatten(0, 1), sample)
            if found.rows is None or found.pull is None:
                return found.value
            pull = found.pull.view(2, -1, 1)
            pull = pull if shares is None else pull[:, shares.own]
            pulled = zip(pull, partner, strict=True)
            by_query1, by_query2 = queries.by_features(found.rows.view_as(partner), *pulled)
            return with_gradients(found.value, (query1, by_query1), (query2, by_query2), *found.tau)

    def _compared(self, queries: Tensor, sample: Tensor, shares: Shares | None) -> Compared:
        """Queries `(2n, d)` of this process's samples with the queue, given all `(2N,)`."""
        ids, empty = self.queue.ids, ~self.queue.filled
        keys = self.queue.keys.to(queries.dtype)  # (K, d)

        def absent(i: slice, j: slice) -> Tensor:
            return empty[None, j] | (ids[None, j] == sample[i, None])

        if shares is None:
            return partial(Negatives, queries, keys, absent, 1)
        blocks = [
            Block(0, i * shares.total, rows, keys, None) for i, rows in enumerate(queries.chunk(2))
        ]
        return partial(SharedNegatives, shares, blocks, [], absent, (1, len(sample)))
