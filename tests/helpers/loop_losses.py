"""The losses as explicit loops over anchors and their negatives, in float64."""

import math
from collections import defaultdict

import pytest
import torch

from sogclr import (
    ClipLoss,
    DecoupledClipLoss,
    DecoupledContrastiveLoss,
    GlobalClipLoss,
    GlobalContrastiveLoss,
    NTXentLoss,
    SigLipLoss,
)

GLOBAL = [GlobalContrastiveLoss, GlobalClipLoss]
IN_BATCH = [NTXentLoss, DecoupledContrastiveLoss, ClipLoss, DecoupledClipLoss]
TWO_WAY = {GlobalClipLoss, ClipLoss, DecoupledClipLoss}
POSITIVE_IN_NORMALIZER = {NTXentLoss, ClipLoss}

DISTINCT = [4, 0, 2, 7, 5]
TWICE = [4, 0, 4, 7, 0]
NUM_SAMPLES = 8
NUM_CAPTIONS = 15

# Batches of pairs by who the images are, who the captions are, and what means the same.
PAIRS = {
    "captions": ([4, 0, 2, 7, 5], [9, 1, 5, 14, 11], None),
    "an image twice": ([4, 0, 4, 7, 0], [9, 1, 8, 14, 0], None),
    "a caption twice": ([1, 2, 3, 4, 5], [3, 3, 6, 9, 11], None),
    "a pair twice": ([1, 2, 3, 1, 5], [3, 4, 6, 3, 11], None),
    "groups": ([4, 0, 2, 7, 5], [9, 1, 5, 14, 11], [0, 0, -3, 40, -3]),
    "groups without captions": ([4, 0, 2, 7, 5], None, [0, 0, -3, 40, -3]),
    "all at once": ([4, 0, 4, 7, 5], [9, 1, 8, 1, 11], [6, 3, 1, 6, 0]),
    # The first of image 4 has a negative, the second has none.
    "negatives of one copy": ([4, 4, 1], [9, 8, 8], None),
}

make_loss = pytest.mark.parametrize("kind", [*GLOBAL, *IN_BATCH])
make_any = pytest.mark.parametrize("kind", [*GLOBAL, *IN_BATCH, SigLipLoss])
make_global = pytest.mark.parametrize("kind", GLOBAL)
make_in_batch = pytest.mark.parametrize("kind", IN_BATCH)
make_two_way = pytest.mark.parametrize(
    "kind", [GlobalClipLoss, ClipLoss, DecoupledClipLoss, SigLipLoss]
)
batches = pytest.mark.parametrize("index", [DISTINCT, TWICE], ids=["distinct", "twice"])
pairs = pytest.mark.parametrize("ids", PAIRS.values(), ids=PAIRS)


def make(kind, **settings):
    if kind in GLOBAL:
        settings = {"dtype": torch.float64, **settings}
        return kind(NUM_SAMPLES, **{"scale": "temperature", **settings})
    return kind(**settings) if kind is SigLipLoss else kind(**{"scale": "temperature", **settings})


