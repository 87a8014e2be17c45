import math

import pytest
import torch

import sogclr.losses.equal_rows
from sogclr.losses.equal_rows import log_mean_over_equal_rows, mean_over_equal_rows


@pytest.fixture(params=["host", "device", "kernel"])
def where(request, monkeypatch):
    """On a device nothing is read back: all distances are gone through, or a kernel serves."""
    if request.param != "host":
        monkeypatch.setattr("sogclr.losses.torch_versions.is_compiling", lambda: True)
    if request.param == "kernel":
        pytest.importorskip("triton")
        if torch.cuda.is_available():
            pytest.skip("there the kernel takes no tensors of a CPU")
        monkeypatch.setattr(sogclr.losses.equal_rows, "_uses_kernel", lambda _: True)


def batch(size, rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randint(rows, (size,), generator=generator),
        100 * torch.randn(size, generator=generator, dtype=torch.float64),
    )


@pytest.mark.parametrize(("size", "rows"), [(1, 1), (2, 1), (7, 1), (16, 3), (33, 12), (40, 1000)])
def test_means_are_loops(size, rows, where):
    ids, values = batch(size, rows)
    log_mean, mean = log_mean_over_equal_rows(ids, values), mean_over_equal_rows(ids, values)
    for i, row in enumerate(ids):
        own = values[ids == row]
        torch.testing.assert_close(mean[i], own.mean())
        torch.testing.assert_close(log_mean[i], own.logsumexp(dim=0) - math.log(len(own)))


def test_two_views_of_each_are_their_mean(where):
    """Known on the host, this takes a shorter way, with the same bits as any other order has."""
    ids, values = torch.tensor([3, 1, 4, 8]).repeat(2), batch(8, 1)[1]
    values[[1, 3, 7]] = -math.inf
    found = log_mean_over_equal_rows(ids, values)
    expected = torch.logaddexp(values[:4], values[4:]) - math.log(2)
    expected[1], expected[3] = values[5], -math.inf
    torch.testing.assert_close(found, expected.repeat(2))
    order = torch.tensor([4, 0, 1, 2, 3, 5, 6, 7])
    assert torch.equal(log_mean_over_equal_rows(ids[order], values[order]), found[order])


def test_what_is_no_entry_does_not_count(where):
    ids = torch.tensor([5, 2, 5, 2, 5, 9, 2])
    logs = torch.tensor([1.0, -math.inf, -math.inf, -math.inf, 3.0, 2.0, -math.inf])
    expected = math.log((math.exp(1) + math.exp(3)) / 2)
    found = log_mean_over_equal_rows(ids, logs)
    torch.testing.assert_close(found[ids == 5], torch.full((3,), expected))
    assert found[5] == 2
    assert (found[ids == 2] == -math.inf).all()
    values = torch.tensor([1.0, math.nan, math.nan, math.inf, 3.0, 2.0, math.nan])
    found = mean_over_equal_rows(ids, values)
    assert found[ids == 5].tolist() == [2, 2, 2]
    assert found[5] == 2
    assert found[ids == 2].isnan().all()


@pytest.mark.parametrize("mean", [log_mean_over_equal_rows, mean_over_equal_rows])
def test_another_order_gives_the_same_bits(mean, where):
    ids, values = batch(64, 9)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(mean(ids[order], values[order]), mean(ids, values)[order])


def test_without_equal_rows_nothing_changes(where):
    ids, values = torch.randperm(20), batch(20, 1)[1]
    assert torch.equal(log_mean_over_equal_rows(ids, values), values)
    assert torch.equal(mean_over_equal_rows(ids, values), values)


def test_a_device_is_not_asked():
    """On the meta device there is nothing to read: waiting for a value would raise."""
    rows, values = torch.zeros(8, dtype=torch.int64, device="meta"), torch.ones(8, device="meta")
    assert log_mean_over_equal_rows(rows, values).shape == (8,)
