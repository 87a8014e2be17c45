"""What a temperature minimizes, against autograd of the exact objectives and explicit loops."""

import io
import math
from collections import defaultdict
from collections.abc import Callable
from itertools import combinations, product
from typing import Any, NamedTuple

import pytest
import torch
from helpers.loop_losses import named_ids
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from sogclr import (
    ClipLoss,
    DecoupledClipLoss,
    DecoupledContrastiveLoss,
    GlobalClipLoss,
    GlobalContrastiveLoss,
    IndividualTemperature,
    LearnedTemperature,
    NTXentLoss,
)
from sogclr.losses.gradient import Derivatives
from sogclr.losses.normalizer_table import NormalizerTable, update_normalizers
from sogclr.losses.objective import (
    against_effective_negatives,
    log_two_view_normalizers,
    log_two_way_normalizers,
    two_view_objective,
    two_way_objective,
)

EXACT = {"rtol": 1e-10, "atol": 1e-12}
GLOBAL = [GlobalContrastiveLoss, GlobalClipLoss]
IN_BATCH = [NTXentLoss, DecoupledContrastiveLoss, ClipLoss, DecoupledClipLoss]

make_global = pytest.mark.parametrize("kind", GLOBAL)
make_loss = pytest.mark.parametrize("kind", [*GLOBAL, *IN_BATCH])
aims = pytest.mark.parametrize("rho", [None, 0.3], ids=["F/tau", "F + rho tau"])


def randn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def features(size=5, width=6, seed=0):
    pair = randn(2, size, width, seed=seed)
    # Partners resemble each other, as after some training.
    pair[1] += pair[0]
    return [side.requires_grad_() for side in pair]


def modules(loss, kind):
    return [module for module in loss.modules() if isinstance(module, kind)]


def exactly(loss):
    """Temperatures in float64; the tables are made so."""
    for learned in modules(loss, LearnedTemperature):
        learned.double()
    for own in modules(loss, IndividualTemperature):
        own.tau, own.velocity = own.tau.double(), own.velocity.double()
    return loss


def make(kind, temperature, **settings):
    if kind in GLOBAL:
        settings = {"num_samples": 8, "dtype": torch.float64, "scale": "temperature", **settings}
    return exactly(kind(temperature=temperature, **settings))


def fill(table, log_u):
    """Put normalizers into the table."""
    table.log_u[: table.num_rows] = log_u.detach().flatten()
    table.visits[: table.num_rows] = 1


def state_of(loss):
    return {name: tensor.clone() for name, tensor in loss.state_dict().items()}


