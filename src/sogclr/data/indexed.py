"""Sample ids for people with a training loop of their own."""

from collections.abc import Sized
from typing import Any, Generic, TypeVar

from torch.utils.data import Dataset

__all__ = ["IndexedDataset"]

T = TypeVar("T")


class IndexedDataset(Dataset, Generic[T]):
    """Any map-style dataset, each item with its id: `(index, item)`.

    The id is the position, which is what the losses' `index` expects, and stays right under
    shuffling and with any number of workers. The default collation turns the ids of a batch
    into the `(B,)` int64 tensor that is passed as `index`.

    Args:
        dataset: has `__len__` and `__getitem__`.

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