def features(size=5, width=6, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    pair = torch.randn(2, size, width, generator=generator)
    # Partners resemble each other, as after some training.
    pair[1] += pair[0]
    return [side.to(dtype).requires_grad_() for side in pair]


def tensors(ids):
    return [None if name is None else torch.tensor(name) for name in ids]


def named_ids(index=None, second=None, group=None):
    """Name the ids that follow the features of a batch; `second`: two views or `index_b`."""
    named = {"views" if isinstance(second, tuple) else "index_b": second, "group": group}
    return {"index": index, **{name: x for name, x in named.items() if x is not None}}


def evaluate(loss, pair, *ids, **arguments):
    """The value of the loss and its gradient by both sides, stacked."""
    value = loss(*pair, **named_ids(*ids), **arguments)
    return value.detach(), torch.stack(torch.autograd.grad(value, pair))


def gradient_error(actual, expected, pair):
    """Relative to the gradient and its alignment term together.

    Where a positive dominates the normalizer of NT-Xent or CLIP, their two terms cancel to
    almost nothing, and in any float32 implementation rounding is what is left.
    """
    alignment = torch.autograd.grad(torch.cosine_similarity(*pair).mean(), pair)
    scale = torch.stack(alignment).norm() + expected.norm()
    return ((actual.double() - expected).norm() / scale).item()


def absent(i, j, *ids):
    """Whether two rows share an id on either side, or a group."""
    return any(name is not None and name[i] == name[j] for name in ids)


def anchors(kind, first, second, *ids):
    """(side, position, positive, negatives) of every anchor: similarities, one by one."""
    first, second = (
        [row / row.square().sum().sqrt() for row in side.double()] for side in (first, second)
    )
    for side, (own, other) in enumerate([(first, second), (second, first)]):
        for i in range(len(first)):
            negatives = []
            for j in range(len(first)):
                if not absent(i, j, *ids):
                    negatives.append((own[i] * other[j]).sum())
                    if kind not in TWO_WAY:
                        negatives.append((own[i] * own[j]).sum())
            yield side, i, (own[i] * other[i]).sum(), negatives


def mean_exp(similarities, tau):
    return sum((s / tau).exp() for s in similarities) / len(similarities)


def in_batch_by_loops(kind, pair, tau, *ids):
    terms = []
    for _, _, positive, negatives in anchors(kind, *pair, *ids):
        if kind in POSITIVE_IN_NORMALIZER:
            negatives = [*negatives, positive]
        terms.append(-positive + (tau * mean_exp(negatives, tau).log() if negatives else 0))
    return sum(terms) / len(terms)


def siglip_by_loops(pair, scale, bias, *ids):
    """As published: minus the mean over images of the sum over texts of log sigmoid."""
    a, b = ([row / row.square().sum().sqrt() for row in side] for side in pair)
    total = 0.0
    for i in range(len(a)):
        for j in range(len(b)):
            if i != j and absent(i, j, *ids):
                continue
            z = 1 if i == j else -1
            total += -(1 / (1 + (-z * (scale * (a[i] * b[j]).sum() + bias)).exp())).log()
    return total / len(a)


class GlobalByLoops:
    """u in linear space in a dictionary, gamma = max(gamma_min, 1/visits)."""

    def __init__(self, kind, tau, gamma_min):
        self.kind, self.tau, self.gamma_min = kind, tau, gamma_min
        self.u, self.visits = defaultdict(float), defaultdict(int)

    def key(self, side, i, index, index_b, views):
        if views is not None:
            return index[i], views[side][i]
        if self.kind not in TWO_WAY:
            return index[i]
        return side, (index if side == 0 or index_b is None else index_b)[i]

    def __call__(self, pair, index, index_b=None, group=None, views=None, who=None):
        """Value and gradient: alignment, plus tau (ĝ/u) grad log ĝ = (tau/u) grad ĝ.

        Ids say where u is kept, and who is no negative of whom unless `who` does, a list of ids.
        """
        estimates, terms = defaultdict(list), []
        who = [index, index_b, group] if who is None else who
        for side, i, positive, negatives in anchors(self.kind, *pair, *who):
            key = self.key(side, i, index, index_b, views)
            g = mean_exp(negatives, self.tau) if negatives else None
            if negatives:
                estimates[key].append(g.item())
            terms.append((key, positive, g))
        for key, values in estimates.items():
            self.visits[key] += 1
            gamma = max(self.gamma_min, 1 / self.visits[key])
            self.u[key] = (1 - gamma) * self.u[key] + gamma * sum(values) / len(values)
        value = surrogate = 0.0
        for key, positive, g in terms:
            value += -positive + (0 if g is None else self.tau * math.log(self.u[key]))
            surrogate += -positive + (0 if g is None else self.tau * g / self.u[key])
        value, surrogate = value / len(terms), surrogate / len(terms)
        return value.detach(), torch.stack(torch.autograd.grad(surrogate, pair))

    def assert_same_tables(self, loss):
        two_way = self.kind in TWO_WAY
        tables = [loss.normalizer_a, loss.normalizer_b] if two_way else [loss.normalizer]
        assert sum(int(table.visits.sum()) for table in tables) == sum(self.visits.values())
        for key, visits in self.visits.items():
            side, row = key if two_way else (0, key)
            assert tables[side].visits[row] == visits
            assert tables[side].log_u[row].exp().item() == pytest.approx(self.u[key])


def make_captioned(**settings):
    settings = {
        "temperature": 0.2,
        "gamma_min": 0.3,
        "dtype": torch.float64,
        "scale": "temperature",
        **settings,
    }
    return GlobalClipLoss((NUM_SAMPLES, NUM_CAPTIONS), **settings)