def relative_error(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


# A learned temperature on a full batch with gamma = 1, where nothing is estimated.


def full_batch_objective(kind, a, b, tau):
    """F and the number of candidates of an anchor, over which the in-batch losses may sum."""
    n, views = len(a), torch.stack([a, b], dim=1)
    if kind is GlobalContrastiveLoss:
        return two_view_objective(views, tau, "v2"), 1
    if kind is GlobalClipLoss:
        return two_way_objective(a, b, tau), 1
    if kind is DecoupledContrastiveLoss:
        return two_view_objective(views, tau, "v1"), 2 * (n - 1)
    if kind is DecoupledClipLoss:
        return two_way_objective(a, b, tau), n - 1
    a, b = normalize(a, dim=1), normalize(b, dim=1)
    if kind is NTXentLoss:
        z, count = torch.cat([a, b]), 2 * n - 1
        logits = (z @ z.T / tau).masked_fill(torch.eye(2 * n, dtype=torch.bool), -math.inf)
        entropy = cross_entropy(logits, torch.arange(2 * n).roll(n))
    else:
        logits, target, count = a @ b.T / tau, torch.arange(n), n
        entropy = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
    return tau * (entropy - math.log(count)), count


@pytest.mark.parametrize("scale", ["temperature", "cross-entropy"])
@aims
@make_loss
def test_what_a_learned_temperature_minimizes(kind, rho, scale):
    settings = {"gamma_min": 1.0} if kind in GLOBAL else {}
    loss = make(kind, LearnedTemperature(0.2, rho=rho), scale=scale, **settings)
    [log_tau] = loss.parameters()  # one for both sides
    inputs = [*features(), log_tau]
    value = loss(*inputs[:2], torch.tensor([4, 0, 2, 7, 5]))

    tau = log_tau.exp()
    objective, count = full_batch_objective(kind, *inputs[:2], tau)
    if rho is None:
        expected = objective / tau * (tau.detach() if scale == "temperature" else 1)
    else:
        expected = (objective + rho * tau) / (1 if scale == "temperature" else tau.detach())
    if scale == "cross-entropy":
        expected = expected + math.log(count)
    torch.testing.assert_close(value, expected, **EXACT)
    gradient, expected_gradient = (torch.autograd.grad(x, inputs) for x in (value, expected))
    torch.testing.assert_close(gradient, expected_gradient, **EXACT)


def test_clip_as_published():
    a, b = features()
    loss = make(ClipLoss, LearnedTemperature(0.07), scale="cross-entropy")
    [log_tau] = loss.parameters()
    value = loss(a, b)
    by_a, by_b, by_log_tau = torch.autograd.grad(value, (a, b, log_tau))

    logit_scale = -log_tau.detach().requires_grad_()
    logits = logit_scale.exp() * normalize(a, dim=1) @ normalize(b, dim=1).T
    target = torch.arange(5)
    clip = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(value, clip, **EXACT)
    expected = torch.autograd.grad(clip, (a, b, logit_scale))
    torch.testing.assert_close((by_a, by_b, -by_log_tau), expected, **EXACT)


def test_clips_temperature_starts_at_clips():
    learned = LearnedTemperature()
    assert (learned.rho, learned.minimum) == (None, 0.01)
    assert learned.log_temperature.exp().item() == pytest.approx(0.07)


# Small batches with exact normalizers: u is not ĝ. Every batch there is, once.


class Problem(NamedTuple):
    """A small data set with fixed features, and all its batches."""

    objective: Callable[[Tensor], Tensor]
    """F, by tau."""
    log_normalizers: Callable[..., list[Tensor]]
    """log g of every row of the tables, by tau of every sample of each side."""
    batches: list[tuple[float, tuple[Any, ...]]]
    """Each with its probability: the two sides, then ids."""
    sizes: tuple[int, ...]
    """Samples of each side."""
    kind: type
    settings: dict[str, Any]

    def loss(self, temperature, **settings):
        settings = {
            "dtype": torch.float64,
            "scale": "temperature",
            **self.settings,
            **settings,
        }
        return exactly(self.kind(temperature=temperature, **settings))

    def taus(self, tau):
        return [tau.expand(size) for size in self.sizes]

    def fill(self, loss, *taus):
        tables = modules(loss, NormalizerTable)
        for table, log_g in zip(tables, self.log_normalizers(*taus), strict=True):
            fill(table, log_g)


def two_views(version):
    n, views = 4, 2
    x = randn(n, views, 4)
    num_stored_views = views if version == "v1" else None

    def log_normalizers(tau):
        log_g = log_two_view_normalizers(x, tau.repeat_interleave(views)[:, None])
        return [log_g if version == "v1" else log_g.logsumexp(dim=1) - math.log(views)]

    batches = []
    for samples in combinations(range(n), 2):
        for first in product(range(views), repeat=2):
            index, first = torch.tensor(samples), torch.tensor(first)
            which = ((first, 1 - first),) if num_stored_views else ()
            batches.append((x[index, first], x[index, 1 - first], index, *which))
    return Problem(
        lambda tau: two_view_objective(x, tau, version),
        log_normalizers,
        [(1 / len(batches), batch) for batch in batches],
        (n,),
        GlobalContrastiveLoss,
        {"num_samples": n, "num_stored_views": num_stored_views},
    )


def captioned(pairing, size, group=None):
    sizes = (int(pairing.max()) + 1, len(pairing))
    a, b = randn(sizes[0], 4), randn(sizes[1], 4, seed=1)

    def log_normalizers(tau_a, tau_b):
        # The definition divides similarities by tau: by that of the row, or of the column.
        log_g_a, _ = log_two_way_normalizers(a, b, tau_a[:, None], pairing, group)
        _, log_g_b = log_two_way_normalizers(a, b, tau_b[None, :], pairing, group)
        return [log_g_a, log_g_b]

    batches, sets = [], list(combinations(range(sizes[0]), size))
    for images in sets:
        draws = list(product(*((pairing == image).nonzero().flatten() for image in images)))
        for draw in draws:
            index, index_b = torch.tensor(images), torch.stack(draw)
            means = None if group is None else group[index]
            batch = (a[index], b[index_b], index, index_b, means)
            batches.append((1 / len(sets) / len(draws), batch))
    return Problem(
        lambda tau: two_way_objective(a, b, tau, pairing, group),
        log_normalizers,
        batches,
        sizes,
        GlobalClipLoss,
        {"num_samples": sizes},
    )


PROBLEMS = {
    "version 1": two_views("v1"),
    "version 2": two_views("v2"),
    "pairs": captioned(torch.arange(5), 2),
    "captions": captioned(torch.tensor([1, 0, 2, 1, 3, 1, 2]), 3),
    # No group has more than 2 images, so that in a batch of 3 everyone has a negative.
    "groups": captioned(
        torch.tensor([1, 0, 4, 2, 1, 3, 2, 4]), 3, group=torch.tensor([6, 0, 6, 3, 0])
    ),
}
problems = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)


