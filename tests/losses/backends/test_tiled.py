"""Losses by tiles against a dense one with autograd, in float64, however the tiles fall."""

import pytest
import torch
from helpers.dense_losses import dense
from torch.nn.functional import normalize

import sogclr.losses.backends.tiled
from sogclr import (
    ClipLoss,
    DecoupledClipLoss,
    DecoupledContrastiveLoss,
    GlobalClipLoss,
    GlobalContrastiveLoss,
    IndividualTemperature,
    LearnedTemperature,
    MoCoLoss,
    NTXentLoss,
)
from sogclr.losses.backends.tiled import Tiled

GLOBAL = [GlobalContrastiveLoss, GlobalClipLoss]
TWO_WAY = [GlobalClipLoss, ClipLoss, DecoupledClipLoss]
IN_BATCH = [NTXentLoss, DecoupledContrastiveLoss, ClipLoss, DecoupledClipLoss]
N, B = 40, 13
EXACT = {"rtol": 1e-9, "atol": 1e-11}

# Kept whole; kept in tiles; tiles of several rows and columns, the last ones smaller; of an entry.
tiles = pytest.mark.parametrize(
    "entries", [None, "kept", 60, 1], ids=["whole", "kept", "tiles", "entries"]
)
# One exponential for all; a shift for each anchor.
taus = pytest.mark.parametrize("tau", [0.3, 0.02, 0.001])


@pytest.fixture
def cut(entries, monkeypatch):
    if entries == "kept":
        monkeypatch.setattr(sogclr.losses.backends.tiled, "HALVED", 2)
    elif entries is not None:
        monkeypatch.setattr(sogclr.losses.backends.tiled, "KEPT", 0)
        monkeypatch.setattr(sogclr.losses.backends.tiled, "TILE", entries)


def features(size=B, width=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pair = torch.randn(2, size, width, generator=generator, dtype=torch.float64)
    pair[1] += pair[0]
    return [side.clone().requires_grad_() for side in pair]


def dense_loss(loss, pair, index, tables, taus):
    """The loss of a batch, given log u of its samples and tau of its anchors, on both sides."""
    kind, scale = type(loss), loss.scale
    a, b = (normalize(side, dim=1) for side in pair)
    same = index[:, None] == index[None, :]
    size = len(index)
    if kind in TWO_WAY:
        sides = [(a @ b.T, same, torch.arange(size)), (b @ a.T, same.T, torch.arange(size))]
    else:
        z = torch.cat([a, b])
        sides = [(z @ z.T, same.repeat(2, 2), torch.arange(2 * size).roll(size))]
    temperatures = [loss.temperature_a] if kind in TWO_WAY else [loss.temperature]
    total = 0
    for (similarity, absent, positive), log_u, tau in zip(sides, tables, taus, strict=True):
        tau = tau.expand(len(similarity))[:, None]
        terms, present, count = dense(
            kind, similarity, absent, positive, log_u, tau, loss.effective_negatives
        )
        tau = tau.squeeze(1)
        aim = torch.where(
            present, tau.detach() * objective(temperatures[0], terms / tau, tau), terms
        )
        if scale == "cross-entropy":
            aim = aim / tau.detach()
            if loss.sums_negatives:
                aim = aim + torch.where(present, count.clamp(min=1).log(), 0.0)
        total = total + aim.mean() / len(sides)
    return total


def objective(temperature, loss, tau):
    """The objective that tau minimizes, divided by the value of tau; `loss` is F / tau."""
    rho = getattr(temperature, "rho", None)
    return loss if rho is None else (loss + rho) * (tau / tau.detach())


def made(kind, temperature, scale="temperature", **settings):
    if kind in GLOBAL:
        return kind(N, temperature=temperature, scale=scale, dtype=torch.float64, **settings)
    return kind(temperature, scale=scale)


def remembered(loss, index, size):
    """log u that differ from log ĝ, put into the loss's tables; of the batch, on each side."""
    if type(loss) not in GLOBAL:
        return [None] * (2 if type(loss) in TWO_WAY else 1)
    found = []
    for seed, (table, _) in enumerate(loss.sides()):
        generator = torch.Generator().manual_seed(seed + 50)
        table.log_u[:N] = torch.randn(N, generator=generator, dtype=torch.float64) / 3
        table.log_u[:N] += 0.8 / loss.sides()[0][1].minimum
        table.visits.fill_(3)
        found.append(table.log_u[index].repeat(size // len(index)))
    return found


BATCHES = {
    "distinct": torch.arange(3, 3 + B),
    "twice": torch.tensor([1, 2, 3, 1, 5, 6, 7, 1, 8, 9, 6, 10, 11]),
    "one sample alone": torch.full((B,), 4),
}


@tiles
@taus
@pytest.mark.parametrize("ids", BATCHES)
@pytest.mark.parametrize("scale", ["temperature", "cross-entropy"])
@pytest.mark.parametrize("kind", [*GLOBAL, *IN_BATCH])
def test_a_loss_is_the_dense_one(kind, scale, ids, tau, cut):
    index, pair = BATCHES[ids], features()
    loss = made(kind, tau, scale).eval()
    size = B if kind in TWO_WAY else 2 * B
    log_u = remembered(loss, index, size)
    taus = [torch.tensor(tau, dtype=torch.float64)] * len(log_u)
    expected = dense_loss(loss, pair, index, log_u, taus)
    value = loss(*pair, index)
    torch.testing.assert_close(value, expected, **EXACT)
    gradients = torch.autograd.grad(value, pair)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, pair), **EXACT)


@tiles
@pytest.mark.parametrize("scale", ["temperature", "cross-entropy"])
@pytest.mark.parametrize("rho", [None, 2.0], ids=["F/tau", "F + rho tau"])
@pytest.mark.parametrize("start", [0.3, 0.008])
@pytest.mark.parametrize(
    ("kind", "effective_negatives"),
    [(kind, None) for kind in [*GLOBAL, *IN_BATCH]] + [(kind, 7.0) for kind in GLOBAL],
)
def test_so_is_that_of_a_learned_temperature(kind, effective_negatives, start, rho, scale, cut):
    learned = LearnedTemperature(start, rho=rho, minimum=0.005).double()
    settings = {} if effective_negatives is None else {"effective_negatives": effective_negatives}
    loss = made(kind, learned, scale, **settings).eval()
    index, pair = BATCHES["twice"], features()
    log_u = remembered(loss, index, B if kind in TWO_WAY else 2 * B)
    tau = learned.log_temperature.exp()
    inputs = [*pair, learned.log_temperature]
    expected = dense_loss(loss, pair, index, log_u, [tau] * len(log_u))
    value = loss(*pair, index)
    torch.testing.assert_close(value, expected, **EXACT)
    gradients = torch.autograd.grad(value, inputs)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, inputs), **EXACT)


