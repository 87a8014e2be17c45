"""Contrastive learning that does not need a large batch.

The losses need torch alone; everything else is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .auditing.measure import Audit
    from .commands.api import align, audit, embed, evaluate, pretrain, search
    from .commands.embed import Embeddings
    from .commands.search import Match
    from .common.errors import UserError
    from .common.options import Augmentation
    from .data.hashed_rows import collision_rate, hashed_rows, stable_keys
    from .data.indexed import IndexedDataset
    from .evaluation.images import ImageReport
    from .evaluation.pairs import PairReport
    from .losses import (
        ClipLoss,
        DecoupledClipLoss,
        DecoupledContrastiveLoss,
        GlobalClipLoss,
        GlobalContrastiveLoss,
        MoCoLoss,
        NTXentLoss,
        SigLipLoss,
    )
    from .losses.temperature import IndividualTemperature, LearnedTemperature
    from .runs.load import load

_HOME = {
    "GlobalContrastiveLoss": "losses",
    "GlobalClipLoss": "losses",
    "NTXentLoss": "losses",
    "DecoupledContrastiveLoss": "losses",
    "MoCoLoss": "losses",
    "ClipLoss": "losses",
    "DecoupledClipLoss": "losses",
    "SigLipLoss": "losses",
    "IndividualTemperature": "losses.temperature",
    "LearnedTemperature": "losses.temperature",
    "IndexedDataset": "data.indexed",
    "Audit": "auditing.measure",
    "Embeddings": "commands.embed",
    "ImageReport": "evaluation.images",
    "Match": "commands.search",
    "PairReport": "evaluation.pairs",
    "UserError": "common.errors",
    "Augmentation": "common.options",
    "align": "commands.api",
    "audit": "commands.api",
    "embed": "commands.api",
    "evaluate": "commands.api",
    "hashed_rows": "data.hashed_rows",
    "load": "runs.load",
    "pretrain": "commands.api",
    "search": "commands.api",
    "collision_rate": "data.hashed_rows",
    "stable_keys": "data.hashed_rows",
}

__version__ = "0.1.0"
__all__ = [
    "Audit",
    "Augmentation",
    "ClipLoss",
    "DecoupledClipLoss",
    "DecoupledContrastiveLoss",
    "Embeddings",
    "GlobalClipLoss",
    "GlobalContrastiveLoss",
    "ImageReport",
    "IndexedDataset",
    "IndividualTemperature",
    "LearnedTemperature",
    "Match",
    "MoCoLoss",
    "NTXentLoss",
    "PairReport",
    "SigLipLoss",
    "UserError",
    "align",
    "audit",
    "collision_rate",
    "embed",
    "evaluate",
    "hashed_rows",
    "load",
    "pretrain",
    "search",
    "stable_keys",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sogclr' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
