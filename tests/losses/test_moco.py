"""MoCo's loss against explicit loops over a list of keys, in float64."""

import contextlib
import copy

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from sogclr import LearnedTemperature, MoCoLoss, NTXentLoss
from sogclr.losses.moco import KeyQueue

WIDTH, TAU = 6, 0.2

# Ids of batches in a row: apart, a sample twice in a batch, and samples whose keys are still there.
BATCHES = [[4, 0, 2], [7, 7, 5, 1], [4, 9], [9, 4, 9, 2, 0], [3], [2, 3, 1], [8, 8]]


def make(size=10, dtype=torch.float64, **settings):
    return MoCoLoss(
        size, WIDTH, dtype=dtype, **{"temperature": TAU, "scale": "temperature", **settings}
    )


def features(size, seed=0, dtype=torch.float64):
    """Queries of both views, then keys of both views, which resemble their queries."""
    g = torch.Generator().manual_seed(seed)
    queries = torch.randn(2, size, WIDTH, generator=g, dtype=torch.float64)
    keys = queries.flip(0) + torch.randn(2, size, WIDTH, generator=g, dtype=torch.float64)
    return [side.to(dtype).requires_grad_() for side in (*queries, *keys.flip(0))]


class ByLoops:
    """A list of (id, key), the oldest first; terms as published, one query at a time."""

    def __init__(self, size, published=False):
        self.size, self.published, self.queue = size, published, []

    def __call__(self, query1, query2, key1, key2, index):
        on_sphere = lambda side: [row / row.square().sum().sqrt() for row in side]  # noqa: E731
        query1, query2 = on_sphere(query1), on_sphere(query2)
        key1, key2 = on_sphere(key1.detach()), on_sphere(key2.detach())
        terms = []
        for queries, keys in ((query1, key2), (query2, key1)):
            for sample, query, key in zip(index, queries, keys, strict=True):
                positive = (query * key).sum()
                others = [(query * other).sum() for id, other in self.queue if id != sample]
                total = sum((s / TAU).exp() for s in [positive, *others])
                if self.published:
                    terms.append(-((positive / TAU).exp() / total).log())
                else:
                    terms.append(-positive + TAU * (total / (1 + len(others))).log())
        both = [*zip(index, key1, strict=True), *zip(index, key2, strict=True)]
        self.queue = [*self.queue, *both][-self.size :]
        return sum(terms) / len(terms)


def contents(queue):
    """What a queue holds, the oldest first."""
    order = (int(queue.position) + torch.arange(queue.size)) % queue.size
    return [(int(queue.ids[i]), queue.keys[i]) for i in order if queue.filled[i]]


def assert_same_queue(queue, expected):
    actual = contents(queue)
    assert [id for id, _ in actual] == [id for id, _ in expected]
    for (_, key), (_, other) in zip(actual, expected, strict=True):
        torch.testing.assert_close(key, other)


@pytest.mark.parametrize("scale", ["temperature", "cross-entropy"])
@pytest.mark.parametrize("size", [1, 3, 7, 8, 100])
def test_loss_is_its_loop_and_the_queue_a_ring(size, scale):
    # Sizes that batches divide and do not, that batches exceed, and that are never reached.
    loss, by_loops = make(size, scale=scale), ByLoops(size, published=scale == "cross-entropy")
    for step, index in enumerate(BATCHES):
        sides = features(len(index), seed=step)
        value, expected = loss(*sides, torch.tensor(index)), by_loops(*sides, index)
        torch.testing.assert_close(value, expected)
        if expected.requires_grad:
            torch.testing.assert_close(
                torch.autograd.grad(value, sides[:2]), torch.autograd.grad(expected, sides[:2])
            )
        assert_same_queue(loss.queue, by_loops.queue)


