"""MoCo's queue: the keys of earlier batches."""

import torch
from torch import Tensor

from .per_sample import PerSample

__all__ = ["KeyQueue"]


class KeyQueue(PerSample):
    """The latest keys and the ids of their samples, in a ring.

    It starts empty, and only stored keys count. Published code starts with random vectors: they are
    far from the keys of any encoder, and so the easiest of negatives.

    Args:
        size: K, the number of keys; memory is 4 (width + 2) bytes each in float32, and one.
        width: d of a key.
        dtype: of the keys. It stays when the module is cast, see `PerSample`.

    Attributes:
        keys: `(size, width)` unit rows.
        ids: `(size,)` int64, the sample of each key.
        filled: `(size,)` bool, places that hold a key.
        position: int64 scalar, the place that is written next; on the device, since the host
            never needs it.

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
    def store(self, keys: Tensor, ids: Tensor) -> None:
        """Store keys `(M, width)` of samples `(M,)`, in this order, over the oldest keys.

        Of more keys than places the last remain. A key that is not finite leaves its place empty:
        even a masked one would make the gradient NaN.
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
