"""SCENT's step, against the problem that it solves and against the average in linear space."""

import math
from functools import partial

import pytest
import torch
from helpers.loop_losses import features

from sogclr import GlobalClipLoss, GlobalContrastiveLoss
from sogclr.losses.normalizer_scent import ScentNormalizerTable
from sogclr.losses.normalizer_table import NormalizerTable, update_normalizers

DOUBLE = {"dtype": torch.float64}
ROWS = 6


def scent(num_rows=ROWS, log_alpha=-1.5):
    return ScentNormalizerTable(num_rows, log_alpha=log_alpha, **DOUBLE)


def visits(steps):
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        yield torch.randperm(ROWS, generator=draw)[:3], 3 * torch.randn(3, generator=draw, **DOUBLE)


@pytest.mark.parametrize("log_alpha", [-6.0, -1.5, 0.0, 4.0])
def test_the_recursion_in_linear_space(log_alpha):
    table, u = scent(log_alpha=log_alpha), {}
    for rows, log_g in visits(60):
        peeked, found = table.peek(rows, log_g), table(rows, log_g)
        torch.testing.assert_close(peeked, found)
        for row, value, log_u in zip(rows.tolist(), log_g.exp().tolist(), found, strict=True):
            if row in u:
                gamma = 1 / (1 + math.exp(-log_alpha) / u[row])
                u[row] = (1 - gamma) * u[row] + gamma * value
            else:
                u[row] = value
            assert math.exp(log_u) == pytest.approx(u[row], rel=1e-10)
    assert table.log_u[:ROWS].exp().tolist() == pytest.approx([u[row] for row in range(ROWS)])


@pytest.mark.parametrize("log_alpha", [-3.0, 0.0, 2.0])
@pytest.mark.parametrize(("before", "log_g"), [(0.7, -1.0), (-2.0, 1.5), (3.0, 3.2)])
def test_a_step_solves_the_proximal_problem(log_alpha, before, log_g):
    """It minimizes alpha (ĝ exp(-v) + v) + D(v, before), D the divergence of exp(-v)."""
    table, row = scent(1, log_alpha), torch.tensor([0])
    table(row, torch.tensor([before], **DOUBLE))
    found = table(row, torch.tensor([log_g], **DOUBLE)).item()

    def objective(v):
        divergence = math.exp(-v) - math.exp(-before) + math.exp(-before) * (v - before)
        return math.exp(log_alpha) * (math.exp(log_g - v) + v) + divergence

    for step in (1e-3, 0.1, 1.0):
        assert objective(found) < min(objective(found - step), objective(found + step))
    slope = (objective(found + 1e-5) - objective(found - 1e-5)) / 2e-5
    assert abs(slope) < 1e-7 * (1 + math.exp(log_alpha) + math.exp(-before))


def test_a_large_step_is_the_latest_estimate_and_a_small_one_the_first():
    for log_alpha, kept in ((800.0, 1), (-800.0, 0)):
        table, row = scent(1, log_alpha), torch.tensor([0])
        for log_g in (0.5, 1.5):
            found = table(row, torch.tensor([log_g], **DOUBLE))
        assert found.item() == pytest.approx((0.5, 1.5)[kept])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_never_written(value):
    table, rows = scent(), torch.tensor([1, 2])
    for log_g in ([value, 2.0], [0.5, value]):
        table(rows, torch.tensor(log_g, **DOUBLE))
    assert table.log_u[[1, 2]].tolist() == [0.5, 2]
    assert table.visits[[1, 2]].tolist() == [1, 1]


OTHERS = {
    "of another step": lambda: scent(log_alpha=2.0),
    "of the plain kind": lambda: NormalizerTable(ROWS, gamma_min=1.0, **DOUBLE),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_beside_another_table_it_keeps_its_step(other):
    together, alone = (scent(), other()), (scent(), other())
    for rows, log_g in visits(12):
        both = torch.stack([log_g, -log_g])
        found = update_normalizers([(table, rows) for table in together], both)
        expected = [table(rows, own) for table, own in zip(alone, both, strict=True)]
        torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize("kind", [GlobalContrastiveLoss, GlobalClipLoss])
def test_a_loss_resumed_from_its_state_is_the_uninterrupted_one(kind):
    make = partial(ScentNormalizerTable, log_alpha=-2.0)
    whole, first, resumed = (kind(8, normalizer=make) for _ in range(3))
    for step in range(3):
        batch = *features(seed=step), torch.arange(5)
        whole(*batch), first(*batch)
    resumed.load_state_dict(first.state_dict())
    for step in range(3, 6):
        batch = *features(seed=step), torch.arange(5)
        assert torch.equal(whole(*batch), resumed(*batch))


@pytest.mark.parametrize("log_alpha", [math.nan, math.inf, -math.inf])
def test_wrong_settings(log_alpha):
    with pytest.raises(ValueError, match="log_alpha"):
        scent(log_alpha=log_alpha)
