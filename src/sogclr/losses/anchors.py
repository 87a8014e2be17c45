"""The anchors of a batch, with their normalizers and temperatures."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .normalizer import Normalizer
from .temperature import Tau, Temperature

__all__ = ["Side", "learn_temperatures", "look_up_tau", "select"]


@dataclass(frozen=True)
class Side:
    """The M anchors of one side: first those of this batch, then those of earlier batches.

    Attributes:
        normalizer: the estimator of log g of the anchors.
        rows: `(M,)` int64, the anchors' rows in the normalizer.
        temperature: the module that returns tau of the anchors.
        temperature_rows: `(M,)` int64, the anchors' rows in the temperature.
    """

    normalizer: Normalizer
    rows: Tensor
    temperature: Temperature
    temperature_rows: Tensor


def select(
    places: slice, sides: tuple[Side, ...], *values: Any
) -> tuple[tuple[Side, ...], list[Any]]:
    """Select some of the M anchors of all sides.

    Args:
        places: the anchors to select.
        sides: S sides of M anchors.
        values: tensors `(M,)` or `(S, M)`, which are cut to the selected anchors; or values equal
            for all anchors (scalar tensors, numbers, None), which stay as they are.

    Returns:
        The sides and the values of the selected anchors.
    """
    selected = tuple(
        replace(side, rows=side.rows[places], temperature_rows=side.temperature_rows[places])
        for side in sides
    )
    return selected, [x[..., places] if isinstance(x, Tensor) and x.ndim else x for x in values]


def look_up_tau(sides: tuple[Side, ...]) -> Tau:
    """Return tau of all anchors, with graph: a number, a scalar tensor, `(1, M)` or `(S, M)`."""
    first = sides[0].temperature
    if all(side.temperature is first for side in sides):
        tau = first(sides[0].temperature_rows)
        return tau[None] if isinstance(tau, Tensor) and tau.ndim else tau
    return torch.stack([side.temperature(side.temperature_rows) for side in sides])


def learn_temperatures(sides: tuple[Side, ...], gradient: Tensor) -> None:
    """Update the temperatures from dF/dtau of each anchor, `(S, M)`."""
    for side, own in zip(sides, gradient, strict=True):
        side.temperature.learn(side.temperature_rows, own)