@aims
@problems
def test_exact_normalizers_make_the_gradient_of_tau_unbiased(problem, rho, monkeypatch):
    def mean_gradient(gamma_min=0.2, learning=False, loss=None):
        loss = loss or problem.loss(LearnedTemperature(0.2, rho=rho), gamma_min=gamma_min)
        [log_tau] = loss.parameters()
        problem.fill(loss, *problem.taus(log_tau.exp()))
        loss.train(learning)
        mean = sum(
            probability * loss(*batch[:2], **named_ids(*batch[2:]))
            for probability, batch in problem.batches
        )
        return torch.autograd.grad(mean, log_tau)[0]

    tau = LearnedTemperature(0.2).log_temperature.detach().double().exp().requires_grad_()
    aim = problem.objective(tau)
    aim = aim / tau * tau.detach() if rho is None else aim + rho * tau
    exact = tau.detach() * torch.autograd.grad(aim, tau)[0]  # by log tau
    torch.testing.assert_close(mean_gradient(), exact, **EXACT)

    assert relative_error(mean_gradient(gamma_min=1.0, learning=True), exact) > 0.01

    # The surrogate of published code: log u does not count in the derivative by tau.
    seen = []

    def remember(sides, log_g):
        seen.append(update_normalizers(sides, log_g))
        return seen[-1]

    def without_the_first_term(weight, by_positive, by_log_tau):
        return Derivatives(weight, by_positive, by_log_tau - seen[-1])

    loss = problem.loss(LearnedTemperature(0.2, rho=rho), gamma_min=0.2)
    monkeypatch.setattr("sogclr.losses.contrast.update_normalizers", remember)
    monkeypatch.setattr("sogclr.losses.contrast.Derivatives", without_the_first_term)
    assert relative_error(mean_gradient(loss=loss), exact) > 0.1


@problems
def test_exact_normalizers_make_the_slope_of_every_sample_unbiased(problem):
    # A velocity without momentum is the last slope; u and tau stay where they are.
    rho = 0.3
    temperature = IndividualTemperature(0.25, rho=rho, momentum=0.0, learning_rate=1e-30)
    loss = problem.loss(temperature, gamma_min=1e-15, gamma_decay_visits=1)
    own = modules(loss, IndividualTemperature)
    for seed, (side, size) in enumerate(zip(own, problem.sizes, strict=True)):
        side.tau[:size] += 0.1 * randn(size, seed=seed).tanh()
    taus = [side.tau[:-1].clone().requires_grad_() for side in own]
    problem.fill(loss, *taus)

    slopes = [torch.zeros(size, dtype=torch.float64) for size in problem.sizes]
    weights = [torch.zeros_like(slope) for slope in slopes]
    for probability, batch in problem.batches:
        loss(*batch[:2], **named_ids(*batch[2:]))
        ids = batch[2 : 2 + len(own)]
        for side, slope, weight, rows in zip(own, slopes, weights, ids, strict=True):
            slope[rows] += probability * (side.velocity[rows] - rho)
            weight[rows] += probability
    for side, tau in zip(own, taus, strict=True):
        assert torch.equal(side.tau[:-1], tau)

    log_g = problem.log_normalizers(*taus)
    # With a normalizer for every view a sample's slope is the mean over its views.
    per_sample = [x.view(len(tau), -1).mean(dim=1) for x, tau in zip(log_g, taus, strict=True)]
    terms = sum((tau * x).sum() for tau, x in zip(taus, per_sample, strict=True))
    for slope, weight, exact in zip(slopes, weights, torch.autograd.grad(terms, taus), strict=True):
        torch.testing.assert_close(slope / weight, exact, **EXACT)


# Why the bare objective is not learned.


def kl_from_uniform(logits):
    p = logits.softmax(dim=0)
    return (p * (p * len(p)).log()).sum()


def negatives_of(i, n):
    return torch.tensor([j for j in range(n) if j != i])


