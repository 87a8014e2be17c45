"""The definition against itself, written a second time in plain Python without torch."""

import math
from itertools import permutations
from statistics import fmean

import pytest
import torch

from sogclr.losses.objective import (
    log_two_view_normalizers,
    log_two_way_normalizers,
    two_view_objective,
    two_way_objective,
)

# 0.002 is the smallest tau that loops over exp() in fp64 reach without a shift.
TEMPERATURES = [0.002, 0.1, 1.0]
# Partners per row of a: 1, 3 and 2, in no particular order.
PAIRING = torch.tensor([1, 0, 2, 1, 2, 1])
# Five rows of a with 2, 1, 3, 1 and 2 partners, and groups whose names mean nothing.
MANY = torch.tensor([2, 0, 4, 2, 3, 0, 1, 4, 2])
GROUP = torch.tensor([7, -2, 7, 3, -2])


def randn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unit(row):
    length = math.sqrt(sum(x * x for x in row))
    return [x / length for x in row]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def two_view_by_loops(features, tau, version):
    x = [[unit(view) for view in sample] for sample in features.tolist()]
    n, views = len(x), len(x[0])
    log_normalizers = []
    for i in range(n):
        g = []
        for view in range(views):
            negatives = [z for j in range(n) if j != i for z in x[j]]
            g.append(fmean(math.exp(dot(x[i][view], z) / tau) for z in negatives))
        inside, outside = math.log(fmean(g)), fmean(math.log(value) for value in g)
        log_normalizers.append(inside if version == "v2" else outside)
    positives = [dot(z, w) for sample in x for z, w in permutations(sample, 2)]
    return -fmean(positives) + tau * fmean(log_normalizers)


def two_way_normalizers_by_loops(a, b, tau, pairing, group):
    """g of every row of either side, and the partners of every row of a."""
    a, b = ([unit(row) for row in side.tolist()] for side in (a, b))
    n = len(a)
    partners = [[k for k, owner in enumerate(pairing) if owner == i] for i in range(n)]
    others = [[j for j in range(n) if group[j] != group[i]] for i in range(n)]
    # Drawing a row of a, then one of its partners, is a mean of means.
    g_a = [
        fmean(fmean(math.exp(dot(a[i], b[k]) / tau) for k in partners[j]) for j in others[i])
        for i in range(n)
    ]
    g_b = [
        fmean(math.exp(dot(a[j], b[k]) / tau) for j in others[owner])
        for k, owner in enumerate(pairing)
    ]
    return g_a, g_b, partners


def two_way_by_loops(a, b, tau, pairing, group=None):
    group = range(len(a)) if group is None else group
    g_a, g_b, partners = two_way_normalizers_by_loops(a, b, tau, pairing, group)
    a, b = ([unit(row) for row in side.tolist()] for side in (a, b))
    total = 0.0
    for i in range(len(a)):
        of_partners = [-dot(a[i], b[k]) + tau / 2 * math.log(g_b[k]) for k in partners[i]]
        total += tau / 2 * math.log(g_a[i]) + fmean(of_partners)
    return total / len(a)


@pytest.mark.parametrize("tau", TEMPERATURES)
@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("views", [2, 3])
def test_two_view_objective_is_the_triple_loop(views, version, tau):
    features = randn(5, views, 4)
    expected = two_view_by_loops(features, tau, version)
    assert two_view_objective(features, tau, version).item() == pytest.approx(expected, rel=1e-12)


def test_version_2_is_the_default():
    features = randn(4, 3, 4)
    assert torch.equal(two_view_objective(features, 0.1), two_view_objective(features, 0.1, "v2"))


@pytest.mark.parametrize("tau", TEMPERATURES)
def test_two_way_objective_is_the_triple_loop(tau):
    a, b = randn(5, 4), randn(5, 4, seed=1)
    expected = two_way_by_loops(a, b, tau, pairing=range(5))
    assert two_way_objective(a, b, tau).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("tau", TEMPERATURES)
def test_partners_share_the_weight_of_their_row(tau):
    a, b = randn(3, 4), randn(len(PAIRING), 4, seed=1)
    expected = two_way_by_loops(a, b, tau, PAIRING.tolist())
    assert two_way_objective(a, b, tau, PAIRING).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("tau", TEMPERATURES)
