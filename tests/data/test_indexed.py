import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from sogclr import IndexedDataset


def test_ids_stay_with_their_items_under_shuffling():
    dataset = IndexedDataset(TensorDataset(torch.arange(10) * 10, torch.arange(10) * 100))
    seen = []
    generator = torch.Generator().manual_seed(0)
    for index, (x, y) in DataLoader(dataset, batch_size=4, shuffle=True, generator=generator):
        assert index.dtype == torch.int64
        assert torch.equal(x, index * 10)
        assert torch.equal(y, index * 100)
        seen += index.tolist()
    assert sorted(seen) == list(range(10))
    assert seen != sorted(seen)


def test_negative_positions_have_the_id_of_their_item():
    assert IndexedDataset("abcd")[-1] == (3, "d")
    with pytest.raises(IndexError):
        IndexedDataset("abcd")[4]


def test_streams_have_no_ids():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(3))

    with pytest.raises(TypeError, match="map-style"):
        IndexedDataset(Stream())