@pytest.mark.parametrize("tau", [0.02, 0.2, 2.0])
@pytest.mark.parametrize("seed", range(10))
def test_the_bare_objective_only_falls_with_tau(seed, tau):
    x, b = randn(5, 3, 4, seed=seed), randn(8, 4, seed=seed + 100)
    pairing, group = torch.tensor([1, 0, 4, 2, 1, 3, 2, 4]), torch.tensor([6, 0, 6, 3, 0])
    tau = torch.tensor(tau, dtype=torch.float64, requires_grad=True)
    for value in (
        two_view_objective(x, tau, "v1"),
        two_view_objective(x, tau, "v2"),
        two_way_objective(x[:, 0], b[:5], tau),
        two_way_objective(x[:, 0], b, tau, pairing),
        two_way_objective(x[:, 0], b, tau, pairing, group),
    ):
        [by_tau] = torch.autograd.grad(value, tau)
        assert by_tau < -1e-4
    similarity = normalize(x[:, 0], dim=1) @ normalize(b[:5], dim=1).T
    rows = [
        s[negatives_of(i, 5)] for side in (similarity, similarity.T) for i, s in enumerate(side)
    ]
    expected = -sum(kl_from_uniform(row / tau.detach()) for row in rows) / 10
    [by_tau] = torch.autograd.grad(two_way_objective(x[:, 0], b[:5], tau), tau)
    torch.testing.assert_close(by_tau, expected, **EXACT)


# Bounds and refusals.


@make_loss
def test_a_learned_temperature_stays_above_its_minimum_and_can_leave_it(kind):
    # Partners that agree want a small tau, opposed ones a large one.
    settings = {"gamma_min": 1.0} if kind in GLOBAL else {}
    loss = make(kind, LearnedTemperature(0.1, minimum=0.05), **settings)
    at_minimum = make(kind, 0.05, **settings)
    [log_tau] = loss.parameters()
    x, index = randn(5, 6), torch.arange(5)

    def step(partners, learning_rate):
        optimizer = torch.optim.SGD([log_tau], learning_rate)
        optimizer.zero_grad()
        loss(x, partners, index).backward()
        optimizer.step()

    for _ in range(3):
        step(x, 1e9)
        assert log_tau < math.log(0.05)  # pushed below by the optimizer
        value = loss(x, x, index)
        torch.testing.assert_close(value.detach(), at_minimum(x, x, index))
        assert log_tau.item() == pytest.approx(math.log(0.05))
    step(-x, 0.01)
    assert log_tau > math.log(0.05) + 1e-3


def test_a_learned_temperature_is_not_written_in_eval():
    learned = LearnedTemperature(0.1).eval()
    with torch.no_grad():
        learned.log_temperature.fill_(math.log(0.001))
    assert learned(torch.arange(3)).item() == pytest.approx(0.001)
    assert learned.log_temperature.item() == pytest.approx(math.log(0.001))
    assert learned.train()(torch.arange(3)).item() == pytest.approx(0.01)


@pytest.mark.parametrize("temperature", [0.1, torch.tensor(0.1), torch.tensor(0.1).double()])
@make_loss
def test_a_number_is_a_constant(kind, temperature):
    loss = make(kind, temperature)
    assert not list(loss.parameters())
    torch.testing.assert_close(
        loss(*features(), torch.arange(5)),
        make(kind, 0.1)(*features(), torch.arange(5)),
        rtol=1e-6,
        atol=0,
    )


@pytest.mark.parametrize(
    "temperature",
    [torch.nn.Parameter(torch.tensor(0.1)), torch.tensor(0.1, requires_grad=True).exp()],
)
@make_loss
def test_the_bare_objective_is_refused(kind, temperature):
    with pytest.raises(ValueError, match="grows for ever"):
        make(kind, temperature)


@pytest.mark.parametrize("rho", [0.0, -0.1, math.nan, math.inf])
@pytest.mark.parametrize("kind", [LearnedTemperature, IndividualTemperature])
def test_rho_is_positive(kind, rho):
    with pytest.raises(ValueError, match="rho must be above 0"):
        kind(rho=rho)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (LearnedTemperature, {"initial": 0.009}),
        (LearnedTemperature, {"initial": 0.1, "minimum": 0.2}),
        (LearnedTemperature, {"minimum": 0.0}),
        (LearnedTemperature, {"minimum": -1.0}),
        (LearnedTemperature, {"initial": math.nan}),
        (LearnedTemperature, {"initial": math.inf}),
        (IndividualTemperature, {"rho": 1.0, "initial": 0.004}),
        (IndividualTemperature, {"rho": 1.0, "initial": 1.1}),
        (IndividualTemperature, {"rho": 1.0, "minimum": 0.0}),
        (IndividualTemperature, {"rho": 1.0, "minimum": 0.3, "maximum": 0.2}),
        (IndividualTemperature, {"rho": 1.0, "initial": math.nan}),
    ],
)
def test_tau_starts_within_its_bounds(kind, settings):
    with pytest.raises(ValueError, match="temperature must be a positive number within its bounds"):
        kind(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": -0.1}, "learning_rate"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"learning_rate": math.inf}, "learning_rate"),
        ({"momentum": -0.1}, "momentum"),
        ({"momentum": 1.0}, "momentum"),
        ({"momentum": math.nan}, "momentum"),
    ],
)
def test_wrong_steps_of_tau(settings, message):
    with pytest.raises(ValueError, match=message):
        IndividualTemperature(rho=1.0, **settings)


