"""A table under a level: it is the plain table for a level that stands still, and does not lag."""

import math

import pytest
import torch

from sogclr import GlobalClipLoss, GlobalContrastiveLoss
from sogclr.losses import normalizer_sharded
from sogclr.losses.normalizer_level import GAINS, HORIZON, LevelNormalizerTable
from sogclr.losses.normalizer_sharded import ShardedLevelNormalizerTable, ShardedNormalizerTable
from sogclr.losses.normalizer_table import NormalizerTable, update_normalizers

ROWS = 400
EXACT = {"rtol": 1e-10, "atol": 1e-12}


def tables(**settings):
    settings = {"gamma_min": 0.2, "dtype": torch.float64, **settings}
    under = LevelNormalizerTable(ROWS, **settings)
    return NormalizerTable(ROWS, **settings), under


def visits(batch, epochs, drift, noise, seed=0):
    """Draw batches of two views: rows, log ĝ and log g, which drifts for all samples alike."""
    draw = torch.Generator().manual_seed(seed)
    own, common = torch.randn(ROWS, generator=draw, dtype=torch.float64) / 2, 0.0
    for _ in range(epochs):
        for rows in torch.randperm(ROWS, generator=draw).split(batch):
            common += drift * batch / ROWS
            log_g = own[rows] + common
            error = noise * torch.randn(len(rows), generator=draw, dtype=torch.float64)
            yield rows.repeat(2), (log_g + error - noise**2 / 2).repeat(2), log_g.repeat(2)


@pytest.mark.parametrize("level", [-300.0, 0.0, 4.5])
def test_under_a_level_that_stands_still_it_is_the_plain_table(level, monkeypatch):
    plain, under = tables()
    under.state[0, 0] = level
    levels = LevelNormalizerTable._levels
    monkeypatch.setattr(
        LevelNormalizerTable, "_levels", lambda *arguments, update: levels(*arguments, update=False)
    )
    for rows, estimate, _ in visits(50, 3, drift=0.3, noise=0.4):
        torch.testing.assert_close(under.peek(rows, estimate), plain.peek(rows, estimate), **EXACT)
        torch.testing.assert_close(under(rows, estimate), plain(rows, estimate), **EXACT)
    plain.eval(), under.eval()
    torch.testing.assert_close(under(rows, estimate + 1), plain(rows, estimate + 1), **EXACT)
    torch.testing.assert_close(under.log_u, plain.log_u, **EXACT)
    assert torch.equal(under.visits, plain.visits)


def level_by_loops(means):
    """The level after these means of batches, filter by filter."""
    best, level = math.inf, math.nan
    for k in range(GAINS):
        average, error = means[0], 0.0
        for step, mean in enumerate(means[1:], start=1):
            share = max(1 / step, 1 / HORIZON)
            error += share * ((mean - average) ** 2 - error)
            average += max(2.0**-k, 1 / (step + 1)) * (mean - average)
        if error < best:
            best, level = error, average
    return level


def test_the_level_is_the_filter_of_the_docstring():
    _, table = tables()
    means = []
    for rows, estimate, _ in visits(20, 20, drift=0.5, noise=0.3):
        means.append(float(estimate.mean()))
        table(rows, estimate)
        if len(means) in (1, 2, 3, 50, 300, 400):
            assert float(table.state[0, 0]) == pytest.approx(level_by_loops(means), abs=1e-9)


@pytest.mark.parametrize("batch", [2, 7, 40])
def test_a_side_of_pairs_by_itself_moves_its_level_as_both_sides_together_do(batch):
    together, alone = (
        GlobalClipLoss(ROWS, level=True, dtype=torch.float64).sides() for _ in range(2)
    )
    draw = torch.Generator().manual_seed(0)
    for step in range(9):
        log_g = torch.randn(2, batch, generator=draw, dtype=torch.float64) + step / 9
        rows = torch.randperm(ROWS, generator=draw)[:batch]
        update_normalizers([(table, rows) for table, _ in together], log_g)
        for (table, _), (other, _), own in zip(alone, together, log_g, strict=True):
            table(rows, own)
            torch.testing.assert_close(table.state, other.state, **EXACT)


