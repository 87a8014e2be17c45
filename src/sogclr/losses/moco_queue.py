"""MoCo's queue: the keys of earlier batches."""

import torch
from torch import Tensor

from .per_sample import PerSample

__all__ = ["KeyQueue"]


class KeyQueue(PerSample):
    """The latest keys and their sample ids, in a ring buffer.

    The queue starts empty, and empty places are no negatives. Published code starts with random
    vectors: they are far from the keys of any encoder, so they are too easy as negatives.

    Args:
        size: K, the number of keys; each takes 4 width + 9 bytes in float32.
        width: d of a key.
        dtype: of the keys. Casting the module does not change it, see `PerSample`.

    Attributes:
        keys: `(size, width)` unit vectors.
        ids: `(size,)` int64, the sample id of each key.
        filled: `(size,)` bool, whether a place holds a key.
        position: int64 scalar, the next place to write; on the device, so that the host never
            waits for it.

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

    def extra_repr(self) -> str:
        return f"{self.size}, width={self.width}, {self.keys.dtype}"