@pytest.mark.parametrize("kind", IN_BATCH)
def test_a_temperature_per_sample_needs_their_number(kind):
    with pytest.raises(ValueError, match="num_samples"):
        kind(IndividualTemperature(rho=1.0), scale="temperature")


# One temperature a sample.

NUM_SAMPLES, NUM_CAPTIONS = 8, 15
IDS = {
    # Old and new rows mix, and some occur twice in a batch: one step, along their mean.
    "two views": [([4, 0, 2, 7, 5],), ([4, 0, 4, 7, 0],), ([1, 2, 3, 4, 5],), ([1, 1, 1, 1, 2],)],
    "pairs": [
        ([4, 0, 2, 7, 5], [4, 0, 2, 7, 5]),
        ([4, 0, 4, 7, 0], [4, 0, 4, 7, 0]),
        ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]),
    ],
    "captions": [
        ([4, 0, 2, 7, 5], [9, 1, 5, 14, 11]),
        ([4, 0, 4, 7, 0], [9, 1, 8, 14, 0]),
        ([1, 2, 3, 4, 5], [3, 3, 6, 9, 11]),
        ([4, 0, 2, 7, 5], [9, 1, 5, 14, 11]),
    ],
}
data = pytest.mark.parametrize("what", IDS)


def make_individual(what, temperature=None, **settings):
    if temperature is None:
        temperature = IndividualTemperature(0.25, rho=0.5, minimum=0.125, learning_rate=0.05)
    if what == "two views":
        return make(GlobalContrastiveLoss, temperature, num_samples=NUM_SAMPLES, **settings)
    sizes = (NUM_SAMPLES, NUM_CAPTIONS if what == "captions" else NUM_SAMPLES)
    return make(GlobalClipLoss, temperature, num_samples=sizes, **settings)


def steps_of(what, repeat=1, seed=0):
    """Random features with the ids above."""
    for step, ids in enumerate(IDS[what] * repeat):
        yield features(seed=1000 * seed + step), [torch.tensor(side) for side in ids]


def anchors(pair, ids):
    """((side, row), positive, negatives) of every anchor: similarities, one by one."""
    a, b = ([row / row.square().sum().sqrt() for row in side] for side in pair)
    for side, (own, other) in enumerate([(a, b), (b, a)]):
        for i in range(len(own)):
            negatives = []
            for j in range(len(own)):
                if all(names[j] != names[i] for names in ids):
                    negatives.append((own[i] * other[j]).sum())
                    if len(ids) == 1:
                        negatives.append((own[i] * own[j]).sum())
            key = (side, ids[side][i]) if len(ids) == 2 else (0, ids[0][i])
            yield key, (own[i] * other[i]).sum(), negatives


class IndividualByLoops:
    """u in linear space, tau and its velocity in dictionaries, gamma = max(gamma_min, 1/visits)."""

    def __init__(self, initial, gamma_min, rho, minimum, maximum, learning_rate, momentum):
        self.gamma_min, self.rho, self.bounds = gamma_min, rho, (minimum, maximum)
        self.learning_rate, self.momentum = learning_rate, momentum
        self.u, self.visits = defaultdict(float), defaultdict(int)
        self.tau, self.velocity = defaultdict(lambda: initial), defaultdict(float)

    def update_u(self, estimates):
        for key, values in estimates.items():
            self.visits[key] += 1
            gamma = max(self.gamma_min, 1 / self.visits[key])
            self.u[key] = (1 - gamma) * self.u[key] + gamma * sum(values) / len(values)

    def update_tau(self, slopes):
        for key, values in slopes.items():
            slope = sum(values) / len(values) + self.rho
            velocity = self.momentum * self.velocity[key] + (1 - self.momentum) * slope
            self.velocity[key] = velocity
            tau = self.tau[key] - self.learning_rate * velocity
            self.tau[key] = min(max(tau, self.bounds[0]), self.bounds[1])

    def __call__(self, pair, ids):
        """Value and gradient, both at the tau from before the step."""
        estimates, slopes, terms = defaultdict(list), defaultdict(list), []
        for key, positive, negatives in anchors(pair, ids):
            g = sum((s / self.tau[key]).exp() for s in negatives) / max(len(negatives), 1)
            if negatives:
                estimates[key].append(g.item())
            terms.append((key, positive, negatives, g))
        self.update_u(estimates)
        value = surrogate = 0.0
        for key, positive, negatives, g in terms:
            tau, u = self.tau[key], self.u[key]
            value += -positive + (self.rho * tau if negatives else 0)
            surrogate += -positive
            if not negatives:
                continue
            value += tau * math.log(u)
            surrogate += tau * g / u
            # log u + tau/u dg/dtau, the latter written out
            mean = sum(s * (s / tau).exp() for s in negatives).item() / len(negatives)
            slopes[key].append(math.log(u) - mean / (tau * u))
        self.update_tau(slopes)
        gradient = torch.autograd.grad(surrogate / len(terms), pair)
        return (value / len(terms)).detach(), gradient