def test_as_published():
    """The pseudo-code of the paper, for each view, once the queue is full."""
    loss = make(12, scale="cross-entropy")
    loss(*features(6, seed=1), torch.arange(6))
    queue = loss.queue.keys.clone()
    query1, query2, key1, key2 = (normalize(side, dim=1) for side in features(4))
    halves = []
    for q, k in ((query1, key2), (query2, key1)):
        positive = torch.einsum("nc,nc->n", q, k)[:, None]
        logits = torch.cat([positive, torch.einsum("nc,kc->nk", q, queue)], dim=1)
        halves.append(cross_entropy(logits / TAU, torch.zeros(4, dtype=torch.int64)))
    value = loss(*features(4), torch.arange(6, 10))
    torch.testing.assert_close(value, (halves[0] + halves[1]) / 2)


@pytest.mark.parametrize("scale", ["temperature", "cross-entropy"])
@pytest.mark.parametrize("index", [[4, 0, 2, 7, 5], [4, 0, 4, 7, 0]], ids=["distinct", "twice"])
def test_with_the_batch_in_the_queue_it_is_ntxent(index, scale):
    index, loss = torch.tensor(index), make(scale=scale)
    view1, view2, *_ = features(5)
    loss(view1, view2, view1, view2, index)
    value = loss(view1, view2, view1, view2, index)
    torch.testing.assert_close(value, NTXentLoss(TAU, scale=scale)(view1, view2, index))


def test_an_empty_queue_gives_nothing_to_learn():
    loss, sides = make(), features(5)
    value = loss(*sides, torch.arange(5))
    torch.testing.assert_close(value, torch.zeros_like(value))
    gradient = torch.autograd.grad(value, sides[:2])
    torch.testing.assert_close(gradient, tuple(torch.zeros_like(g) for g in gradient))


def test_no_gradient_reaches_keys():
    loss = make()
    for step in range(2):
        sides = features(5, seed=step)
        loss(*sides, torch.arange(5) + 5 * step).backward()
    assert all(side.grad.norm() > 0.01 for side in sides[:2])
    assert [side.grad for side in sides[2:]] == [None, None]
    assert not loss.queue.keys.requires_grad


def test_halves_of_a_batch_give_its_gradient():
    """The normalizer is the queue's, so micro-batches add up to the batch; NT-Xent's do not."""
    first = make(100)
    first(*features(9, seed=1), torch.arange(10, 19))
    sides, index = features(6), torch.arange(6)
    whole = torch.autograd.grad(copy.deepcopy(first)(*sides, index), sides[:2])
    parts = [
        copy.deepcopy(first)(*(side[half] for side in sides), index[half])
        for half in (slice(0, 3), slice(3, 6))
    ]
    halves = torch.autograd.grad((parts[0] + parts[1]) / 2, sides[:2])
    torch.testing.assert_close(whole, halves)


def test_eval_and_no_grad_leave_no_trace():
    loss = make()
    loss(*features(3, seed=1), torch.arange(3))
    before = copy.deepcopy(loss.state_dict())
    with torch.no_grad():
        loss(*features(4), torch.arange(4))
    loss.eval()
    value = loss(*features(4), torch.arange(4))
    assert all(torch.equal(v, before[k]) for k, v in loss.state_dict().items())
    torch.testing.assert_close(loss.train()(*features(4), torch.arange(4)), value)
    assert not torch.equal(loss.queue.keys, before["queue.keys"])


def test_the_queue_is_saved():
    loss, other = make(), make()
    loss(*features(3, seed=1), torch.arange(3))
    other.load_state_dict(loss.state_dict())
    for step in (2, 3):
        values = [each(*features(4, seed=step), torch.arange(4)) for each in (loss, other)]
        assert torch.equal(*values)
    assert all(torch.equal(v, loss.state_dict()[k]) for k, v in other.state_dict().items())