@tiles
@pytest.mark.parametrize("effective_negatives", [None, 7.0])
@pytest.mark.parametrize("scale", ["temperature", "cross-entropy"])
@pytest.mark.parametrize("kind", GLOBAL)
def test_so_is_that_of_individual_temperatures(kind, scale, effective_negatives, cut):
    own = IndividualTemperature(0.2, rho=0.5, momentum=0.0, learning_rate=1e-30)
    loss = made(kind, own, scale, effective_negatives=effective_negatives).double()
    index, pair = BATCHES["distinct"], features()
    temperatures = [temperature for _, temperature in loss.sides()]
    for seed, temperature in enumerate(temperatures):
        noise = torch.randn(N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        temperature.tau = torch.cat([0.2 + 0.1 * noise.tanh(), torch.ones(1)]).double()
        temperature.velocity = temperature.velocity.double()
    loss.eval()
    size = B if kind in TWO_WAY else 2 * B
    log_u = remembered(loss, index, size)
    taus = [t.tau[index].repeat(size // B).clone().requires_grad_() for t in temperatures]
    expected = dense_loss(loss, pair, index, log_u, taus)
    value = loss(*pair, index)
    torch.testing.assert_close(value, expected, **EXACT)
    gradients = torch.autograd.grad(value, pair)
    torch.testing.assert_close(
        gradients, torch.autograd.grad(expected, pair, retain_graph=True), **EXACT
    )


@tiles
@taus
def test_moco_is_the_dense_one(tau, cut):
    loss = MoCoLoss(30, 5, temperature=tau, dtype=torch.float64, scale="temperature")
    with torch.no_grad():
        loss.queue.store(normalize(torch.cat(features(seed=1)), dim=1), torch.arange(2 * B) % 9)
    loss.eval()
    queries, keys, index = features(), features(seed=2), BATCHES["twice"]
    q = normalize(torch.cat(queries), dim=1)
    k = normalize(torch.cat(keys), dim=1).detach().roll(B, dims=0)
    negatives, ids = loss.queue.keys[:26], loss.queue.ids[:26]
    similarity = torch.cat([(q * k).sum(1, keepdim=True), q @ negatives.T], dim=1)
    absent = ids[None, :] == index.repeat(2)[:, None]
    absent = torch.cat([torch.ones(2 * B, 1, dtype=torch.bool), absent], dim=1)
    column = torch.full((2 * B, 1), tau, dtype=torch.float64)
    first = torch.zeros(2 * B, dtype=torch.int64)
    expected = dense(MoCoLoss, similarity, absent, first, None, column, None)[0].mean()
    value = loss(*queries, *keys, index)
    torch.testing.assert_close(value, expected, **EXACT)
    gradients = torch.autograd.grad(value, queries)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, queries), **EXACT)


@pytest.mark.parametrize("tau", [0.05, 0.002])
@pytest.mark.parametrize("kind", [*GLOBAL, *IN_BATCH])
def test_single_precision_is_enough(kind, tau):
    pair = [side.detach().float().requires_grad_() for side in features(300, 32)]
    double = [side.detach().double().requires_grad_() for side in pair]
    gradients = []
    for sides in (pair, double):
        loss = made(kind, tau)
        value = loss(*sides, torch.arange(300) % N)
        gradients.append(torch.stack(torch.autograd.grad(value, sides)).double())
    assert (gradients[0] - gradients[1]).norm() < 1e-5 * gradients[1].norm()


def test_what_does_not_fit_is_formed_twice_and_never_held_at_once(monkeypatch):
    monkeypatch.setattr(sogclr.losses.backends.tiled, "KEPT", 100)
    monkeypatch.setattr(sogclr.losses.backends.tiled, "TILE", 64)
    a = normalize(features(50)[0].detach(), dim=1)
    formed = []

    def absent(rows, columns):
        mask = torch.zeros(50, 50, dtype=torch.bool)[rows, columns]
        formed.append(mask.numel())
        return mask

    for b, entries in ((a, 2500), (None, None)):
        formed.clear()
        tiles = Tiled(a, b, absent, 1, shift=False)
        log_sum = tiles.sums(0.1, means=False).log_sum
        once = sum(formed)
        tiles.gradients(log_sum, torch.ones_like(log_sum))
        assert sum(formed) == 2 * once
        assert max(formed) <= 64
        # Of a symmetric matrix little more than half.
        assert once == entries if entries else 1250 < once < 1400
