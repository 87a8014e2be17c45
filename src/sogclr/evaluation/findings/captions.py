"""Measure how well the texts of pairs fit their partners."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

__all__ = ["PairFits", "fit_pairs"]

COMPARED = 2_000  # samples that a sample is compared with, drawn at random
SHUFFLES = 5  # foreign pairs for each pair
BLOCK = 1_024


@dataclass(frozen=True)
class PairFits:
    """The fits of p pairs.

    Attributes:
        similarity: `(p,)` cosine similarity of each pair.
        fit: `(p,)` how well it fits, see `fit_pairs`.
        foreign: `(q,)` the same of random samples that are no pair.
    """

    similarity: np.ndarray
    fit: np.ndarray
    foreign: np.ndarray


def fit_pairs(a: np.ndarray, b: np.ndarray, owner: np.ndarray, partner: np.ndarray) -> PairFits:
    """Measure how well the samples of each pair fit, beside random samples that are no pair.

    The fit is a mean of standard scores. One says how similar the text is to its image, relative to
    the similarities of both to random samples: some images are similar to all texts, some texts to
    all images. If the image has other texts, one says how similar the text is to those.

    Args:
        a: `(n, d)` vectors of side a, normalized here.
        b: `(m, d)` vectors of side b, normalized here.
        owner: `(p,)` position of each pair's sample of side a.
        partner: `(p,)` position of each pair's sample of side b.
    """
    rng = np.random.default_rng(0)
    one, other = (normalize(torch.from_numpy(side).float(), dim=1) for side in (a, b))
    score = _PairScores(one, other, owner, partner, rng)
    similarity = (one[owner] * other[partner]).sum(dim=1).numpy()
    known = set(zip(owner.tolist(), partner.tolist(), strict=True))
    foreign = []
    for _ in range(SHUFFLES):
        mixed = rng.permutation(partner)
        apart = [pair not in known for pair in zip(owner.tolist(), mixed.tolist(), strict=True)]
        foreign.append(score(mixed)[apart])
    return PairFits(similarity, score(partner), np.concatenate(foreign))


class _PairScores:
    """Scores texts in the place of the texts of pairs.

    Args:
        one, other: unit vectors of both sides, `(n, d)` and `(m, d)`.
        owner, partner: the pairs, `(p,)` each.
        rng: draws the samples to compare with.
    """

    def __init__(
        self,
        one: Tensor,
        other: Tensor,
        owner: np.ndarray,
        partner: np.ndarray,
        rng: np.random.Generator,
    ) -> None:
        self.one, self.other, self.owner = one, other, owner
        some_of_a = one[rng.permutation(len(one))[:COMPARED]]
        some_of_b = other[rng.permutation(len(other))[:COMPARED]]
        self.image_to_texts = _moments(one, some_of_b)
        self.text_to_images = _moments(other, some_of_a)
        self.text_to_texts = _moments(other, some_of_b)
        # The mean of the other texts of each pair's image.
        total = torch.zeros_like(one).index_add_(0, torch.from_numpy(owner), other[partner])
        self.count = torch.from_numpy(np.bincount(owner, minlength=len(one))[owner] - 1)
        self.others = (total[owner] - other[partner]) / self.count.clamp(min=1)[:, None]

    def __call__(self, texts: np.ndarray) -> np.ndarray:
        """Return the fit of each pair, `(p,)`, with these texts in place of its own."""
        vectors = self.other[texts]
        similarity = (self.one[self.owner] * vectors).sum(dim=1)
        for_image = _standardize(similarity, self.image_to_texts, self.owner)
        for_text = _standardize(similarity, self.text_to_images, texts)
        beside = (self.others * vectors).sum(dim=1)
        beside_others = _standardize(beside, self.text_to_texts, texts)
        fit = (for_image + for_text) / 2
        return torch.where(self.count > 0, (fit + beside_others) / 2, fit).numpy()


def _moments(vectors: Tensor, some: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each vector's similarities to some others."""
    parts = [vectors[start : start + BLOCK] @ some.T for start in range(0, len(vectors), BLOCK)]
    mean = torch.cat([part.mean(dim=1) for part in parts])
    spread = torch.cat([part.std(dim=1, correction=0) for part in parts])
    return mean, spread.clamp(min=1e-6)


def _standardize(values: Tensor, moments: tuple[Tensor, Tensor], rows: np.ndarray) -> Tensor:
    mean, spread = moments
    return (values - mean[rows]) / spread[rows]