@data
def test_individual_temperatures_are_their_loop(what):
    settings = {"rho": 0.8, "minimum": 0.125, "maximum": 0.5, "learning_rate": 0.3, "momentum": 0.6}
    loss = make_individual(what, IndividualTemperature(0.25, **settings), gamma_min=0.3)
    by_loops = IndividualByLoops(0.25, 0.3, **settings)
    steps = list(steps_of(what, repeat=3))
    if what == "captions":  # the first of image 4 has a negative, the second has none
        steps.append((features(3, seed=99), [torch.tensor([4, 4, 1]), torch.tensor([9, 8, 8])]))
    for pair, ids in steps:
        value = loss(*pair, **named_ids(*ids))
        gradient = torch.autograd.grad(value, pair)
        expected, expected_gradient = by_loops(pair, [names.tolist() for names in ids])
        torch.testing.assert_close(value.detach(), expected)
        torch.testing.assert_close(gradient, expected_gradient)
    own = modules(loss, IndividualTemperature)
    for number, side in enumerate(own):
        expected = [by_loops.tau[number, row] for row in range(len(side.tau) - 1)]
        assert side.tau[:-1].tolist() == pytest.approx(expected)
        expected = [by_loops.velocity[number, row] for row in range(len(side.tau) - 1)]
        assert side.velocity[:-1].tolist() == pytest.approx(expected)
    # Else the clipping was not tried, or nothing but it.
    taus = set(by_loops.tau.values())
    assert {0.125, 0.5} < taus
    assert len(taus) > 5


@pytest.mark.parametrize("effective_negatives", [None, 3])
@pytest.mark.parametrize("gamma_min", [1.0, 0.3])
@pytest.mark.parametrize("what", ["views", "pairs"])
def test_slope_of_an_anchor_is_that_of_autograd(what, gamma_min, effective_negatives):
    # A normalizer and a tau for every anchor, and a velocity without momentum: the slope.
    n, rho = 5, 0.4
    temperature = IndividualTemperature(0.25, rho=rho, momentum=0.0, learning_rate=1e-30)
    settings = {"num_samples": n, "gamma_min": gamma_min, "gamma_decay_visits": 1}
    settings["effective_negatives"] = effective_negatives
    a, b = (side.detach() for side in features(n))
    x = torch.stack([a, b], dim=1)
    if what == "views":
        loss = make(GlobalContrastiveLoss, temperature, num_stored_views=2, **settings)
    else:
        loss = make(GlobalClipLoss, temperature, **settings)
    own, tables = (modules(loss, kind) for kind in (IndividualTemperature, NormalizerTable))
    for seed, side in enumerate(own):
        side.tau[:n] += 0.1 * randn(n, seed=seed).tanh()
    for seed, table in enumerate(tables):
        fill(table, randn(table.num_rows, seed=seed))
    old = [table.log_u[:-1].exp() for table in tables]
    views = ((torch.zeros(n, dtype=torch.int64), torch.ones(n, dtype=torch.int64)),)
    loss(a, b, **named_ids(torch.arange(n), *(views if what == "views" else ())))

    taus = [side.tau[:n].clone().requires_grad_() for side in own]
    if what == "views":
        log_g = [log_two_view_normalizers(x, taus[0].repeat_interleave(2)[:, None])]
    else:
        log_g = [
            log_two_way_normalizers(a, b, taus[0][:, None])[0],
            log_two_way_normalizers(a, b, taus[1][None, :])[1],
        ]
    for side, tau, log_g_of_side, old_u in zip(own, taus, log_g, old, strict=True):
        g = log_g_of_side.view(n, -1)  # (n, views)
        if gamma_min == 1:
            terms = tau[:, None] * g
        else:
            u = 0.7 * old_u.view(n, -1) + 0.3 * g.detach().exp()
            terms = tau[:, None] * u.log() + tau.detach()[:, None] * g.exp() / u
            terms = terms - tau.detach()[:, None] * (g.exp() / u).detach()
        if effective_negatives is not None:
            positive = torch.cosine_similarity(a, b)[:, None]
            terms = against_effective_negatives(terms - positive, tau[:, None], effective_negatives)
        [slope] = torch.autograd.grad(terms.mean(dim=1).sum(), tau, retain_graph=True)
        torch.testing.assert_close(side.velocity[:n] - rho, slope, **EXACT)


