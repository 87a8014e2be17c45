"""Alignment and uniformity of embeddings on the unit sphere.

Source: Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and
Uniformity on the Hypersphere", ICML 2020.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

__all__ = ["alignment", "uniformity"]


def alignment(view1: Tensor, view2: Tensor) -> Tensor:
    """Return the mean squared distance of positive pairs, with the exponent alpha = 2.

    Args:
        view1: `(B, d)` features of one view, normalized here.
        view2: `(B, d)` features of the other view of the same samples.

    Returns:
        A scalar in [0, 4]; lower is better aligned.
    """
    unit1, unit2 = normalize(view1.float(), dim=1), normalize(view2.float(), dim=1)
    return (unit1 - unit2).square().sum(dim=1).mean()


def uniformity(features: Tensor) -> Tensor:
    """Return log of the mean Gaussian potential over all pairs, with t = 2.

    Args:
        features: `(B, d)`, normalized here.

    Returns:
        A scalar; lower is more uniform. 0 if all features are equal, about -4 for the uniform
        distribution in many dimensions, -inf for fewer than two features.
    """
    unit = normalize(features.float(), dim=1)
    potential = -2 * torch.pdist(unit).square()  # (B(B-1)/2,)
    return potential.logsumexp(dim=0) - math.log(max(1, potential.numel()))
