"""Types of arguments and results: for Python, and the simpler ones of the command line."""

from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import nn

    from ..auditing.measured import Audit
    from ..data.open_images import Data
    from ..evaluation.classified import Classified
    from ..evaluation.images import ImageReport
    from ..evaluation.pages.page import Page
    from ..evaluation.pairs import PairReport
    from .curate import Curation
    from .embeddings import Embeddings
    from .finetune import Finetuned
    from .result import Result
    from .search import Match

    OtherData = Data
    OwnModule = nn.Module | None
    Run: TypeAlias = str | Path
    Audited: TypeAlias = str | Path | nn.Module
    File: TypeAlias = str | Path
    Folder: TypeAlias = str | Path
    Picture: TypeAlias = Path
    Report: TypeAlias = ImageReport | PairReport | Classified
    Written: TypeAlias = Path
    Address = str
    Repository = str
    Matches: TypeAlias = list[Match]
    Protocols: TypeAlias = str | Sequence[str] | None
    Columns: TypeAlias = str | Sequence[str]
    Text = str
    Query = str
    Host = str
else:  # what the command line accepts, and how its help names the value
    from tyro.conf import Suppress

    Data = OtherData = Annotated[str, "DATA"]
    File = Annotated[str, "FILE"]
    Folder = Annotated[str, "FOLDER"]
    Columns = Annotated[str, "A,B"]
    Text = Annotated[str, "TEXT"]
    Query = Annotated[str, "QUERY"]
    Host = Annotated[str, "HOST"]
    Repository = Annotated[str, "OWNER/NAME"]
    Run = Audited = Annotated[str, "RUN"]
    Protocols = Annotated[str, "NAMES"] | None
    OwnModule = Suppress[str | None]
    Audit = Curation = Embeddings = Finetuned = Matches = Page = Picture = Report = Result = Any
    Address = Written = Any

__all__ = [
    "Address",
    "Audit",
    "Audited",
    "Columns",
    "Curation",
    "Data",
    "Embeddings",
    "File",
    "Finetuned",
    "Folder",
    "Host",
    "Matches",
    "OtherData",
    "OwnModule",
    "Page",
    "Picture",
    "Protocols",
    "Query",
    "Report",
    "Repository",
    "Result",
    "Run",
    "Text",
    "Written",
]
