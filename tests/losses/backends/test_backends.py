"""Every backend of one process against the dense reference and its autograd, in float64."""

import pytest
import torch
from helpers.dense_losses import log_sum_exp
from torch.nn.functional import normalize

from sogclr import GlobalClipLoss, GlobalContrastiveLoss
from sogclr.losses.backends import tiled
from sogclr.losses.backends.dense import Dense
from sogclr.losses.backends.tiled import Tiled
from sogclr.losses.normalizer import InBatchNormalizer
from sogclr.losses.normalizer_table import NormalizerTable

M, EXACT = 14, {"rtol": 1e-10, "atol": 1e-12}


def unit_rows(seed):
    rows = torch.randn(M, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return normalize(rows, dim=1).requires_grad_()


def absent_of(mask):
    return lambda rows, columns: mask[rows, columns]


@pytest.mark.parametrize("tau", [0.3, torch.tensor(0.3, dtype=torch.float64), "one each"], ids=str)
@pytest.mark.parametrize("kind", ["pairs", "two views", "queue"])
@pytest.mark.parametrize("entries", [None, 20], ids=["kept", "tiles"])
@pytest.mark.parametrize("backend", [Dense, Tiled])
def test_a_backend_is_the_reference(backend, entries, kind, tau, monkeypatch):
    if entries is not None:
        monkeypatch.setattr(tiled, "KEPT", 0)
        monkeypatch.setattr(tiled, "TILE", entries)
    sides, x = 2 if kind == "pairs" else 1, unit_rows(0)
    y = None if kind == "two views" else unit_rows(1)
    other = x if y is None else y
    ids = torch.tensor([0, 1, 2, 3, 0, 5, 6, 7, 8, 9, 6, 11, 12, 13])
    mask = ids[:, None] == ids[None, :]
    mask[3] = mask[:, 3] = True  # an anchor without negatives
    each = torch.linspace(0.1, 0.9, sides * M, dtype=torch.float64).view(sides, M)
    shift, tau = tau == "one each", each if tau == "one each" else tau
    if backend is Dense and shift:
        pytest.skip("the tiled backend shifts")

    if backend is Dense:
        made = Dense(x.detach(), None if y is None else y.detach(), absent_of(mask), sides)
    else:
        made = Tiled(x.detach(), None if y is None else y.detach(), absent_of(mask), sides, shift)
    actual = made.sums(tau, means=True)
    tau = torch.as_tensor(tau, dtype=torch.float64)
    expected = log_sum_exp(x, other, mask, tau, sides)
    torch.testing.assert_close(actual.log_sum, expected.log_sum, **EXACT)
    torch.testing.assert_close(actual.number, expected.number, **EXACT)
    torch.testing.assert_close(actual.mean, expected.mean, **EXACT)
    weight = torch.rand(sides, M, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    weight[:, 3] = 0
    total = (weight * tau * expected.log_sum.masked_fill(weight == 0, 0)).sum()
    exact = torch.autograd.grad(total, (x,) if kind != "pairs" else (x, other))
    torch.testing.assert_close(made.gradients(actual.log_sum, weight), torch.stack(exact), **EXACT)


class Doubled(InBatchNormalizer):
    """An estimator that a user might write: log u is log 2 above log ĝ."""

    def __init__(self, num_rows):
        super().__init__()
        self.num_rows = num_rows

    def forward(self, rows, log_g):
        return log_g.detach() + torch.tensor(2.0).log()


@pytest.mark.parametrize("kind", [GlobalContrastiveLoss, GlobalClipLoss])
def test_a_loss_takes_an_estimator(kind):
    pair = [torch.randn(6, 4).requires_grad_() for _ in range(2)]
    plain = kind(9, normalizer=lambda n: InBatchNormalizer())
    other, index = kind(9, normalizer=Doubled), torch.arange(6)
    value, doubled = plain(*pair, index), other(*pair, index)
    torch.testing.assert_close(doubled, value + torch.tensor(2.0).log())
    assert not any(isinstance(module, NormalizerTable) for module in other.modules())