@pytest.mark.parametrize("mode", ["eval", "no_grad", "inference"])
@data
def test_looking_up_moves_no_temperature(what, mode):
    loss = make_individual(what)
    for pair, ids in steps_of(what):
        loss(*pair, **named_ids(*ids))
    before = state_of(loss)
    context = {"eval": torch.enable_grad, "no_grad": torch.no_grad}.get(mode, torch.inference_mode)
    loss.train(mode != "eval")
    for pair, ids in steps_of(what, seed=1):
        with context():
            value = loss(*pair, **named_ids(*ids))
        # What is used is what is stored.
        positive = torch.cosine_similarity(*pair).mean()
        terms = []
        for side, table, rows in zip(
            modules(loss, IndividualTemperature), modules(loss, NormalizerTable), ids, strict=True
        ):
            tau = side.tau[rows]
            terms.append((tau * (table.log_u[rows] + side.rho)).mean())
        torch.testing.assert_close(value, sum(terms) / len(terms) - positive)
    after = loss.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]), name


def test_nothing_is_to_be_optimized_from_outside():
    for what in IDS:
        loss = make_individual(what)
        assert not list(loss.parameters())
        assert sum(name.endswith("tau") for name in loss.state_dict()) == len(IDS[what][0])


def test_losses_do_not_share_the_temperatures_of_samples():
    temperature = IndividualTemperature(0.25, rho=0.5)
    one, other = make_individual("pairs", temperature), make_individual("pairs", temperature)
    before = state_of(other)
    for pair, ids in steps_of("pairs"):
        one(*pair, **named_ids(*ids))
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not torch.equal(one.temperature_a.tau, one.temperature_b.tau)


@pytest.mark.parametrize(
    ("what", "ids"),
    [
        ("two views", ([4],)),
        ("two views", ([4, 4, 4],)),
        ("pairs", ([4], [4])),
        ("captions", ([4, 4, 4], [9, 8, 9])),
        ("captions", ([4, 2, 0], [9, 9, 9])),
        ("captions", ([4, 2, 0], [9, 5, 1], [3, 3, 3])),
    ],
)
def test_without_negatives_no_temperature_moves(what, ids):
    loss = make_individual(what)
    for pair, names in steps_of(what):
        loss(*pair, **named_ids(*names))
    before = state_of(loss)
    pair = features(len(ids[0]), seed=9)
    value = loss(*pair, **named_ids(*map(torch.tensor, ids)))
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, pair))
    for name, tensor in loss.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_moves_no_temperature(bad):
    own = IndividualTemperature(0.25, rho=0.5, momentum=0.5, learning_rate=0.1).for_rows(4)
    own.learn(torch.tensor([0, 1, 3]), torch.tensor([-0.7, -0.1, 0.3]))
    tau, velocity = own.tau.clone(), own.velocity.clone()
    own.learn(torch.tensor([2, 0, 1, 2]), torch.tensor([-0.2, bad, -0.4, -0.6]))
    for row in (0, 3):
        assert own.tau[row] == tau[row]
        assert own.velocity[row] == velocity[row]
    # Its neighbours in the batch are not held back.
    for row, slope in ((1, 0.1), (2, 0.1)):
        moved = 0.5 * velocity[row].item() + 0.5 * slope
        assert own.velocity[row].item() == pytest.approx(moved)
        assert own.tau[row].item() == pytest.approx(tau[row].item() - 0.1 * moved)


@data
def test_features_that_are_not_finite_move_no_temperature(what):
    loss = make_individual(what)
    before = state_of(loss)
    [(pair, ids), *_] = steps_of(what)
    loss(pair[0] * math.nan, pair[1], **named_ids(*ids))
    for name, tensor in loss.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@data
def test_temperatures_are_saved(what):
    def run(loss, seed):
        gradients = []
        for pair, ids in steps_of(what, repeat=3, seed=seed):
            gradients.append(torch.stack(torch.autograd.grad(loss(*pair, **named_ids(*ids)), pair)))
        return gradients

    loss, resumed, forgetful = make_individual(what), make_individual(what), make_individual(what)
    run(loss, seed=1)
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    resumed.load_state_dict(state)
    forgotten = {name: x for name, x in state.items() if not name.endswith(("tau", "velocity"))}
    forgetful.load_state_dict(forgotten, strict=False)
    uninterrupted = run(loss, seed=2)
    for one, other in zip(run(resumed, seed=2), uninterrupted, strict=True):
        assert torch.equal(one, other)
    assert relative_error(run(forgetful, seed=2)[0], uninterrupted[0]) > 0.01


