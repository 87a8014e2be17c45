"""Normalizers and gradients of a population equal the definition of the objectives."""

import math
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from sogclr.auditing.population import Population, tangent
from sogclr.losses import objective_tiled as exact
from sogclr.losses.objective import log_two_view_normalizers, two_view_objective, two_way_objective
from sogclr.losses.objective_tiled import log_mean

TAU = 0.2


def make(sides: int, n: int = 23, views: int = 4, tau: float | Tensor = TAU) -> Population:
    generator = torch.Generator().manual_seed(sides)
    features = torch.randn(sides, n, views, 5, generator=generator, dtype=torch.float64)
    features = features + 2 * features[:, :, :1]
    features[..., 0] += 2  # an uneven density, so that normalizers differ
    features = normalize(features, dim=-1)
    ids = torch.arange(n)
    return Population(features, ids.expand(sides, n), ids, [tau] * sides)


@pytest.fixture(params=[(1_024, 8_192), (7, 5), (1, 92)])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use several tile sizes: the results must not depend on them."""
    monkeypatch.setattr(exact, "ROWS", request.param[0])
    monkeypatch.setattr(exact, "COLUMNS", request.param[1])


def whole(population: Population, log_u: Tensor) -> Tensor:
    part = population.normalizer_gradients(population.log_normalizers(), log_u[None])[0]
    return part + population.alignment_gradient()


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_two_views_are_the_objective(version: Literal["v1", "v2"]) -> None:
    population = make(sides=1)
    leaf = population.features[0].clone().requires_grad_()
    two_view_objective(leaf, TAU, version).backward()
    log_g = population.log_normalizers()
    torch.testing.assert_close(log_g[0], log_two_view_normalizers(leaf.detach(), TAU))
    log_u = log_g if version == "v1" else log_mean(log_g, dim=-1)
    torch.testing.assert_close(whole(population, log_u)[0], leaf.grad)


@pytest.mark.usefixtures("tiles")
def test_pairs_are_the_objective() -> None:
    population = make(sides=2, views=1)
    a, b = (side[:, 0].clone().requires_grad_() for side in population.features)
    two_way_objective(a, b, TAU).backward()
    found = whole(population, population.log_normalizers())
    for side, leaf in zip(found, (a, b), strict=True):
        torch.testing.assert_close(side[:, 0], leaf.grad)


def test_groups_are_the_objective_of_pairs() -> None:
    population = make(sides=2, views=1)
    group = torch.arange(23) // 3
    population = Population(population.features, population.rows, group, population.taus)
    a, b = (side[:, 0].clone().requires_grad_() for side in population.features)
    two_way_objective(a, b, TAU, group=group).backward()
    found = whole(population, population.log_normalizers())
    for side, leaf in zip(found, (a, b), strict=True):
        torch.testing.assert_close(side[:, 0], leaf.grad)


@pytest.mark.parametrize("sides", [1, 2])
def test_views_of_either_side_by_explicit_loops(sides: int) -> None:
    """Each sample has its own temperature, and u is arbitrary."""
    generator = torch.Generator().manual_seed(9)
    tau = 0.1 + torch.rand(6, generator=generator, dtype=torch.float64)
    population = make(sides, n=6, views=3, tau=tau)
    log_u = torch.randn(sides, 6, 3, generator=generator, dtype=torch.float64)
    z = population.features.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for side in range(sides):
        other = 1 - side if sides == 2 else side
        for i in range(6):
            for view in range(3):
                similar = [
                    z[side, i, view] @ z[other, j, w] for j in range(6) if j != i for w in range(3)
                ]
                g = (torch.stack(similar) / tau[i]).exp().mean()
                total = total + tau[i] * g / log_u[side, i, view].exp() / (sides * 6 * 3)
    (expected,) = torch.autograd.grad(total, z)
    found = population.normalizer_gradients(population.log_normalizers(), log_u[None])[0]
    torch.testing.assert_close(found, tangent(expected, population.features))


def test_alignment_of_pairs_by_explicit_loops() -> None:
    population = make(sides=2, n=4, views=3)
    z = population.features.clone().requires_grad_()
    terms = [z[0, i, v] @ z[1, i, w] for i in range(4) for v in range(3) for w in range(3)]
    (expected,) = torch.autograd.grad(-torch.stack(terms).mean(), z)
    torch.testing.assert_close(
        population.alignment_gradient(), tangent(expected, population.features)
    )


def test_several_choices_of_u_equal_separate_calls() -> None:
    population = make(sides=2)
    log_g = population.log_normalizers()
    choices = torch.stack([log_g, log_mean(log_g, dim=-1), log_g - math.log(2)])
    together = population.normalizer_gradients(log_g, choices)
    for log_u, found in zip(choices, together, strict=True):
        alone = population.normalizer_gradients(log_g, log_u[None])[0]
        torch.testing.assert_close(found, alone)
    torch.testing.assert_close(together[2], 2 * together[0])
