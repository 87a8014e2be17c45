"""`sogclr.curate`: list what deserves a look in a data set, and what may be left out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from torch import nn

from ..common.console import cell, result, say
from ..common.errors import UserError, require
from ..common.options import Device
from ..data.image_source import ImageSource
from ..data.open_pairs import open_samples
from ..data.pair_source import PairSource
from ..distributed.device import choose_device
from ..evaluation.curation.collect import collect_findings, embed_all
from ..evaluation.curation.finding import KINDS, Finding, Kind
from ..evaluation.curation.links import link_findings, link_kept, require_linkable
from ..evaluation.curation.tables import write_findings, write_selection
from ..evaluation.findings.coverage import Selection, choose_covering
from ..evaluation.pages.pair_samples import PairSamples
from ..evaluation.pages.record import RunRecord
from ..evaluation.pages.samples import Samples
from ..runs.folder import Run
from .early_checks import require_columns_of_pairs, require_table_file

__all__ = ["Curation", "curate"]

MEANINGS: dict[Kind, str] = {
    "duplicate": "nearly the same; groups: {groups}",
    "label": "the vectors contradict the label",
    "caption": "text and partner do not fit",
    "outlier": "far from all others",
    "crowded": "large log u; regions: {groups}",
}


@dataclass(frozen=True)
class Curation:
    """The result of `sogclr.curate`.

    Attributes:
        findings: the findings, by kind and the clearest first.
        left_out: for each kind that is not listed, the reason.
        file: the table of findings.
        kept: `(m,)` int64 rows that are kept, of pairs of side a; None without `keep`.
        kept_file: the table of what is kept; None without `keep`.
    """

    findings: list[Finding]
    left_out: dict[Kind, str]
    file: Path
    kept: np.ndarray | None = field(default=None)
    kept_file: Path | None = None


def curate(
    run: str | Path,
    data: Any,
    *,
    out: str | Path,
    keep: float | None,
    links: str | Path | None,
    columns: str | Sequence[str] | None,
    module: nn.Module | None,
    device: Device,
    workers: int | None,
) -> Curation:
    """See `sogclr.curate`."""
    target = Path(out)
    require_table_file(target, ".csv")
    require(keep is None or 0 < keep < 1, "keep", f"must be between 0 and 1, got {keep}")
    record = RunRecord.read(Run(run))
    source = _open(record, data, columns)
    say(source.describe())
    images = source.a if isinstance(source, PairSource) else source
    if links is not None:
        if not isinstance(images, ImageSource):
            raise UserError("--links: these data are texts; leave it out")
        require_linkable(Path(links), images, data)
    samples = embed_all(
        record.run, source, module=module, device=choose_device(device), workers=workers
    )
    side = samples.a if isinstance(samples, PairSamples) else samples
    say(f"embedded {side.describe()}")
    collected = collect_findings(samples, record.settings.method)
    write_findings(target, collected.findings, source)
    _show(collected.findings, collected.left_out)
    count = len(collected.findings)
    noun = "finding" if count == 1 else "findings"
    say(f"wrote {count:,} {noun} to {target}; nothing was deleted")
    kept = kept_file = None
    if keep is not None:
        chosen = choose_covering(side.vectors, keep, labels=side.labels)
        kept_file = target.with_name(f"{target.stem}-kept{target.suffix}")
        write_selection(kept_file, samples, chosen.kept)
        kept = side.rows[chosen.kept]
        _describe_selection(side, chosen, kept_file)
    if links is not None and isinstance(images, ImageSource):
        made = link_findings(Path(links), collected.findings, images)
        if kept is not None and not isinstance(source, PairSource):
            made += link_kept(Path(links), kept, images)
        say(f"made {made:,} links in {links}")
    return Curation(collected.findings, collected.left_out, target, kept, kept_file)


def _open(
    record: RunRecord, data: Any, columns: str | Sequence[str] | None
) -> ImageSource | PairSource:
    require_columns_of_pairs(columns, data, record.is_pairs)
    return open_samples(data, columns, pairs=record.is_pairs)


def _show(findings: list[Finding], left_out: dict[Kind, str]) -> None:
    """Print how many findings there are of each kind, and the clearest one."""
    table = Table("finding", "samples", "what it is", "the clearest")
    for kind in KINDS:
        own = [finding for finding in findings if finding.kind == kind]
        if kind in left_out:
            table.add_row(kind, "-", f"not listed: {left_out[kind]}", "")
            continue
        groups = len({(finding.side, finding.group) for finding in own})
        meaning = MEANINGS[kind].format(groups=f"{groups:,}")
        table.add_row(kind, f"{len(own):,}", meaning, cell(own[0].reason if own else ""))
    result(table)


def _describe_selection(samples: Samples, chosen: Selection, file: Path) -> None:
    gone = np.setdiff1d(np.arange(len(samples)), chosen.kept)
    least = float(chosen.covered[gone].min()) if len(gone) else 1.0
    say(
        f"kept {len(chosen.kept):,} of {len(samples):,} samples ({file}); each sample that is left "
        f"out has a kept one with a cosine similarity of {least:.3f} or more"
    )
