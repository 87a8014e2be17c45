"""Contrastive learning that does not need a large batch.

The losses need torch alone; everything else is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data.hashed import hashed_rows, shared_share, stable_keys
    from .data.indexed import IndexedDataset
    from .errors import UserError
    from .losses import (
        ClipLoss,
        DecoupledClipLoss,
        DecoupledContrastiveLoss,
        GlobalContrastiveLoss,
        MoCoLoss,
        NTXentLoss,
        SigLipLoss,
        TwoWayGlobalContrastiveLoss,
    )
    from .runs import load
    from .settings import Views
    from .temperature import IndividualTemperature, LearnedTemperature
    from .verbs import align, audit, embed, evaluate, pretrain, search

_HOME = {
    "GlobalContrastiveLoss": "losses",
    "TwoWayGlobalContrastiveLoss": "losses",
    "NTXentLoss": "losses",
    "DecoupledContrastiveLoss": "losses",
    "MoCoLoss": "losses",
    "ClipLoss": "losses",
    "DecoupledClipLoss": "losses",
    "SigLipLoss": "losses",
    "IndividualTemperature": "temperature",
    "LearnedTemperature": "temperature",
    "IndexedDataset": "data.indexed",
    "UserError": "errors",
    "Views": "settings",
    "align": "verbs",
    "audit": "verbs",
    "embed": "verbs",
    "evaluate": "verbs",
    "hashed_rows": "data.hashed",
    "load": "runs",
    "pretrain": "verbs",
    "search": "verbs",
    "shared_share": "data.hashed",
    "stable_keys": "data.hashed",
}

__version__ = "0.1.0"
__all__ = [
    "ClipLoss",
    "DecoupledClipLoss",
    "DecoupledContrastiveLoss",
    "GlobalContrastiveLoss",
    "IndexedDataset",
    "IndividualTemperature",
    "LearnedTemperature",
    "MoCoLoss",
    "NTXentLoss",
    "SigLipLoss",
    "TwoWayGlobalContrastiveLoss",
    "UserError",
    "Views",
    "align",
    "audit",
    "embed",
    "evaluate",
    "hashed_rows",
    "load",
    "pretrain",
    "search",
    "shared_share",
    "stable_keys",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sogclr' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
