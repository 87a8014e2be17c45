"""The data of an audit: embeddings of a fixed number of stored views of each sample."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..losses.objective_tiled import Anchors

__all__ = ["Population", "inner", "tangent"]


@dataclass(frozen=True)
class Population:
    """n samples with V stored views on each of S sides; S is 1 for images alone, 2 for pairs.

    Gradients are taken with respect to the unit vectors and have shape `(S, n, V, d)`. They are
    projected on the tangent space of the sphere.

    Attributes:
        features: `(S, n, V, d)` unit vectors.
        rows: `(S, n)` int64, rows of the samples in the tables of the sides.
        group: `(n,)` int64; samples of equal group are never negatives of each other.
        taus: one temperature for each side: a number, or `(n,)` with one for each sample.
    """

    features: Tensor
    rows: Tensor
    group: Tensor
    taus: Sequence[float | Tensor]

    def __len__(self) -> int:
        return self.features.shape[1]

    @property
    def of_pairs(self) -> bool:
        """Return whether there are two sides."""
        return len(self.features) == 2

    @property
    def views(self) -> int:
        """V, the number of stored views of each sample."""
        return self.features.shape[2]

    def log_normalizers(self, anchors: Tensor | None = None) -> Tensor:
        """Compute log g of anchors; their negatives are all stored views of other samples.

        Args:
            anchors: `(S, n, W, d)`, other views of the samples. Default: the stored views.

        Returns:
            `(S, n, W)`.
        """
        anchors = self.features if anchors is None else anchors
        sides = [self._anchors(side, anchors).log_normalizers() for side in range(len(anchors))]
        return torch.stack(sides).unflatten(1, anchors.shape[1:3])

    def normalizer_gradients(self, log_g: Tensor, log_u: Tensor) -> Tensor:
        """Compute the expected gradient of the normalizer part of the loss, for given log u.

        With u = g it is the gradient of the objective F (v1). With u = the mean of g over a
        sample's views it is the gradient of F2 (v2). With the u of a table it is the expectation
        of a step that leaves the table unchanged.

        Args:
            log_g: `(S, n, V)`, the result of `log_normalizers`.
            log_u: `(K, S, n, V)`, K choices of log u.

        Returns:
            `(K, S, n, V, d)`.
        """
        total = torch.zeros(len(log_u), *self.features.shape, dtype=self.features.dtype)
        anchor_weight = 1 / (len(self.features) * len(self) * self.views)
        for side in range(len(self.features)):
            weights = anchor_weight * (log_g[side] - log_u[:, side]).exp().flatten(1)  # (K, n V)
            by_anchors, by_candidates = self._anchors(side, self.features).gradients(
                log_g[side].flatten(), weights
            )
            total[:, side] += by_anchors.view_as(total[:, side])
            total[:, self._opposite(side)] += by_candidates.view_as(total[:, side])
        return tangent(total, self.features)

    def alignment_gradient(self) -> Tensor:
        """Compute the gradient of -E[similarity to the positive], `(S, n, V, d)`."""
        if self.of_pairs:  # the positive is any view of the partner
            mean = self.features.flip(0).mean(dim=2, keepdim=True).expand_as(self.features)
            return tangent(-mean / (len(self) * self.views), self.features)
        others = self.features.sum(dim=2, keepdim=True) - self.features
        # The factor 2: every view is both an anchor and a positive.
        weight = 2 / (len(self) * self.views * (self.views - 1))
        return tangent(-weight * others, self.features)

    def _opposite(self, side: int) -> int:
        """Return the side of the candidates of a side's anchors."""
        return 1 - side if self.of_pairs else side

    def _anchors(self, side: int, anchors: Tensor) -> Anchors:
        tau, views = self.taus[side], anchors.shape[2]
        return Anchors(
            anchors[side].flatten(0, 1),
            self.features[self._opposite(side)].flatten(0, 1),
            self.group.repeat_interleave(views),
            self.group.repeat_interleave(self.views),
            tau.repeat_interleave(views) if isinstance(tau, Tensor) else tau,
        )


def tangent(gradient: Tensor, features: Tensor) -> Tensor:
    """Remove the part of the gradient along the unit vector: it moves nothing on the sphere."""
    return gradient - inner(gradient, features)[..., None] * features


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Return inner products over the last dimension."""
    return (a * b).sum(dim=-1)
