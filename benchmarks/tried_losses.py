"""Published ideas that are no part of the package, in plain autograd, for benchmarks to try.

    WeightedPositives   DCLW: positives weigh more where they are far apart (arXiv 2110.06848)
    NetworkNormalizer   a network predicts log g from the features (NeuCLIP, arXiv 2511.08417)
    WithoutNearest      GloFND: a threshold per sample drops negatives that look like false ones
                        (arXiv 2502.20612), in SogCLR
    Sigmoid             SigLIP's loss (arXiv 2303.15343), also for two views (SigCLR)

All take two views or the two sides of pairs, `(B, d)` each, and sample ids, and return a scalar on
the scale of similarities, as the package's losses do with `scale="temperature"`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, normalize

__all__ = ["TRIED", "NetworkNormalizer", "Sigmoid", "WeightedPositives", "WithoutNearest"]


@dataclass
class Compared:
    """The similarities of a batch.

    Attributes:
        anchors: `(A, d)` unit vectors.
        similarity: `(A, N)` of each anchor to all candidates.
        negative: `(A, N)` bool, whether a candidate is a negative.
        positive: `(A,)` similarity of each anchor to its positive.
        rows: `(A,)` row of each anchor in a table.
    """

    anchors: Tensor
    similarity: Tensor
    negative: Tensor
    positive: Tensor
    rows: Tensor


class Tried(nn.Module):
    """The base: compares the samples of a batch.

    Args:
        samples: number of training samples.
        temperature: tau.
        pairs: whether samples are pairs with two sides; else two views.
    """

    def __init__(self, samples: int, temperature: float, pairs: bool) -> None:
        super().__init__()
        self.samples, self.tau, self.pairs = samples, temperature, pairs

    def compare(self, a: Tensor, b: Tensor, index: Tensor) -> Compared:
        """Compare all samples of a batch, whose ids must differ."""
        x, y = normalize(a, dim=1), normalize(b, dim=1)
        count, anchors = len(x), torch.cat([x, y])
        own = torch.eye(count, dtype=torch.bool)
        if self.pairs:
            similarity, negative = torch.cat([x @ y.T, y @ x.T]), ~own.repeat(2, 1)
            rows = torch.cat([index, index + self.samples])
        else:
            similarity, negative = anchors @ anchors.T, ~own.repeat(2, 2)
            rows = index.repeat(2)
        return Compared(anchors, similarity, negative, (x * y).sum(dim=1).repeat(2), rows)

    def log_g(self, batch: Compared, negative: Tensor | None = None) -> Tensor:
        """Compute log ĝ `(A,)`, the log of the mean of exp(s / tau) over negatives."""
        chosen = batch.negative if negative is None else negative
        logits = (batch.similarity / self.tau).masked_fill(~chosen, -math.inf)
        return logits.logsumexp(dim=1) - chosen.sum(dim=1).log()


class WeightedPositives(Tried):
    """DCL with weighted positives: 2 - exp(s / sigma) / mean of exp(s / sigma)."""

    sigma = 0.5

    def forward(self, a: Tensor, b: Tensor, index: Tensor) -> Tensor:
        batch = self.compare(a, b, index)
        near = (batch.positive.detach() / self.sigma).exp()
        weight = 2 - near / near.mean()
        return (self.tau * self.log_g(batch) - weight * batch.positive).mean()


class NetworkNormalizer(Tried):
    """A network predicts log u; its own steps minimize mean(ĝ exp(-log u) + log u).

    The minimum of that is log g itself, since ĝ enters linearly. The network takes one step a
    batch, by Adam.
    """

    def __init__(self, samples: int, temperature: float, pairs: bool) -> None:
        super().__init__(samples, temperature, pairs)
        self.network: nn.Module | None = None

    def forward(self, a: Tensor, b: Tensor, index: Tensor) -> Tensor:
        batch = self.compare(a, b, index)
        log_g, anchors = self.log_g(batch), batch.anchors.detach()
        if self.network is None:
            last = nn.Linear(256, 1)
            nn.init.zeros_(last.weight)
            nn.init.constant_(last.bias, float(log_g.detach().mean()))
            self.network = nn.Sequential(nn.Linear(a.shape[1], 256), nn.ReLU(), last)
            self.optimizer = torch.optim.Adam(self.network.parameters(), 1e-3)
        predicted = self.network(anchors).squeeze(1)
        ((log_g.detach() - predicted).exp() + predicted).mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        weight = (log_g - predicted).detach().exp()
        return (self.tau * weight * log_g - batch.positive).mean()


class WithoutNearest(Tried):
    """SogCLR whose negatives above a threshold of the anchor are dropped.

    The threshold follows the quantile `1 - share` of the anchor's similarities. It starts at that
    of the first batch: from 1, it would move by 0.0005 a visit, and drop nothing in twenty epochs.
    """

    share, rate = 0.01, 0.05

    def __init__(self, samples: int, temperature: float, pairs: bool) -> None:
        super().__init__(samples, temperature, pairs)
        rows = samples * (2 if pairs else 1)
        self.threshold, self.u = torch.ones(rows), torch.full((rows,), -math.inf)
        self.visits = torch.zeros(rows)

    def forward(self, a: Tensor, b: Tensor, index: Tensor) -> Tensor:
        batch, rows = self.compare(a, b, index), index
        if self.pairs:
            rows = batch.rows
        sides = (-1, len(rows))
        similarity = batch.similarity.detach()
        quantile = similarity.where(batch.negative, math.nan).nanquantile(
            min(1.0, 1 - self.share), dim=1
        )
        first = quantile.view(sides).amax(dim=0)
        self.threshold[rows] = torch.where(self.visits[rows] == 0, first, self.threshold[rows])
        above = (similarity > self.threshold[batch.rows, None]) & batch.negative
        kept = batch.negative & ~above
        kept |= batch.negative & ~kept.any(dim=1, keepdim=True)  # an anchor needs a negative
        log_g = self.log_g(batch, kept)
        found = (above.sum(dim=1) / batch.negative.sum(dim=1)).view(sides).mean(dim=0)
        self.threshold[rows] = (self.threshold[rows] + self.rate * (found - self.share)).clamp(
            -1, 1
        )
        estimate = log_g.detach().view(sides)
        estimate = estimate.logsumexp(dim=0) - math.log(len(estimate))
        self.visits[rows] += 1
        gamma = (1 / self.visits[rows]).clamp(min=0.2)
        self.u[rows] = torch.logaddexp((-gamma).log1p() + self.u[rows], gamma.log() + estimate)
        weight = (log_g.detach() - self.u[batch.rows]).exp()
        return (self.tau * weight * log_g - batch.positive).mean()


class Sigmoid(Tried):
    """Each pair of samples is classified by itself; bias and tau are learned, as in SigLIP."""

    def __init__(self, samples: int, temperature: float, pairs: bool) -> None:
        super().__init__(samples, temperature, pairs)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.bias = nn.Parameter(torch.tensor(-10.0))

    def forward(self, a: Tensor, b: Tensor, index: Tensor) -> Tensor:
        batch, scale = self.compare(a, b, index), self.log_scale.exp()
        against = logsigmoid(-(scale * batch.similarity + self.bias))
        loss = -logsigmoid(scale * batch.positive + self.bias)
        return self.tau * (loss - (against * batch.negative).sum(dim=1)).mean()


TRIED = {
    "dclw": WeightedPositives,
    "network": NetworkNormalizer,
    "glofnd": WithoutNearest,
    "sigmoid": Sigmoid,
}
