"""The anchors of a batch: where their normalizers and temperatures are."""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from .normalizer import Normalizer
from .temperature import Temperature

__all__ = ["Side", "select"]


@dataclass(frozen=True)
class Side:
    """The M anchors of one side: first those of this batch, then those of earlier batches.

    Attributes:
        normalizer: estimates their log g.
        rows: `(M,)` int64, their rows in the normalizer.
        temperature: gives their tau.
        temperature_rows: `(M,)` int64, their rows in the temperature.
    """

    normalizer: Normalizer
    rows: Tensor
    temperature: Temperature
    temperature_rows: Tensor


def select(
    places: slice, sides: tuple[Side, ...], *numbers: Any
) -> tuple[tuple[Side, ...], list[Any]]:
    """Select some of the M anchors of all sides.

    Args:
        places: which anchors.
        sides: S sides of M anchors.
        numbers: tensors `(M,)` or `(S, M)`, of which these anchors' are returned; scalars and
            what is no tensor stand for all anchors and are returned as they are.
    """
    chosen = tuple(
        replace(side, rows=side.rows[places], temperature_rows=side.temperature_rows[places])
        for side in sides
    )
    return chosen, [x[..., places] if isinstance(x, Tensor) and x.ndim else x for x in numbers]
