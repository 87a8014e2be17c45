"""Errors of normalizers, measured while training."""

import math

import pytest
import torch
from helpers.launching import spread
from helpers.observed_batches import BATCH, features, observe, outcome, read_shared
from torch import Tensor

from sogclr import (
    ClipLoss,
    GlobalClipLoss,
    GlobalContrastiveLoss,
    LearnedTemperature,
    NTXentLoss,
    SigLipLoss,
)
from sogclr.losses.objective import log_two_view_normalizers, log_two_way_normalizers
from sogclr.training.normalizer_error import STORED_BATCHES, NormalizerError
from sogclr.training.task import Outcome

TAU = 0.4


def two_views(z: Tensor, shift: float = 0.0) -> GlobalContrastiveLoss:
    """Its table holds the exact normalizers, and a shift."""
    loss = GlobalContrastiveLoss(z.shape[1], temperature=TAU, scale="temperature")
    log_g = log_two_view_normalizers(z.transpose(0, 1), TAU)  # (n, 2)
    loss.normalizer.log_u[:-1] = log_g.logsumexp(dim=1) - math.log(2) + shift
    return loss


def pairs(z: Tensor, shift: float = 0.0) -> GlobalClipLoss:
    loss = GlobalClipLoss(z.shape[1], temperature=TAU, scale="temperature")
    for table, log_g in zip(
        (loss.normalizer_a, loss.normalizer_b), log_two_way_normalizers(*z, TAU), strict=True
    ):
        table.log_u[:-1] = log_g + shift
    return loss


@pytest.mark.parametrize("make", [two_views, pairs])
def test_an_exact_table_is_nearer_than_the_batch(make) -> None:
    z, errors = features(2_000), NormalizerError()
    observe(errors, z)
    found = errors.read(make(z))
    assert found["in_batch_error"] > 0.1
    assert found["normalizer_error"] < 0.5 * found["in_batch_error"]
    observe(errors, z)
    assert errors.read(make(z, shift=0.8))["normalizer_error"] == pytest.approx(0.8, abs=0.1)


def loop_errors(loss, z: Tensor, log_u: Tensor) -> Tensor:
    """Errors of log u `(2, n)` against two references, one row for each: `(2, anchors)`."""
    last = range((STORED_BATCHES - 1) * BATCH, STORED_BATCHES * BATCH)
    before = [range(k * BATCH, (k + 1) * BATCH) for k in range(STORED_BATCHES - 1)]
    halves = [[row for batch in before[start::2] for row in batch] for start in (0, 1)]
    errors: list[list[Tensor]] = [[], []]
    for side in (0, 1):
        of_views = isinstance(loss, GlobalContrastiveLoss)
        for i in last:
            # One number per sample estimates the mean of g over both views.
            anchors = z[:, i] if of_views else z[side : side + 1, i]

            opposite = (0, 1) if of_views else (1 - side,)

            def log_g(others, anchors=anchors, opposite=opposite):
                terms = [[a @ z[s, j] / TAU for j in others for s in opposite] for a in anchors]
                return torch.tensor(terms).exp().mean(dim=1).log()

            one, other = (log_g(half) for half in halves)
            both = log_g(halves[0] + halves[1])
            missing = 2 * both - one - other
            for k, reference in enumerate((one, other)):
                errors[k].append(log_u[side, i] - (reference + missing).exp().mean().log())
    return torch.tensor(errors)


@pytest.mark.parametrize("shift", [-0.7, 0.0, 0.4])
@pytest.mark.parametrize("kind", ["level", "two views", "pairs"])
def test_the_error_is_what_all_share_and_the_rest_by_explicit_loops(kind, shift) -> None:
    z, errors = features(STORED_BATCHES * BATCH), NormalizerError()
    n, draw = z.shape[1], torch.Generator().manual_seed(1)
    log_u = shift + 0.3 * torch.randn(2, n, generator=draw)
    if kind == "pairs":
        loss = GlobalClipLoss(n, temperature=TAU, scale="temperature")
        loss.normalizer_a.log_u[:-1], loss.normalizer_b.log_u[:-1] = log_u
    else:
        log_u[1] = log_u[0]
        level = kind == "level"
        loss = GlobalContrastiveLoss(n, temperature=TAU, level=level, scale="temperature")
        # The part of the level is log u itself, not the column of the table.
        loss.normalizer.table[:-1, 0] = log_u[0] - (2.0 if level else 0.0)
        if level:
            loss.normalizer.state[0, 0] = 2.0
    observe(errors, z)
    found = errors.read(loss)
    one, other = loop_errors(loss, z, log_u)
    lag = float((one + other).mean() / 2)
    square = float((one * other).mean())
    centred = float(((one - one.mean()) * (other - other.mean())).mean())
    assert found["normalizer_error"] == pytest.approx(math.sqrt(square), rel=1e-4)
    assert found["normalizer_lag"] == pytest.approx(lag, abs=1e-4)
    assert found["normalizer_spread"] == pytest.approx(math.sqrt(centred), rel=1e-4)


@pytest.mark.parametrize("make", [two_views, pairs])
def test_an_error_that_all_samples_share_is_all_lag(make) -> None:
    z, errors = features(2_000), NormalizerError()
    found = {}
    for shift in (0.0, 0.8):
        observe(errors, z)
        found[shift] = errors.read(make(z, shift=shift))
    assert found[0.8]["normalizer_spread"] == pytest.approx(found[0.0]["normalizer_spread"])
    grown = found[0.8]["normalizer_lag"] - found[0.0]["normalizer_lag"]
    assert grown == pytest.approx(0.8, abs=1e-5)