def test_a_group_holds_no_negatives(tau):
    a, b = randn(5, 4), randn(len(MANY), 4, seed=1)
    g_a, g_b, _ = two_way_normalizers_by_loops(a, b, tau, MANY.tolist(), GROUP.tolist())
    log_g_a, log_g_b = log_two_way_normalizers(a, b, tau, MANY, GROUP)
    assert log_g_a.tolist() == pytest.approx([math.log(g) for g in g_a], rel=1e-12)
    assert log_g_b.tolist() == pytest.approx([math.log(g) for g in g_b], rel=1e-12)
    expected = two_way_by_loops(a, b, tau, MANY.tolist(), GROUP.tolist())
    assert two_way_objective(a, b, tau, MANY, GROUP).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("tau", TEMPERATURES)
def test_a_group_needs_no_pairing(tau):
    a, b = randn(5, 4), randn(5, 4, seed=1)
    expected = two_way_by_loops(a, b, tau, range(5), GROUP.tolist())
    assert two_way_objective(a, b, tau, group=GROUP).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("names", [[0, 1, 2, 3, 4], [9, 2, -5, 0, 4]])
def test_every_row_by_itself_is_the_default_group(names):
    a, b, group = randn(5, 4), randn(len(MANY), 4, seed=1), torch.tensor(names)
    assert torch.equal(
        two_way_objective(a, b, 0.1, MANY, group), two_way_objective(a, b, 0.1, MANY)
    )
    for one, other in zip(
        log_two_way_normalizers(a, b, 0.1, MANY, group),
        log_two_way_normalizers(a, b, 0.1, MANY),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_repeating_a_partner_changes_nothing():
    a, b = randn(4, 3), randn(4, 3, seed=1)
    repeated = torch.tensor([0, 1, 1, 1, 2, 3, 3])
    torch.testing.assert_close(
        two_way_objective(a, b[repeated], 0.1, pairing=repeated), two_way_objective(a, b, 0.1)
    )


def test_order_of_the_partners_does_not_matter():
    a, b, order = randn(5, 4), randn(5, 4, seed=1), torch.tensor([3, 0, 4, 1, 2])
    log_g_a, log_g_b = log_two_way_normalizers(a, b, 0.1)
    shuffled_a, shuffled_b = log_two_way_normalizers(a, b[order], 0.1, pairing=order)
    torch.testing.assert_close(shuffled_a, log_g_a)
    torch.testing.assert_close(shuffled_b, log_g_b[order])


@pytest.mark.parametrize("seed", range(5))
def test_jensen(seed):
    features = randn(5, 3, 4, seed=seed)
    v1, v2 = (two_view_objective(features, 0.1, version) for version in ("v1", "v2"))
    assert v1 < v2
    same_views = features[:, :1].expand(-1, 3, -1)
    v1, v2 = (two_view_objective(same_views, 0.1, version) for version in ("v1", "v2"))
    torch.testing.assert_close(v1, v2, rtol=1e-12, atol=0)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_two_view_gradient(version):
    features = randn(4, 2, 3).requires_grad_()
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, tau: two_view_objective(x, tau, version), (features, tau)
    )


@pytest.mark.parametrize("group", [None, torch.tensor([4, 0, 4])])
@pytest.mark.parametrize("pairing", [None, PAIRING])
def test_two_way_gradient(pairing, group):
    a, b = randn(3, 3), randn(3 if pairing is None else len(pairing), 3, seed=1)
    tau = torch.tensor(0.3, dtype=torch.float64)  # learned, in some losses
    inputs = [tensor.requires_grad_() for tensor in (a, b, tau)]
    assert torch.autograd.gradcheck(lambda *x: two_way_objective(*x, pairing, group), inputs)
    assert torch.autograd.gradcheck(lambda *x: log_two_way_normalizers(*x, pairing, group), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    features, b = randn(3, 2, 4).to(dtype), randn(len(PAIRING), 4, seed=1).to(dtype)
    a, group = features[:, 0], torch.tensor([1, 1, 0])
    outputs = [
        two_view_objective(features, 0.1, "v1"),
        two_view_objective(features, 0.1, "v2"),
        log_two_view_normalizers(features, 0.1),
        two_way_objective(a, b, 0.1, PAIRING),
        *log_two_way_normalizers(a, b, 0.1, PAIRING),
        two_way_objective(a, b, 0.1, PAIRING, group),
        *log_two_way_normalizers(a, b, 0.1, PAIRING, group),
    ]
    assert {output.dtype for output in outputs} == {dtype}


@pytest.mark.parametrize("function", [two_way_objective, log_two_way_normalizers])
def test_unequal_sides_need_a_pairing(function):
    with pytest.raises(ValueError, match="3 and 6 samples"):
        function(randn(3, 4), randn(6, 4), 0.1)


def test_every_row_needs_a_partner():
    with pytest.raises(ValueError, match="at least one partner"):
        two_way_objective(randn(3, 4), randn(3, 4), 0.1, pairing=torch.tensor([0, 2, 2]))
