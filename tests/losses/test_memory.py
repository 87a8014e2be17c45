"""Rows of earlier batches beside those of this one: the same average gradient, less noise."""

import copy
import itertools

import pytest
import torch
from helpers.dense_losses import dense
from torch.nn.functional import normalize

from sogclr import GlobalClipLoss, GlobalContrastiveLoss
from sogclr.losses.memory import FeatureMemory
from sogclr.losses.objective import (
    log_two_view_normalizers,
    log_two_way_normalizers,
    two_view_objective,
    two_way_objective,
)

N, B, WIDTH, TAU = 30, 4, 5, 0.3
EXACT = {"rtol": 1e-9, "atol": 1e-11}
kinds = pytest.mark.parametrize("kind", [GlobalContrastiveLoss, GlobalClipLoss])


def make(kind, **settings):
    settings = {
        "scale": "temperature",
        "temperature": TAU,
        "dtype": torch.float64,
        "memory_size": 6,
        **settings,
    }
    return kind(N, **settings)


def features(size=B, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pair = torch.randn(2, size, WIDTH, generator=generator, dtype=torch.float64)
    pair[1] += pair[0]
    return [side.clone().requires_grad_() for side in pair]


def stepped(loss, *batches):
    """After these batches of ids; features differ from batch to batch."""
    for seed, ids in enumerate(batches):
        loss(*features(len(ids), seed + 10), torch.tensor(ids))
    return loss


def gradients(value, pair):
    return torch.autograd.grad(value, pair, retain_graph=True)


@kinds
@pytest.mark.parametrize("effective_negatives", [None, 5.0])
@pytest.mark.parametrize("tau", [0.3, 0.01])
def test_it_is_the_dense_loss_of_all_rows_of_which_some_stand_still(kind, tau, effective_negatives):
    loss = make(kind, temperature=tau, effective_negatives=effective_negatives)
    stepped(loss, [1, 2, 3], [4, 1, 6, 7])
    before, pair = copy.deepcopy(loss), features()
    index = torch.tensor([2, 8, 4, 9])  # 2 and 4 are among the earlier ones
    value = loss(*pair, index)

    ids = torch.cat([index, before.memory.ids[0]])
    assert ids[B:].tolist() == [4, 1, 6, 7, 1, 2]
    a, b = (
        torch.cat([normalize(side, dim=1), kept])
        for side, kept in zip(pair, before.memory.vectors, strict=True)
    )
    same, size = ids[:, None] == ids[None, :], len(ids)
    if kind is GlobalClipLoss:
        place = torch.arange(size)
        sides = [(a @ b.T, same, place), (b @ a.T, same, place)]
        anchors = ids[None].expand(2, -1)
    else:
        z = torch.cat([a, b])
        sides = [(z @ z.T, same.repeat(2, 2), torch.arange(2 * size).roll(size))]
        anchors = ids.repeat(2)[None]
    total = values = 0
    live = (torch.arange(size) < B).repeat(len(anchors[0]) // size)
    for (similarity, absent, positive), rows, (table, _) in zip(
        sides, anchors, loss.sides(), strict=True
    ):
        column = torch.full((len(similarity), 1), tau, dtype=torch.float64)
        # What each is in the table after this step; of an earlier one, what it would be.
        masked = (similarity / tau).masked_fill(absent, -torch.inf).detach()
        log_g = masked.logsumexp(dim=1) - (~absent).sum(dim=1).double().log()
        log_u = table.log_u[rows].clone()
        log_u[~live] = table.peek(rows[~live], log_g[~live])
        terms, _, _ = dense(kind, similarity, absent, positive, log_u, column, effective_negatives)
        # Of earlier rows the positive moves nothing; as anchors they count as those of the batch.
        total = total + terms.sum() / live.sum() / len(sides)
        values = values + terms[live].mean() / len(sides)
    torch.testing.assert_close(value, values, **EXACT)
    torch.testing.assert_close(gradients(value, pair), gradients(total, pair), **EXACT)


@pytest.mark.parametrize("kind", ["two views", "pairs"])
def test_exact_normalizers_make_the_gradient_unbiased(kind):
    """Over all batches of 2 with 2 earlier ones, all of the same frozen features."""
    n, settings = 5, {"temperature": TAU, "scale": "temperature", "memory_size": 2}
    settings |= {"gamma_min": 1e-15, "gamma_decay_visits": 1}
    x = torch.stack(features(n, seed=3), dim=1).detach().requires_grad_()  # (n, 2, d)
    if kind == "pairs":
        loss = GlobalClipLoss(n, dtype=torch.float64, **settings)
        exact = two_way_objective(x[:, 0], x[:, 1], TAU)
        log_g = log_two_way_normalizers(x[:, 0], x[:, 1], TAU)
    else:
        # One number a view, since each draw of a view would have to be enumerated for one a sample.
        loss = GlobalContrastiveLoss(n, num_stored_views=2, dtype=torch.float64, **settings)
        exact = two_view_objective(x, TAU, "v1")
        log_g = [log_two_view_normalizers(x, TAU).flatten()]
    for (table, _), known in zip(loss.sides(), log_g, strict=True):
        table.log_u[:-1], table.visits[:] = known.detach(), 5

    total, draws = torch.zeros_like(x), list(itertools.permutations(range(n), 4))
    for *now, third, fourth in draws:
        rows, earlier = torch.tensor(now), torch.tensor([third, fourth])
        more = {}
        if kind == "two views":
            more = {"views": (torch.zeros_like(rows), torch.ones_like(rows))}
        kept = normalize(x.detach(), dim=2).unbind(1)
        places = earlier if kind == "pairs" else 2 * earlier
        ids = [places, earlier if kind == "pairs" else places + 1, earlier]
        loss.memory.store(torch.stack([side[earlier] for side in kept]), torch.stack(ids))
        value = loss(x[rows, 0], x[rows, 1], rows, **more)
        total += torch.autograd.grad(value, x)[0] / len(draws)
    torch.testing.assert_close(total, torch.autograd.grad(exact, x)[0], **EXACT)


@kinds
def test_the_first_batch_has_nothing_before_it(kind):
    pair, index = features(), torch.arange(B)
    with_it, without = make(kind), make(kind, memory_size=None)
    values = [loss(*pair, index) for loss in (with_it, without)]
    torch.testing.assert_close(*values, **EXACT)
    torch.testing.assert_close(*(gradients(value, pair) for value in values), **EXACT)


@kinds
def test_the_same_sample_is_no_negative(kind):
    loss, index = stepped(make(kind), [3, 3, 3, 3, 3, 3]), torch.tensor([3, 3, 3, 3])
    pair = features()
    value = loss(*pair, index)
    expected = -torch.cosine_similarity(*pair).mean()
    torch.testing.assert_close(gradients(value, pair), gradients(expected, pair), **EXACT)


@kinds
def test_only_training_puts_rows_in_and_looks_at_them(kind):
    loss = stepped(make(kind), [1, 2, 3])
    kept, pair, index = copy.deepcopy(loss.state_dict()), features(), torch.arange(5, 5 + B)
    without = make(kind, memory_size=None)
    without.load_state_dict({k: v for k, v in kept.items() if "memory" not in k})
    with torch.no_grad():
        torch.testing.assert_close(loss(*pair, index), without(*pair, index))
    torch.testing.assert_close(loss.eval()(*pair, index), without.eval()(*pair, index))
    torch.testing.assert_close(loss.state_dict(), kept)


@kinds
def test_it_is_saved(kind):
    loss, other = stepped(make(kind), [1, 2, 3], [4, 5]), make(kind)
    other.load_state_dict(loss.state_dict())
    for ids in ([7, 8, 9], [1, 7, 3]):
        assert torch.equal(*(each(*features(3), torch.tensor(ids)) for each in (loss, other)))
    assert all(torch.equal(v, loss.state_dict()[k]) for k, v in other.state_dict().items())


@kinds
def test_earlier_rows_have_had_their_visit(kind):
    loss = stepped(make(kind), [1, 2], [3, 4], [5, 1])
    for table, _ in loss.sides():
        assert table.visits[:7].tolist() == [0, 2, 1, 1, 1, 1, 0]


def test_the_latest_come_first_and_the_oldest_go():
    memory = FeatureMemory(3, torch.float64)
    for first in (0, 2, 4):
        ids = torch.tensor([[first, first + 1]])
        memory.append_to(torch.ones(2, 2, WIDTH), ids)
        memory.store(torch.full((2, 2, WIDTH), float(first)), ids)
    assert memory.ids.tolist() == [[4, 5, 2]]
    assert memory.vectors[0, :, 0].tolist() == [4, 4, 2]
    assert memory.filled.all()
    memory.store(torch.ones(2, 5, WIDTH), torch.arange(5)[None])
    assert memory.ids.tolist() == [[0, 1, 2]]
    memory.clear()
    assert not memory.filled.any()


@kinds
def test_what_is_not_finite_is_not_kept(kind):
    loss, pair = make(kind), features()
    with torch.no_grad():
        pair[1][2] = torch.nan
    loss(*pair, torch.arange(B))
    assert loss.memory.filled.tolist() == [True, True, False, True, False, False]
    pair = features()
    assert all(g.isfinite().all() for g in gradients(loss(*pair, torch.arange(8, 8 + B)), pair))


@kinds
def test_casting_leaves_it(kind):
    assert stepped(make(kind), [1, 2]).bfloat16().memory.vectors.dtype == torch.float64


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        GlobalContrastiveLoss(9, memory_size=0, scale="temperature")
    loss = GlobalClipLoss(9, memory_size=3, scale="temperature")
    loss(*torch.randn(2, 2, 5, requires_grad=True), torch.arange(2))
    with pytest.raises(ValueError, match="width 5, features of this batch have 6"):
        loss(*torch.randn(2, 2, 6, requires_grad=True), torch.arange(2))