@pytest.mark.parametrize(
    "loss", [NTXentLoss(TAU, scale="temperature"), ClipLoss(TAU, scale="temperature")]
)
def test_the_batch_alone_by_explicit_loops(loss) -> None:
    z, errors = features(STORED_BATCHES * BATCH), NormalizerError()
    observe(errors, z)
    last = range((STORED_BATCHES - 1) * BATCH, STORED_BATCHES * BATCH)
    # The batches before, from the first to the last but one, in turn.
    halves = [
        [
            row
            for k in range(start, STORED_BATCHES - 1, 2)
            for row in range(k * BATCH, (k + 1) * BATCH)
        ]
        for start in (0, 1)
    ]
    products = []
    for side in (0, 1):
        opposite = (0, 1) if isinstance(loss, NTXentLoss) else (1 - side,)
        for i in last:

            def log_g(others, anchor=z[side, i], i=i, opposite=opposite):
                terms = [anchor @ z[s, j] / TAU for j in others if j != i for s in opposite]
                return torch.stack(terms).exp().mean().log()

            own, one, other = log_g(last), log_g(halves[0]), log_g(halves[1])
            # Of both halves together, the logarithm's error is half as large.
            missing = 2 * log_g(halves[0] + halves[1]) - one - other
            products.append((own - one - missing) * (own - other - missing))
    expected = torch.stack(products).mean().sqrt()
    found = errors.read(loss)
    assert list(found) == ["in_batch_error"]
    torch.testing.assert_close(torch.tensor(found["in_batch_error"]), expected, rtol=1e-4, atol=0)


def test_the_batches_reading_has_used_are_forgotten() -> None:
    z, errors = features(200), NormalizerError()
    assert errors.read(two_views(z)) == {}
    observe(errors, z, batches=2)
    assert errors.read(two_views(z)) == {}
    observe(errors, z, batches=3)
    assert errors.read(two_views(z))
    assert errors.read(two_views(z)) == {}
    observe(errors, z)
    assert errors.read(SigLipLoss()) == {}


def test_what_was_seen_survives() -> None:
    z, errors, other = features(200), NormalizerError(), NormalizerError()
    observe(errors, z, batches=5)
    other.restore(errors.state(), torch.device("cpu"))
    assert errors.read(two_views(z)) == other.read(two_views(z))


def test_samples_without_negatives_do_not_count() -> None:
    errors = NormalizerError()
    z = features(4)
    rows = torch.tensor([0, 0, 1])
    for _ in range(3):
        errors.observe(outcome(z, rows))
    assert math.isfinite(errors.read(two_views(z))["normalizer_error"])


def test_samples_that_share_a_text_are_no_negatives_of_each_other() -> None:
    """Two images in three have one of a few texts."""
    errors, z = NormalizerError(), features(600)
    text = torch.arange(600).where(torch.arange(600) % 3 == 0, torch.arange(600) % 7)
    z[1] = z[1, text]
    loss = GlobalClipLoss((600, 600), temperature=TAU, scale="temperature")
    exact = log_two_way_normalizers(*z, TAU, group=text)
    loss.normalizer_a.log_u[:-1], loss.normalizer_b.log_u[text] = exact
    for rows in torch.arange(STORED_BATCHES * BATCH).split(BATCH):
        pair = z[0, rows], z[1, rows]
        errors.observe(Outcome(torch.zeros(()), pair, pair, (rows, text[rows])))
    found = errors.read(loss)
    assert found["normalizer_error"] < 0.5 * found["in_batch_error"]


@pytest.mark.parametrize("kind", [ClipLoss, NTXentLoss])
def test_a_learned_temperature_is_the_number_it_is(kind) -> None:
    z, readings = features(200), []
    for temperature in (TAU, LearnedTemperature(TAU)):
        errors = NormalizerError()
        observe(errors, z)
        readings.append(errors.read(kind(temperature, scale="temperature"))["in_batch_error"])
    assert readings[0] == pytest.approx(readings[1], rel=1e-5)


def test_samples_may_be_any_numbers():
    """As keys are, of a loss that keeps nothing of them."""
    found = []
    for factor in (1, -(2**57)):
        errors = NormalizerError()
        # Some samples of the last batch are among those before it.
        for rows in (torch.arange(first, first + BATCH) for first in (0, 16, 32, 40)):
            pair = features(64)[0, rows], features(64)[1, rows]
            errors.observe(Outcome(torch.zeros(()), pair, pair, (rows * factor, rows * factor)))
        found.append(errors.read(NTXentLoss(TAU, scale="temperature")))
    assert found[0].keys() == {"in_batch_error"}
    assert found[0] == found[1]


@pytest.mark.parametrize("level", [False, True])
def test_a_table_that_processes_divide_is_read_as_a_copied_one(tmp_path, level) -> None:
    spread(2, read_shared, str(tmp_path), level)
    for rank in (0, 1):
        copied, divided = torch.load(tmp_path / f"{rank}.pt")
        assert copied["normalizer_spread"] > 0.1
        assert divided == pytest.approx(copied)