def test_keys_that_are_not_finite_are_not_kept():
    loss, sides = make(), features(4, seed=1)
    with torch.no_grad():
        sides[2][1] = torch.nan
        sides[3][2, 0] = torch.inf
    loss(*sides, torch.arange(4))
    assert [id for id, _ in contents(loss.queue)] == [0, 2, 3, 0, 1, 3]
    sides = features(4)
    loss(*sides, torch.arange(4, 8)).backward()
    assert all(side.grad.isfinite().all() for side in sides[:2])


def test_a_step_reads_nothing_back(monkeypatch):
    """On the meta device there is nothing to read: a step that waited for a value would raise."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    loss = make(dtype=torch.float32).to("meta")
    sides = torch.ones(4, 8, WIDTH, device="meta").unbind()
    queries = [query.clone().requires_grad_() for query in sides[:2]]
    loss(*queries, *sides[2:], torch.arange(8, device="meta")).backward()
    assert all(query.grad.shape == query.shape for query in queries)


def test_the_queue_stays_where_it_is():
    loss, places = make(), []
    for step in range(3):
        loss(*features(4, seed=step), torch.arange(4)).backward()
        places.append({name: each.data_ptr() for name, each in loss.state_dict().items()})
    assert places[0] == places[2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_features_are_computed_in_float32(dtype):
    loss, exact = make(dtype=torch.float32), make()
    for step in range(2):
        index, sides = torch.arange(5) + 3 * step, features(5, seed=step, dtype=dtype)
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(*sides, index)
        expected = exact(*(side.double() for side in sides), index)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    assert loss.bfloat16().queue.keys.dtype == torch.float32


def test_a_learned_temperature_gets_the_gradient_of_the_cross_entropy():
    learned = LearnedTemperature(TAU)
    loss = make(temperature=learned, scale="cross-entropy").double()
    loss(*features(5, seed=1), torch.arange(5))
    before, sides = copy.deepcopy(loss.queue), features(3)
    loss(*sides, torch.arange(5, 8)).backward()
    log_tau = torch.tensor(TAU, dtype=torch.float64).log().requires_grad_()
    query, key = (normalize(torch.cat(half), dim=1) for half in (sides[:2], sides[3:1:-1]))
    logits = torch.cat([(query * key).sum(1, keepdim=True), query @ before.keys.T], dim=1)
    cross_entropy(logits / log_tau.exp(), torch.zeros(6, dtype=torch.int64)).backward()
    torch.testing.assert_close(learned.log_temperature.grad, log_tau.grad)


def test_ids_are_any_integers():
    loss, ids = make(), torch.tensor([-(2**63), -1, 0, 2**63 - 1])
    loss(*features(4, seed=1), ids)
    sides = features(4)
    value = copy.deepcopy(loss)(*sides, ids)
    assert value < copy.deepcopy(loss)(*sides, torch.arange(1, 5))  # fewer negatives: no own keys
    assert {id for id, _ in contents(loss.queue)} == set(ids.tolist())


@pytest.mark.parametrize(
    "shapes",
    [
        [(4, 6), (4, 6), (4, 6), (3, 6), (4,)],
        [(4, 6), (4, 6), (4, 6), (4, 6), (3,)],
        [(4, 6), (3, 6), (4, 6), (4, 6), (4,)],
    ],
)
def test_shapes_match(shapes):
    *sides, index = (torch.ones(shape) for shape in shapes)
    with pytest.raises(ValueError, match="expected features"):
        make()(*sides, index.long())


@pytest.mark.parametrize("widths", [(5, 5), (6, 5), (5, 6)])
def test_the_width_is_the_queue_s(widths):
    query, key = (torch.ones(4, width) for width in widths)
    with pytest.raises(ValueError, match=f"width 6, got queries of {widths[0]} and keys of"):
        make()(query, query, key, key, torch.arange(4))


@pytest.mark.parametrize("bad", [{"size": 0, "width": 3}, {"size": 3, "width": 0}])
def test_an_impossible_queue_is_refused(bad):
    with pytest.raises(ValueError, match="at least one key"):
        KeyQueue(**bad)
