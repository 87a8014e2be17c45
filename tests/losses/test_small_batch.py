"""The loss of a small batch in one function equals the loss from exchangeable parts."""

import copy
import math

import pytest
import torch

from sogclr import GlobalClipLoss, GlobalContrastiveLoss
from sogclr.losses import pairs, small_batch, two_view
from sogclr.losses.temperature import LearnedTemperature

SAMPLES, WIDTH = 300, 12
FAMILIES = {"two views": GlobalContrastiveLoss, "pairs": GlobalClipLoss}
every_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture
def taken(monkeypatch):
    """Record, for each call of a loss, whether the one function computed it."""
    calls = []

    def spy(*arguments):
        result = small_batch.small_batch_loss(*arguments)
        calls.append(result is not None)
        return result

    for module in (pairs, two_view):
        monkeypatch.setattr(module, "small_batch_loss", spy)
    return calls


def features(size, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    both = torch.randn(2, size, WIDTH, generator=generator, dtype=torch.float64).to(dtype)
    return both[0].requires_grad_(), both[1].requires_grad_()


def step(loss, a, b, index, **ids):
    value = loss(a, b, index, **ids)
    return value.detach(), *torch.autograd.grad(3 * value, [a, b])


@every_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", ["cross-entropy", "temperature"])
@pytest.mark.parametrize(("size", "decay"), [(2, None), (3, 4), (64, None), (128, 2)])
def test_equals_the_general_loss(monkeypatch, taken, family, dtype, scale, size, decay):
    settings = {"gamma_decay_visits": decay, "scale": scale, "dtype": dtype}
    loss = FAMILIES[family](SAMPLES, temperature=0.1, **settings)
    general = copy.deepcopy(loss)
    generator = torch.Generator().manual_seed(1)
    tolerance = {"rtol": 1e-11, "atol": 1e-13} if dtype == torch.float64 else {}
    for seed in range(6):
        a, b = features(size, dtype, seed)
        index = torch.randperm(SAMPLES, generator=generator)[:size]
        results = step(loss, a, b, index)
        with monkeypatch.context() as patch:
            patch.setattr(small_batch, "LARGEST", 0)
            expected = step(general, a, b, index)
        assert taken == [True, False]
        taken.clear()
        torch.testing.assert_close(results, expected, **tolerance)
        torch.testing.assert_close(loss.state_dict(), general.state_dict(), **tolerance)


OTHERS = {
    "equal ids": {"index": torch.tensor([0, 1, 2, 1])},
    "a level": {"options": {"level": True}},
    "a memory": {"options": {"memory_size": 8}},
    "effective negatives": {"options": {"effective_negatives": 15}},
    "a learned temperature": {"options": {"temperature": LearnedTemperature()}},
    "a small temperature": {"options": {"temperature": 0.01}},
    "a wider table": {"options": {"dtype": torch.float64}},
    "equal keys": {"ids": {"sample_key": torch.tensor([0, 1, 2, 1])}},
    "half precision": {"dtype": torch.bfloat16},
}


@every_family
@pytest.mark.parametrize("other", OTHERS)
def test_what_the_general_loss_computes(taken, family, other):
    case = OTHERS[other]
    options = {"temperature": 0.1, **case.get("options", {})}
    loss = FAMILIES[family](SAMPLES, **options)
    a, b = features(4, case.get("dtype", torch.float32))
    loss(a, b, case.get("index", torch.arange(4)), **case.get("ids", {}))
    assert not any(taken)


@every_family
def test_keys_of_different_samples_change_nothing(taken, family):
    a, b = features(4, torch.float64)
    values = [
        FAMILIES[family](SAMPLES, dtype=torch.float64)(a, b, torch.arange(4), **keys)
        for keys in ({}, {"sample_key": torch.tensor([7, -(2**60), 5, 6])})
    ]
    assert taken == [True, True]
    assert torch.equal(*values)


@pytest.mark.parametrize("ids", ["group", "sample_key_b", "index_b"])
def test_other_ids_of_pairs(taken, ids):
    loss = GlobalClipLoss(SAMPLES)
    a, b = features(4, torch.float32)
    loss(a, b, torch.arange(4), **{ids: torch.tensor([1, 2, 2, 3])})
    assert not any(taken)


@every_family
def test_in_modes_that_write_nothing(taken, family):
    loss = FAMILIES[family](SAMPLES)
    a, b = features(4, torch.float32)
    with torch.no_grad():
        loss(a, b, torch.arange(4))
    loss.eval()(a, b, torch.arange(4))
    assert taken == [False, False]


@every_family
def test_under_autocast_it_is_not_rounded(taken, family):
    loss, plain = FAMILIES[family](SAMPLES), FAMILIES[family](SAMPLES)
    a, b = features(4, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(a, b, torch.arange(4))
    torch.testing.assert_close(value, plain(a, b, torch.arange(4)))
    assert taken == [False, True]


@every_family
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_not_written(taken, family, value):
    loss = FAMILIES[family](SAMPLES)
    a, b = features(4, torch.float32)
    with torch.no_grad():
        a[1, 2] = value
    loss(a, b, torch.arange(4))
    assert taken == [False]
    for name, table in loss.state_dict().items():
        assert not table[:, 0].isnan().any(), name
