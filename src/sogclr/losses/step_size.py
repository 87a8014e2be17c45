"""gamma, the step size of the moving average."""

import math

import torch
from torch import Tensor

__all__ = ["step_size"]


def step_size(
    visits: Tensor,
    gamma_min: float,
    gamma_decay_visits: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Compute gamma, the weight of the new estimate, from a sample's number of visits.

    The first visit has gamma = 1. gamma depends on no global step, so samples that are added later
    start with gamma = 1 too.

    Args:
        visits: `(...)` integers >= 1, this visit counted.
        gamma_min: the smallest gamma, in (0, 1].
        gamma_decay_visits: None for `max(gamma_min, 1/visits)`: u is the plain mean of all visits
            until gamma reaches gamma_min. Or the number of visits over which gamma falls from 1 to
            gamma_min along a cosine; 1 makes gamma constant after the first visit. FastCLIP (arXiv
            2407.01445) takes half the epochs of the run.
        dtype: of the result.
    """
    visits = visits.to(dtype)
    if gamma_decay_visits is None:
        return visits.reciprocal().clamp_(min=gamma_min)
    progress = ((visits - 1) / gamma_decay_visits).clamp(max=1)
    return gamma_min + (1 - gamma_min) * 0.5 * (1 + (math.pi * progress).cos())
