"""Each tried loss equals one of the package where its idea is without effect."""

import math

import pytest
import torch
from tried_losses import TRIED

from sogclr import (
    DecoupledClipLoss,
    DecoupledContrastiveLoss,
    GlobalClipLoss,
    GlobalContrastiveLoss,
    SigLipLoss,
)

SAMPLES, BATCH, TAU = 20, 8, 0.1


def assert_equal_gradients(tried, loss, steps=3):
    for step in range(steps):
        torch.manual_seed(step)
        a, b = (torch.randn(BATCH, 6).requires_grad_() for _ in range(2))
        index = torch.randperm(SAMPLES)[:BATCH]
        gradients = [torch.autograd.grad(each(a, b, index), [a, b]) for each in (tried, loss)]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("pairs", "loss"), [(True, GlobalClipLoss), (False, GlobalContrastiveLoss)]
)
def test_where_nothing_is_dropped(pairs, loss):
    tried = TRIED["glofnd"](SAMPLES, TAU, pairs)
    tried.share = -100.0  # the thresholds rise to 1
    assert_equal_gradients(tried, loss(SAMPLES, temperature=TAU, scale="temperature"))


def test_near_negatives_are_dropped():
    tried = TRIED["glofnd"](SAMPLES, TAU, False)
    tried.threshold.fill_(-1)
    tried.rate = 0.0
    far = tried.compare(torch.eye(BATCH), torch.eye(BATCH), torch.arange(BATCH))
    assert (far.similarity[far.negative] > -1).all()
    a, b = (torch.randn(BATCH, 6) for _ in range(2))
    assert math.isfinite(tried(a, b, torch.arange(BATCH)))  # all would be dropped: none is


def test_after_the_first_visit_the_nearest_negatives_are_dropped():
    tried = TRIED["glofnd"](SAMPLES, TAU, True)
    tried.rate = 0.0
    a, b = (torch.randn(BATCH, 6) for _ in range(2))
    rows = torch.arange(BATCH)
    tried(a, b, rows)
    batch = tried.compare(a, b, rows)
    above = (batch.similarity > tried.threshold[batch.rows, None]) & batch.negative
    assert (above.sum(dim=1) == 1).all()  # the quantile lies below the nearest of a few


@pytest.mark.parametrize(
    ("pairs", "loss"), [(True, DecoupledClipLoss), (False, DecoupledContrastiveLoss)]
)
def test_where_positives_weigh_equally(pairs, loss):
    tried = TRIED["dclw"](SAMPLES, TAU, pairs)
    tried.sigma = 1e6
    assert_equal_gradients(tried, loss(TAU, scale="temperature"))


def test_sigmoid():
    tried, loss = TRIED["sigmoid"](SAMPLES, TAU, True), SigLipLoss()
    with torch.no_grad():
        tried.log_scale.copy_(loss.log_scale)
        tried.bias.copy_(loss.bias)
    assert_equal_gradients(tried, lambda a, b, index: TAU * loss(a, b, index))


def test_the_network_finds_the_normalizers_of_still_features():
    tried = TRIED["network"](SAMPLES, 1.0, True)
    torch.manual_seed(0)
    a, b = torch.randn(2, SAMPLES, 4)
    index = torch.arange(SAMPLES)
    for _ in range(300):
        tried(a, b, index)
    batch = tried.compare(a, b, index)
    log_g = tried.log_g(batch)
    error = tried.network(batch.anchors).squeeze(1) - log_g
    assert error.square().mean().sqrt() < 0.5 * log_g.std()
