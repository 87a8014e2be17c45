"""Contrastive learning that does not need a large batch.

The losses need torch alone; everything else is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what _HOME imports, for type checkers
    from .auditing.measured import Audit as Audit
    from .commands.api import align as align
    from .commands.api import audit as audit
    from .commands.api import embed as embed
    from .commands.api import evaluate as evaluate
    from .commands.api import pretrain as pretrain
    from .commands.api import search as search
    from .commands.api_finetune import finetune as finetune
    from .commands.api_models import export as export
    from .commands.api_models import push as push
    from .commands.api_pages import curate as curate
    from .commands.api_pages import preview as preview
    from .commands.api_pages import report as report
    from .commands.api_pages import serve as serve
    from .commands.curate import Curation as Curation
    from .commands.embeddings import Embeddings as Embeddings
    from .commands.finetune import Finetuned as Finetuned
    from .commands.result import Result as Result
    from .commands.search import Match as Match
    from .common.errors import UserError as UserError
    from .common.options import Augmentation as Augmentation
    from .data.hashed_rows import collision_rate as collision_rate
    from .data.hashed_rows import hashed_rows as hashed_rows
    from .data.hashed_rows import stable_keys as stable_keys
    from .data.indexed import IndexedDataset as IndexedDataset
    from .evaluation.images import ImageReport as ImageReport
    from .evaluation.pages.page import Page as Page
    from .evaluation.pairs import PairReport as PairReport
    from .integrations.import_table import import_table as import_table
    from .losses import ClipLoss as ClipLoss
    from .losses import DecoupledClipLoss as DecoupledClipLoss
    from .losses import DecoupledContrastiveLoss as DecoupledContrastiveLoss
    from .losses import GlobalClipLoss as GlobalClipLoss
    from .losses import GlobalContrastiveLoss as GlobalContrastiveLoss
    from .losses import MoCoLoss as MoCoLoss
    from .losses import NTXentLoss as NTXentLoss
    from .losses import SigLipLoss as SigLipLoss
    from .losses import validation_loss as validation_loss
    from .losses.temperature import IndividualTemperature as IndividualTemperature
    from .losses.temperature import LearnedTemperature as LearnedTemperature
    from .planning.callback import Callback as Callback
    from .planning.callback import TrainingState as TrainingState
    from .runs.load import load as load

__version__ = "0.1.0"

# Every public name, with the module that defines it.
_HOME = {
    "Audit": "auditing.measured",
    "Augmentation": "common.options",
    "Callback": "planning.callback",
    "ClipLoss": "losses",
    "Curation": "commands.curate",
    "DecoupledClipLoss": "losses",
    "DecoupledContrastiveLoss": "losses",
    "Embeddings": "commands.embeddings",
    "Finetuned": "commands.finetune",
    "GlobalClipLoss": "losses",
    "GlobalContrastiveLoss": "losses",
    "ImageReport": "evaluation.images",
    "IndexedDataset": "data.indexed",
    "IndividualTemperature": "losses.temperature",
    "LearnedTemperature": "losses.temperature",
    "Match": "commands.search",
    "MoCoLoss": "losses",
    "NTXentLoss": "losses",
    "Page": "evaluation.pages.page",
    "PairReport": "evaluation.pairs",
    "Result": "commands.result",
    "SigLipLoss": "losses",
    "TrainingState": "planning.callback",
    "UserError": "common.errors",
    "align": "commands.api",
    "audit": "commands.api",
    "collision_rate": "data.hashed_rows",
    "curate": "commands.api_pages",
    "embed": "commands.api",
    "evaluate": "commands.api",
    "export": "commands.api_models",
    "finetune": "commands.api_finetune",
    "hashed_rows": "data.hashed_rows",
    "import_table": "integrations.import_table",
    "load": "runs.load",
    "pretrain": "commands.api",
    "preview": "commands.api_pages",
    "push": "commands.api_models",
    "report": "commands.api_pages",
    "search": "commands.api",
    "serve": "commands.api_pages",
    "stable_keys": "data.hashed_rows",
    "validation_loss": "losses",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOME:
        raise AttributeError(f"module 'sogclr' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
