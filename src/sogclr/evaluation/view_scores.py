"""Scores of a representation on two random views of each held-out sample, without labels.

A linear probe hardly sees which of two losses found the better minimum of its own objective. These
scores do: whether a view finds its partner, and the objective itself.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..losses.objective_tiled import Anchors, log_mean
from .retrieval import rank_first_match

__all__ = ["ViewScores", "view_recall", "view_scores"]


@dataclass(frozen=True)
class ViewScores:
    """Scores of n samples with two views each.

    Attributes:
        recall: R@1 in [0, 1], how often the nearest of all n second views of a first view is that
            of its own sample; the mean with first and second exchanged. A tie is a miss.
        objective: F, the global objective with a normalizer for each view (`two_view_objective`,
            "v1"), on the scale of similarities. Lower is better.
        objective2: F2, with a normalizer for each sample ("v2").
    """

    recall: float
    objective: float
    objective2: float


def view_scores(first: Tensor, second: Tensor, temperature: float) -> ViewScores:
    """Compare the two views of all samples, tile by tile.

    Args:
        first: `(n, d)` features of one view of each sample.
        second: `(n, d)` features of another view; row i is of the same sample.
        temperature: tau of the objective.
    """
    views = [normalize(view.float(), dim=1) for view in (first, second)]
    vectors, sample = torch.cat(views), torch.arange(len(first)).repeat(2)
    log_g = Anchors(vectors, vectors, sample, sample, temperature).log_normalizers().view(2, -1)
    positive = (views[0] * views[1]).sum(dim=1)  # (n,)
    return ViewScores(
        recall=view_recall(*views),
        objective=float((temperature * log_g - positive).mean()),
        objective2=float((temperature * log_mean(log_g, dim=0) - positive).mean()),
    )


def view_recall(first: Tensor, second: Tensor) -> float:
    """Compute R@1 in [0, 1] between two views of n samples, see `ViewScores`."""
    x, y = (normalize(view.float(), dim=1) for view in (first, second))
    own = torch.arange(len(x), device=x.device)
    ranks = torch.cat([rank_first_match(x, y, own, own), rank_first_match(y, x, own, own)])
    return float((ranks == 1).double().mean())
