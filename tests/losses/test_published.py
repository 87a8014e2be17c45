"""By default the in-batch losses return what the field's libraries return."""

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from sogclr import ClipLoss, MoCoLoss, NTXentLoss

TAU = 0.1


def features(size=12, width=16):
    pair = torch.randn(2, size, width, generator=torch.Generator().manual_seed(0))
    pair[1] += pair[0]
    return [side.clone().requires_grad_() for side in pair]


def assert_same(actual, expected, inputs):
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)
    gradients = torch.autograd.grad(actual, inputs), torch.autograd.grad(expected, inputs)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


def test_clip_is_open_clips():
    a, b = features()
    image, text = (normalize(side, dim=1) for side in (a, b))
    open_clip = pytest.importorskip("open_clip")
    expected = open_clip.ClipLoss()(image, text, torch.tensor(1 / TAU))
    assert_same(ClipLoss(TAU)(a, b), expected, (a, b))


def test_ntxent_is_the_cross_entropy_over_all_other_views():
    a, b = features()
    z = normalize(torch.cat([a, b]), dim=1)
    logits = (z @ z.T / TAU).masked_fill(torch.eye(24, dtype=torch.bool), -torch.inf)
    expected = cross_entropy(logits, torch.arange(24).roll(12))
    assert_same(NTXentLoss(TAU)(a, b), expected, (a, b))


def test_moco_is_the_cross_entropy_with_the_positive_first():
    loss = MoCoLoss(queue_size=8, width=16, temperature=TAU)
    keys = normalize(torch.randn(8, 16, generator=torch.Generator().manual_seed(1)), dim=1)
    loss.queue.store(keys, torch.arange(100, 108))
    a, b = features()
    q, k = normalize(torch.cat([a, b]), dim=1), normalize(torch.cat([b, a]), dim=1).detach()
    logits = torch.cat([(q * k).sum(dim=1, keepdim=True), q @ keys.T], dim=1) / TAU
    expected = cross_entropy(logits, torch.zeros(24, dtype=torch.int64))
    actual = loss(a, b, a.detach(), b.detach(), torch.arange(12))
    assert_same(actual, expected, (a, b))


@pytest.mark.parametrize("kind", [ClipLoss, NTXentLoss])
def test_the_temperature_scale_is_tau_times_the_mean(kind):
    a, b = features()
    count = 12 if kind is ClipLoss else 23
    scaled = kind(TAU, scale="temperature")(a, b)
    torch.testing.assert_close(scaled, TAU * (kind(TAU)(a, b) - torch.tensor(count).log()))