@pytest.mark.parametrize("batch", [8, 40, 200])
def test_a_common_drift_leaves_the_plain_table_behind_and_not_the_level(batch):
    lags = []
    for table in tables():
        history = [
            (table(rows, estimate) - log_g).mean()
            for rows, estimate, log_g in visits(batch, 24, drift=0.1, noise=0.2)
        ]
        lags.append(float(torch.stack(history[len(history) // 2 :]).mean()))
    plain, under = lags
    assert plain < -0.3  # the drift between visits times the mean age of 1 / gamma_min visits
    assert abs(under) < 0.05


@pytest.mark.parametrize("drift", [0.1, 0.4])
def test_the_lag_of_the_plain_table_grows_with_its_age_and_that_of_the_level_does_not(drift):
    lags = {}
    for gamma in (0.5, 0.1):
        for table in tables(gamma_min=gamma):
            history = [
                (table(rows, estimate) - log_g).mean()
                for rows, estimate, log_g in visits(40, 40, drift, noise=0.2)
            ]
            lags[type(table), gamma] = abs(float(torch.stack(history[-100:]).mean()))
    assert lags[NormalizerTable, 0.1] > 3 * lags[NormalizerTable, 0.5] > 0.1 * drift
    assert lags[LevelNormalizerTable, 0.1] < 0.5 * drift


def test_a_constant_added_to_all_logarithms_is_added_to_all_results():
    # The first step sets the level, so nothing depends on where zero lies.
    (_, one), (_, other) = tables(), tables()
    for rows, estimate, _ in visits(30, 3, drift=0.2, noise=0.3):
        torch.testing.assert_close(one(rows, estimate) + 70, other(rows, estimate + 70), **EXACT)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_batch_with_a_value_that_is_not_finite_does_not_move_the_level(value):
    _, table = tables()
    for rows, estimate, _ in visits(40, 1, drift=0.2, noise=0.3):
        table(rows, estimate)
    before = table.state.clone()
    table(rows, torch.where(rows == rows[0], value, estimate))
    assert torch.equal(table.state, before)
    assert table.log_u[:-1].isfinite().all()


@pytest.mark.parametrize("make", [GlobalContrastiveLoss, GlobalClipLoss])
def test_a_loss_resumed_from_its_state_is_the_uninterrupted_one(make):
    def batch(step):
        draw = torch.Generator().manual_seed(step)
        return *torch.randn(2, 6, 4, generator=draw), torch.randperm(9, generator=draw)[:6]

    whole, first = make(9, level=True), make(9, level=True)
    for step in range(3):
        whole(*batch(step)), first(*batch(step))
    resumed = make(9, level=True)
    resumed.load_state_dict(first.state_dict())
    for step in range(3, 6):
        assert torch.equal(whole(*batch(step)), resumed(*batch(step)))


@pytest.mark.parametrize("make", [GlobalContrastiveLoss, GlobalClipLoss])
def test_sides_have_levels_of_their_own(make):
    loss = make(9, level=True, dtype=torch.float64)
    a, b = torch.randn(2, 6, 4, dtype=torch.float64)
    loss(a, b.abs(), torch.arange(6))
    levels = [table.state[0, 0] for table, _ in loss.sides()]
    for (table, _), level in zip(loss.sides(), levels, strict=True):
        # After one step the level is the mean over the rows that were visited.
        torch.testing.assert_close(table.log_u[:6].mean(), level, rtol=0.2, atol=0.2)
    assert len(set(map(float, levels))) == len(levels)


@pytest.mark.parametrize(("drift", "common"), [(0.0, 0.0), (0.0, 0.3), (2.0, 0.0), (0.3, 0.3)])
def test_the_level_is_nearly_as_exact_as_that_of_the_best_gain(drift, common):
    """Also if the anchors of a batch err alike, which the variance within a batch does not show."""
    draw = torch.Generator().manual_seed(1)
    _, table = tables()
    truth, means, levels = [], [], []
    for rows, estimate, _ in visits(40, 60, drift, noise=0.4):
        alike = estimate + common * torch.randn(1, generator=draw, dtype=torch.float64)
        table(rows, alike)
        truth.append(drift * len(means) * 40 / ROWS)
        means.append(float(alike.mean()))
        levels.append(float(table.state[0, 0]))
    truth = torch.tensor(truth) + (torch.tensor(means) - torch.tensor(truth)).mean()
    squares = [square(means, truth)]
    for k in range(1, GAINS):
        average, path = means[0], []
        for step, mean in enumerate(means):
            average += max(2.0**-k, 1 / (step + 1)) * (mean - average)
            path.append(average)
        squares.append(square(path, truth))
    noise = squares[0]  # of a batch
    assert max(squares) > min(squares) + 0.8 * noise
    assert square(levels, truth) < min(squares) + 0.15 * noise


def square(path, truth):
    """Return the mean square error after the first steps."""
    return float((torch.tensor(path) - truth)[100:].square().mean())


@pytest.mark.parametrize("kind", [NormalizerTable, LevelNormalizerTable])
def test_a_filled_table_has_what_it_was_filled_with(kind):
    log_u = torch.linspace(-300, 5, ROWS, dtype=torch.float64)
    visits = torch.arange(ROWS) % 3
    log_u[visits == 0] = -math.inf
    table = kind(ROWS, gamma_min=0.2, dtype=torch.float64)
    table(torch.tensor([0, 3]), torch.ones(2).double())  # is replaced
    table.fill(log_u, visits)
    torch.testing.assert_close(table.log_u[:-1], log_u, **EXACT)
    assert torch.equal(table.visits[:-1], visits.double())
    row = torch.tensor([7])  # visited once: the next estimate counts half
    expected = torch.logaddexp(log_u[row], torch.zeros(1).double()) - math.log(2)
    torch.testing.assert_close(table.peek(row, torch.zeros(1).double()), expected, **EXACT)


@pytest.mark.parametrize("kind", [ShardedNormalizerTable, ShardedLevelNormalizerTable])
def test_a_filled_shard_has_its_rows(kind, monkeypatch):
    monkeypatch.setattr(normalizer_sharded, "_count_processes", lambda group: 3)
    log_u, seen = torch.randn(10, dtype=torch.float64), torch.ones(10)
    whole = torch.full((12,), -math.inf, dtype=torch.float64)
    for rank in range(3):
        monkeypatch.setattr(normalizer_sharded.dist, "get_rank", lambda group, rank=rank: rank)
        shard = kind(10, gamma_min=0.2, dtype=torch.float64)
        shard.fill(log_u, seen)
        whole[rank::3] = shard.log_u[:-1]
    torch.testing.assert_close(whole[:10], log_u, **EXACT)
