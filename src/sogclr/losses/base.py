"""The base of the losses with a normalizer: the settings of the formula, and its anchors."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from ..distributed.exchange import Shares
from . import torch_versions
from .inputs import distinct_ids
from .memory import FeatureMemory
from .normalizer import Normalizer
from .normalizer_table import NormalizerTable
from .temperature import Temperature

__all__ = ["ContrastiveLoss", "Scale", "Side"]

Scale = Literal["temperature", "cross-entropy"]


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


class ContrastiveLoss(nn.Module):
    """The base of all losses with a normalizer; `sogclr.losses.contrast` has the formula.

    Attributes:
        positive_in_normalizer: whether ĝ counts the positive; True for SimCLR, CLIP and MoCo.
        sums_negatives: whether the scale "cross-entropy" has the sum over negatives, as published
            losses do. False: the mean, which a moving average estimates.
        effective_negatives: see `against_effective_negatives`.
        memory: features of earlier batches; None for none.
    """

    positive_in_normalizer = False
    sums_negatives = True
    effective_negatives: float | None = None

    def __init__(self, scale: Scale, process_group: Any) -> None:
        super().__init__()
        if scale not in ("temperature", "cross-entropy"):
            raise ValueError(f'scale must be "temperature" or "cross-entropy", got {scale!r}')
        self.scale, self.process_group = scale, process_group
        self.memory: FeatureMemory | None = None

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "forward" in vars(cls):
            cls.forward = torch_versions.keep_from_old_compilers(cls.forward)

    def sides(self) -> list[tuple[Normalizer, Temperature]]:
        """Return the normalizer and the temperature of each side; not defined for MoCo."""
        raise NotImplementedError

    def identify(self, index: Tensor | None, features: Tensor, shares: Shares | None) -> Tensor:
        """Return `index`, or distinct numbers `(B,)` if it is None and no sample has state."""
        if index is not None:
            return index
        if self.memory is not None or any(
            normalizer.needs_ids or temperature.per_sample
            for normalizer, temperature in self.sides()
        ):
            raise TypeError("this loss keeps state per sample: pass `index`, the sample ids")
        return distinct_ids(features, shares)

    def raise_for_invalid_ids(self) -> None:
        """Raise IndexError if a table met invalid ids on an accelerator. Waits for the device."""
        for module in self.modules():
            if isinstance(module, NormalizerTable):
                module.raise_for_invalid_ids()

    def extra_repr(self) -> str:
        return f"scale={self.scale}"
