"""How views of one sample lie to each other, and samples to one another, on the sphere."""

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

__all__ = ["alignment", "uniformity"]


def alignment(view1: Tensor, view2: Tensor) -> Tensor:
    """Mean squared distance of positive pairs, in [0, 4]; lower is better aligned.

    Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and
    Uniformity on the Hypersphere", ICML 2020, with alpha = 2.

    Args:
        view1, view2: `(B, d)`, not necessarily normalized.
    """
    unit1, unit2 = normalize(view1.float(), dim=1), normalize(view2.float(), dim=1)
    return (unit1 - unit2).square().sum(dim=1).mean()


def uniformity(features: Tensor) -> Tensor:
    """log of the mean Gaussian potential of all pairs; lower is more uniform.

    0 where all rows are one point, about -4 for the uniform distribution in many dimensions.
    The same paper, with t = 2. -inf for fewer than two rows.

    Args:
        features: `(B, d)`, not necessarily normalized.
    """
    unit = normalize(features.float(), dim=1)
    potential = -2 * torch.pdist(unit).square()  # (B(B-1)/2,)
    return potential.logsumexp(dim=0) - math.log(max(1, potential.numel()))