@data
def test_order_of_the_batch_does_not_matter(what):
    one, other = make_individual(what), make_individual(what)
    order = torch.tensor([3, 0, 4, 1, 2])
    for pair, ids in steps_of(what, repeat=2):
        one(*pair, **named_ids(*ids))
        other(*(side[order] for side in pair), **named_ids(*(names[order] for names in ids)))
    states = dict(one.state_dict()), dict(other.state_dict())
    assert any((tensor[:-1] != 0.25).any() for name, tensor in states[0].items() if "tau" in name)
    torch.testing.assert_close(*states)


def similarities(what, a, b):
    """For every row, with all negatives of all its anchors."""
    a, b = normalize(a, dim=1).detach(), normalize(b, dim=1).detach()
    n = len(a)
    if what == "pairs":
        sides = (a, b), (b, a)
        return [own[i] @ other[negatives_of(i, n)].T for own, other in sides for i in range(n)]
    x = torch.stack([a, b], dim=1)  # (n, 2, d)
    return [(x[i] @ x[negatives_of(i, n)].flatten(0, 1).T).flatten() for i in range(n)]


@pytest.mark.parametrize("what", ["two views", "pairs"])
def test_a_temperature_settles_where_the_softmax_is_rho_from_uniform(what):
    rho, (minimum, maximum) = 0.4, (0.28, 0.45)
    settings = {"minimum": minimum, "maximum": maximum, "learning_rate": 0.04, "momentum": 0.5}
    loss = make_individual(what, IndividualTemperature(0.3, rho=rho, **settings), gamma_min=1.0)
    a, b = features(NUM_SAMPLES, seed=3)
    for _ in range(400):
        loss(a, b, torch.arange(NUM_SAMPLES))
    taus = torch.cat([side.tau[:-1] for side in modules(loss, IndividualTemperature)])
    within = (taus > minimum) & (taus < maximum)
    for tau, inside, s in zip(taus, within, similarities(what, a, b), strict=True):
        kl = kl_from_uniform(s / tau).item()
        if inside:
            assert kl == pytest.approx(rho, rel=1e-6)
        else:  # it would go on
            assert (kl < rho) == (tau == minimum)
    assert within.sum() >= 5
    assert minimum in taus
    assert maximum in taus


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@make_global
def test_temperatures_of_samples_in_low_precision(kind, dtype):
    # At 0.005 s/tau is known to about 2e-5, and a slope is of the size of 1/tau.
    temperature = IndividualTemperature(0.005, rho=1.0)
    loss, exact = kind(8, temperature=temperature, scale="temperature"), make(kind, temperature)
    for step, index in enumerate([[4, 0, 2, 7, 5], [4, 0, 4, 7, 0]] * 3):
        pair = [side.detach().to(dtype).requires_grad_() for side in features(seed=step)]
        value = loss(*pair, torch.tensor(index))
        assert value.isfinite()
        assert torch.cat(torch.autograd.grad(value, pair)).isfinite().all()
        exact(*(side.double() for side in pair), torch.tensor(index))
        for one, other in zip(
            modules(loss, IndividualTemperature), modules(exact, IndividualTemperature), strict=True
        ):
            assert one.tau.dtype == one.velocity.dtype == torch.float32
            assert (one.velocity - other.velocity).abs().max() < 3e-4 * other.velocity.abs().max()
            torch.testing.assert_close(one.tau.double(), other.tau, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "cast",
    [
        lambda module: module.half(),
        lambda module: module.bfloat16(),
        lambda module: module.to(torch.float16),
        lambda module: module.to("cpu", torch.bfloat16),
    ],
)
def test_casts_do_not_round_the_temperatures_of_samples(cast):
    # As little as the normalizers: a step of tau is below the rounding of bfloat16.
    loss = GlobalClipLoss(8, temperature=IndividualTemperature(rho=0.5), scale="temperature")
    for pair, ids in steps_of("pairs"):
        loss(*pair, **named_ids(*ids))
    before = state_of(loss)
    for name, tensor in cast(torch.nn.Sequential(loss))[0].state_dict().items():
        assert tensor.dtype == before[name].dtype, name
        assert torch.equal(tensor, before[name]), name


def test_invalid_ids_on_an_accelerator_move_no_temperature(monkeypatch):
    # A compiling CPU takes the path of ids that are on a device already.
    monkeypatch.setattr("sogclr.losses.torch_versions.is_compiling", lambda: True)
    loss = make_individual("captions")
    pair = features(3)
    loss(*pair, torch.tensor([3, 0, -1]), index_b=torch.tensor([4, NUM_CAPTIONS, 8]))
    moved = [
        (side.velocity[:-1] != 0).nonzero().flatten().tolist()
        for side in modules(loss, IndividualTemperature)
    ]
    assert moved == [[0, 3], [4, 8]]
    with pytest.raises(IndexError, match="1 sample ids"):
        loss.raise_for_invalid_ids()
