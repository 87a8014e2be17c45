"""The measured bias equals the true bias; noise does not change it."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sogclr import (
    ClipLoss,
    DecoupledClipLoss,
    DecoupledContrastiveLoss,
    GlobalClipLoss,
    GlobalContrastiveLoss,
    NTXentLoss,
)
from sogclr.auditing.expected_gradient import (
    expected_gradients,
    fill_table,
    measure_bias,
    with_batch_normalizers,
)
from sogclr.auditing.population import Population
from sogclr.losses.objective_tiled import log_mean

from .test_population import TAU, make


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def measured_gradients(
    loss: torch.nn.Module, population: Population, batch: int, passes: int
) -> tuple[Tensor, Tensor]:
    log_g = population.log_normalizers()
    known = population.normalizer_gradients(log_g, log_g[None])[0]
    return expected_gradients(
        loss, population, batch, passes, generator(), log_u=log_g, baseline_gradient=known
    )


def exact_parts(population: Population) -> tuple[Tensor, Tensor]:
    """Compute the normalizer parts of the gradients of v1 and v2."""
    log_g = population.log_normalizers()
    v1, v2 = population.normalizer_gradients(log_g, torch.stack([log_g, log_mean(log_g, dim=-1)]))
    return v1, v2


def global_loss(sides: int, n: int, **options: object) -> torch.nn.Module:
    kind = GlobalClipLoss if sides == 2 else GlobalContrastiveLoss
    return kind(n, temperature=TAU, dtype=torch.float64, scale="temperature", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("sides", [1, 2])
def test_a_batch_of_everything_is_exact(sides: int) -> None:
    """With two views a sample, the batch of all samples contains all negatives."""
    population = make(sides, views=2)
    whole = population.alignment_gradient() + exact_parts(population)[0]
    loss = (
        DecoupledClipLoss(TAU, scale="temperature")
        if sides == 2
        else DecoupledContrastiveLoss(TAU, scale="temperature")
    )
    found = measured_gradients(loss, population, len(population), 3)
    v1, _ = exact_parts(population)
    if sides == 1:  # only the order of the samples is random
        torch.testing.assert_close(found[0], v1)
    else:  # the partner's view is random, so one stored view must remain
        one = replace(population, features=population.features[:, :, :1])
        found = measured_gradients(loss, one, len(one), 1)
        torch.testing.assert_close(found[1], exact_parts(one)[0])
    assert measure_bias((v1, v1), (v1, v1), whole).relative == 0


@pytest.mark.parametrize("sides", [1, 2])
def test_a_table_of_exact_normalizers_has_no_bias(sides: int) -> None:
    """In eval mode the table does not change, so exact normalizers give an unbiased gradient."""
    population = make(sides, n=40)
    log_g = population.log_normalizers()
    _, v2 = exact_parts(population)
    whole = v2 + population.alignment_gradient()
    loss = global_loss(sides, 40, gamma_min=0.5)
    tables = [loss.normalizer_a, loss.normalizer_b] if sides == 2 else [loss.normalizer]
    for side, table in enumerate(tables):
        table.log_u[:-1] = log_mean(log_g, dim=-1)[side, :, 0]
        table.visits[:-1] = 1
    found = measured_gradients(loss.eval(), population, 8, 20)
    measured = measure_bias(found, (v2, v2), whole)
    assert not measured.seen
    assert measured.at_most < 0.05
    # With every u 1.3 times too large, 23 % of this part are missing, and the bias is seen.
    for table in tables:
        table.log_u.add_(0.26236)
    found = measured_gradients(loss, population, 8, 20)
    measured = measure_bias(found, (v2, v2), whole)
    share = float(v2.norm() / whole.norm()) * (1 - 1 / 1.3)
    assert measured.relative == pytest.approx(share, abs=3 * measured.uncertainty)
    assert measured.absolute == pytest.approx(measured.relative * float(whole.norm()))


@pytest.mark.parametrize("sides", [1, 2])
def test_the_bias_of_the_batch_agrees_with_brute_force(sides: int) -> None:
    """The truth averages all batches of two of six samples and all draws of views."""
    population = make(sides, n=6, views=2)
    loss = (
        DecoupledClipLoss(TAU, scale="temperature")
        if sides == 2
        else DecoupledContrastiveLoss(TAU, scale="temperature")
    )
    draws = torch.cartesian_prod(
        *[torch.arange(2)] * 4
    )  # first views, then second views, of both samples
    if sides == 1:  # two different views of each sample
        draws = draws[(draws[:, :2] + draws[:, 2:] == 1).all(dim=1)]
    gradients = []
    for pair in torch.combinations(torch.arange(6)):
        for draw in draws:
            z = population.features.clone().requires_grad_()
            value = loss(z[0, pair, draw[:2]], z[sides - 1, pair, draw[2:]])
            gradients.append(torch.autograd.grad(value, z)[0])
    v1, _ = exact_parts(population)
    whole = v1 + population.alignment_gradient()
    truth = float((torch.stack(gradients).mean(dim=0) - whole).norm() / whole.norm())
    assert truth > 0.1
    found = measured_gradients(loss, population, 2, 100)
    measured = measure_bias(found, (v1, v1), whole)
    assert measured.relative == pytest.approx(truth, rel=0.1)


def test_noise_is_not_measured_as_bias() -> None:
    chance = generator()
    exact = torch.randn(1, 500, 2, 8, generator=chance, dtype=torch.float64)
    noisy = [exact + 3 * torch.randn(exact.shape, generator=chance).double() for _ in range(2)]
    measured = measure_bias((noisy[0], noisy[1]), (exact, exact), exact)
    assert (
        float((noisy[0] - exact).norm() / exact.norm()) > 2.9
    )  # the error that a single average would show
    assert not measured.seen
    assert measured.at_most < 0.6
    shifted = [half + 0.8 * exact for half in noisy]
    measured = measure_bias((shifted[0], shifted[1]), (exact, exact), exact)
    assert measured.relative == pytest.approx(0.8, abs=3 * measured.uncertainty)


@pytest.mark.parametrize("sides", [1, 2])
def test_batch_normalizers_make_a_loss_the_in_batch_loss(sides: int) -> None:
    population = make(sides, n=12)
    a, b = population.features[0, :, 0], population.features[sides - 1, :, 1]
    ids = torch.arange(12)
    loss = global_loss(sides, 12)
    before = copy.deepcopy(loss.state_dict())
    plain = (
        (DecoupledClipLoss(TAU, scale="temperature"), ClipLoss(TAU, scale="temperature"))
        if sides == 2
        else (
            DecoupledContrastiveLoss(TAU, scale="temperature"),
            NTXentLoss(TAU, scale="temperature"),
        )
    )
    for positive, expected in zip((False, True), plain, strict=True):
        twin = with_batch_normalizers(loss, positive=positive)
        torch.testing.assert_close(twin(a, b, ids), expected(a, b, ids))
    for key, value in loss.state_dict().items():
        torch.testing.assert_close(value, before[key])


def test_measuring_leaves_the_table_unchanged_and_filling_updates_it() -> None:
    population = make(1, n=12)
    loss = global_loss(1, 12, gamma_min=1e-3)
    fill_table(loss, population, 4, 5, generator())
    assert (loss.normalizer.visits[:-1] == 5).all()
    before = loss.normalizer.log_u.clone()
    measured_gradients(loss, population, 4, 3)
    torch.testing.assert_close(loss.normalizer.log_u, before)
    assert (loss.normalizer.visits[:-1] == 5).all()


def test_a_filled_table_converges_to_v2() -> None:
    population = make(1, n=40)
    loss = global_loss(1, 40, gamma_min=1e-3)
    fill_table(loss, population, 8, 200, generator())
    exact = log_mean(population.log_normalizers(), dim=-1)[0, :, 0]
    assert (loss.normalizer.log_u[:-1] - exact).abs().mean() < 0.04
