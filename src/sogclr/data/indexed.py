"""Sample ids for a training loop of your own."""

from collections.abc import Sized
from typing import Any, Generic, TypeVar

from torch.utils.data import Dataset

__all__ = ["IndexedDataset"]

T = TypeVar("T")


class IndexedDataset(Dataset, Generic[T]):
    """A map-style dataset that returns each item with its index: `(index, item)`.

    The index is the item's position in the dataset, as the losses expect it. It is independent of
    shuffling and of the number of workers. The default collation turns the indices of a batch into
    a `(B,)` int64 tensor, the argument `index` of a loss.

    Args:
        dataset: an object with `__len__` and `__getitem__`.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> index, item = next(iter(DataLoader(IndexedDataset(list("abcd")), batch_size=2)))
        >>> index, item
        (tensor([0, 1]), ['a', 'b'])
    """

    def __init__(self, dataset: Any) -> None:
        if not (isinstance(dataset, Sized) and hasattr(dataset, "__getitem__")):
            raise TypeError(
                "IndexedDataset needs a map-style dataset, with __len__ and __getitem__; "
                f"{type(dataset).__name__} is not one"
            )
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, T]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is outside a dataset of {len(self)}")
        index %= len(self)
        return index, self.dataset[index]
