"""The data of an audit: a fixed number of stored views of every sample, embedded."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..losses.objective_tiled import Anchors

__all__ = ["Population", "inner", "tangent"]


@dataclass(frozen=True)
class Population:
    """n samples with V stored views on each side; one side of views, or two of pairs.

    Gradients are `(S, n, V, d)`, S the number of sides, by the unit vectors, on the tangent space
    of the sphere.

    Attributes:
        features: `(S, n, V, d)` unit vectors; S = 1 for two views of one sample, 2 for pairs.
        rows: `(S, n)` int64, the samples' rows in the tables of the sides.
        group: `(n,)` int64; samples of equal group are never each other's negatives.
        taus: the temperature of each side, a number or one a sample `(n,)`.
    """

    features: Tensor
    rows: Tensor
    group: Tensor
    taus: Sequence[float | Tensor]

    def __len__(self) -> int:
        return self.features.shape[1]

    @property
    def of_pairs(self) -> bool:
        return len(self.features) == 2

    @property
    def views(self) -> int:
        return self.features.shape[2]

    def log_normalizers(self, of: Tensor | None = None) -> Tensor:
        """log g among all stored views of other samples, `(S, n, V)`.

        Args:
            of: `(S, n, W, d)`, other views of the samples; the stored ones by default.
        """
        of = self.features if of is None else of
        sides = [self._anchors(side, of).log_normalizers() for side in range(len(of))]
        return torch.stack(sides).unflatten(1, of.shape[1:3])

    def normalizer_gradients(self, log_g: Tensor, log_u: Tensor) -> Tensor:
        """The expected gradient of the normalizers' part of the objective, given u.

        With u = g that is the gradient of the objective v1; with u the mean of g over a sample's
        views, of v2; with a table's u, what a step expects to get from that table as it stands.

        Args:
            log_g: of `log_normalizers`.
            log_u: `(K, S, n, V)`, K choices.

        Returns:
            `(K, S, n, V, d)`.
        """
        total = torch.zeros(len(log_u), *self.features.shape, dtype=self.features.dtype)
        each = 1 / (len(self.features) * len(self) * self.views)  # an anchor's share
        for side in range(len(self.features)):
            own, theirs = self._anchors(side, self.features).gradients(
                log_g[side].flatten(), each * (log_g[side] - log_u[:, side]).exp().flatten(1)
            )
            total[:, side] += own.view_as(total[:, side])
            total[:, self._other(side)] += theirs.view_as(total[:, side])
        return tangent(total, self.features)

    def alignment_gradient(self) -> Tensor:
        """The gradient of -E[s(positive)], `(S, n, V, d)`."""
        if self.of_pairs:  # any view of the partner
            mean = self.features.flip(0).mean(dim=2, keepdim=True).expand_as(self.features)
            return tangent(-mean / (len(self) * self.views), self.features)
        others = self.features.sum(dim=2, keepdim=True) - self.features
        each = 2 / (len(self) * self.views * (self.views - 1))  # every view is anchor and positive
        return tangent(-each * others, self.features)

    def _other(self, side: int) -> int:
        return 1 - side if self.of_pairs else side

    def _anchors(self, side: int, of: Tensor) -> Anchors:
        tau, views = self.taus[side], of.shape[2]
        return Anchors(
            of[side].flatten(0, 1),
            self.features[self._other(side)].flatten(0, 1),
            self.group.repeat_interleave(views),
            self.group.repeat_interleave(self.views),
            tau.repeat_interleave(views) if isinstance(tau, Tensor) else tau,
        )


def tangent(gradient: Tensor, features: Tensor) -> Tensor:
    """Without the part along the unit vector, which moves nothing on the sphere."""
    return gradient - inner(gradient, features)[..., None] * features


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner products over the last dimension."""
    return (a * b).sum(dim=-1)
