"""The statements of `benchmarks/gradient_error.py`, on a small problem that takes seconds.

Correct estimators fulfil three statements, and wrong estimators do not:

    with normalizers from a batch of B, the bias falls as 1/B;
    with one normalizer a sample, averaged over all visits, the bias against F2 is 0;
    the bias of that estimator against F is the distance between grad F and grad F2.
"""

import math
from functools import cache

import pytest
import torch
from expected_gradient import Problem, relative_bias
from torch import nn

from sogclr import DecoupledContrastiveLoss, GlobalContrastiveLoss
from sogclr.losses.normalizer_table import NormalizerTable
from sogclr.losses.objective import log_two_view_normalizers, two_view_objective

SAMPLES, VIEWS, TAU = 64, 4, 0.1
RUNS, BURN_IN, PASSES = 4, 20, 24
SMALL, LARGE = 8, 32


@cache
def problem():
    """Make a random MLP, and views with a third of the samples' spread."""
    generator = torch.Generator().manual_seed(0)
    like = {"generator": generator, "dtype": torch.float64}
    images = torch.randn(SAMPLES, 1, 16, **like) + 0.3 * torch.randn(SAMPLES, VIEWS, 16, **like)
    linear = [nn.Linear(16, 32, bias=False), nn.Linear(32, 8, bias=False)]
    for layer in linear:
        layer.weight = nn.Parameter(torch.randn(layer.weight.shape, **like) / 4)
    return Problem(nn.Sequential(linear[0], nn.Tanh(), linear[1]), images, TAU)


@cache
def exact(objective):
    return problem().exact(objective)


class SumOfViews(NormalizerTable):
    """A wrong table: it stores the sum of both views' estimates instead of their mean."""

    def forward(self, rows, log_g):
        return super().forward(rows, log_g + math.log(2))


def with_table(gamma_min=1e-6, table=NormalizerTable, first_visit=True):
    """Make SogCLR; the default gamma of 1/visits is correct."""
    loss = GlobalContrastiveLoss(SAMPLES, temperature=TAU, dtype=torch.float64, scale="temperature")
    loss.normalizer = table(SAMPLES, gamma_min=gamma_min, dtype=torch.float64)
    if not first_visit:  # every row looks visited, with u = 0
        loss.normalizer.visits.fill_(1_000_000)
    return lambda batch: loss(batch.view1, batch.view2, batch.sample)


def in_batch():
    loss = DecoupledContrastiveLoss(TAU, scale="temperature")
    return lambda batch: loss(batch.view1, batch.view2)


ESTIMATORS = {
    "in the batch": in_batch,
    "averaged": with_table,
    "gamma 0.9": lambda: with_table(gamma_min=0.9),
    "sum of both views": lambda: with_table(table=SumOfViews),
    "no first visit": lambda: with_table(gamma_min=0.01, first_visit=False),
}
WRONG = ["gamma 0.9", "sum of both views", "no first visit"]


def with_exact_table():
    """Make SogCLR with a table of exact normalizers: unbiased against F2 (`test_laws.py`)."""
    loss = GlobalContrastiveLoss(
        SAMPLES, temperature=TAU, dtype=torch.float64, scale="temperature"
    ).eval()
    log_g = log_two_view_normalizers(problem().features, TAU)
    loss.normalizer.log_u[:SAMPLES] = log_g.logsumexp(dim=1) - math.log(VIEWS)
    loss.normalizer.visits[:SAMPLES] = 1
    return lambda batch: loss(batch.view1, batch.view2, batch.sample)


@cache
def runs(make, batch):
    return torch.stack(
        [problem().mean_gradient(make(), batch, BURN_IN, PASSES, seed) for seed in range(RUNS)]
    )


def gradients(estimator, batch):
    """Return gradients `(R, P)` without the noise of an unbiased gradient on these batches."""
    return runs(ESTIMATORS[estimator], batch) - runs(with_exact_table, batch) + exact("v2")


def bias(estimator, objective, batch=SMALL):
    return relative_bias(gradients(estimator, batch), exact(objective))


def distance():
    return float((exact("v1") - exact("v2")).norm() / exact("v1").norm())


# The statements: each function says whether one is true of an estimator.


def falls_as_one_over_the_batch(estimator):
    ratio = bias(estimator, "v1", SMALL).value / bias(estimator, "v1", LARGE).value
    return 0.7 < ratio / (LARGE / SMALL) < 1.4


def has_no_bias_against_f2(estimator):
    return bias(estimator, "v2").high < 0.06


def stops_at_the_distance_against_f(estimator):
    _, low, high, *_ = bias(estimator, "v1")
    return low - 0.01 < distance() < high + 0.01


def test_in_the_batch_the_bias_falls_as_one_over_the_batch():
    assert falls_as_one_over_the_batch("in the batch")
    assert bias("in the batch", "v1").low > 0.1


@pytest.mark.parametrize("wrong", ["averaged", "sum of both views", "no first visit"])
def test_a_bias_that_does_not_depend_on_the_batch_fails_the_statement(wrong):
    assert not falls_as_one_over_the_batch(wrong)


def test_averaged_over_all_visits_there_is_no_bias_against_f2():
    assert has_no_bias_against_f2("averaged")


def test_averaged_over_all_visits_the_bias_against_f_is_its_distance_from_f2():
    assert distance() > 0.06  # otherwise both statements would be the same
    assert stops_at_the_distance_against_f("averaged")


@pytest.mark.parametrize("wrong", ["in the batch", *WRONG])
def test_wrong_estimators_are_biased_against_f2(wrong):
    assert not has_no_bias_against_f2(wrong)
    assert bias(wrong, "v2").low > 0.1  # so the failure is not due to noise


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_estimators_do_not_stop_at_the_distance(wrong):
    assert not stops_at_the_distance_against_f(wrong)


# The measurement itself.


def test_gradients_by_features_go_through_the_encoder():
    encoder = nn.Linear(3, 2).double()
    images = torch.randn(5, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value = two_view_objective(encoder(images), TAU, "v1")
    direct = torch.autograd.grad(value, list(encoder.parameters()))
    expected = torch.cat([part.flatten() for part in direct])
    torch.testing.assert_close(Problem(encoder, images, TAU).exact("v1"), expected)


@pytest.mark.parametrize("size", [0.0, 0.3])
def test_the_range_contains_the_bias_without_the_noise(size):
    generator = torch.Generator().manual_seed(0)
    truth, error = torch.zeros(2, 30, dtype=torch.float64)
    truth[0], error[1] = 2.0, 2.0 * size
    noise = torch.randn(200, 8, 30, generator=generator, dtype=torch.float64)  # 2.7 times truth
    measured = [relative_bias(truth + error + runs, truth) for runs in noise]
    squared = sum(one.squared for one in measured) / len(measured)
    assert squared == pytest.approx(size**2, abs=0.03)
    held = sum(abs(one.squared - size**2) <= 2 * one.squared_error for one in measured)
    assert held / len(measured) > 0.85
