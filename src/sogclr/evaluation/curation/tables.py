"""Write findings, and the selection of samples that are kept, as Parquet or CSV."""

import csv
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...data.image_source import ImageSource
from ...data.pair_source import PairSource
from ...data.texts import Texts
from ...runs.stored import atomically
from ..pages.pair_samples import PairSamples
from ..pages.samples import Samples
from .finding import Finding

__all__ = ["COLUMNS", "write_findings", "write_selection"]

COLUMNS = (
    "finding",
    "score",
    "reason",
    "path",
    "text",
    "similar_to",
    "group",
    "label",
    "suggested",
    "id",
)
NUMBERS = {"score": "double", "group": "int64", "id": "uint64"}
FORMULA = ("=", "+", "-", "@")  # a spreadsheet computes what begins so
ADVICE = "make room on the disk, or name another --out"


def write_findings(target: Path, findings: list[Finding], source: ImageSource | PairSource) -> None:
    """Write one row for each finding, with the columns `COLUMNS`.

    Raises:
        UserError: the disk is full or fails.
    """
    _write(target, COLUMNS, [_row_of(finding, source) for finding in findings], NUMBERS)


def _row_of(finding: Finding, source: ImageSource | PairSource) -> list[Any]:
    side: ImageSource | Texts
    if isinstance(source, PairSource):
        side = source.b if finding.side == "b" else source.a
    else:
        side = source
    name = _name(side, finding.row)
    path, text = ("", name) if isinstance(side, Texts) else (name, "")
    if finding.text is not None and isinstance(source, PairSource):
        # The first one of two texts takes the place of the path.
        path, text = path or text, source.b.texts[finding.text]
    other = "" if finding.other is None else _name(side, finding.other)
    return [
        finding.kind,
        finding.score,
        finding.reason,
        path,
        text,
        other,
        finding.group,
        finding.label,
        finding.suggested,
        int(side.ids[finding.row]),
    ]


def _name(side: ImageSource | Texts, row: int) -> str:
    if isinstance(side, Texts):
        return side.texts[row]
    name = side.names[row]
    return f"./{name}" if name.startswith(FORMULA) else name


def write_selection(target: Path, samples: Samples | PairSamples, kept: np.ndarray) -> None:
    """Write the samples that are kept; of pairs a table that `align` reads.

    Args:
        target: the file.
        samples: embedded images or pairs.
        kept: `(m,)` positions of the samples that are kept; of pairs, of side a.

    Raises:
        UserError: the disk is full or fails.
    """
    if isinstance(samples, PairSamples):
        chosen = np.flatnonzero(np.isin(samples.owner, kept))
        rows = [
            [_address(samples.a, owner), samples.source.b.texts[samples.b.rows[partner]]]
            for owner, partner in zip(
                samples.owner[chosen].tolist(), samples.partner[chosen].tolist(), strict=True
            )
        ]
        _write(target, samples.source.columns, rows)
        return
    rows = [
        [_name(samples.source, row), int(samples.source.ids[row])]
        for row in samples.rows[kept].tolist()
    ]
    _write(target, ("path", "id"), rows, NUMBERS)


def _address(samples: Samples, position: int) -> str:
    """Return the text itself, or the absolute path of an image; its name if it has no file."""
    row = int(samples.rows[position])
    if isinstance(samples.source, Texts):
        return samples.source.texts[row]
    file = samples.source.file(row)
    return samples.source.names[row] if file is None else str(file.absolute())


def _write(
    target: Path, names: Sequence[str], rows: list[list[Any]], numbers: Mapping[str, str] = {}
) -> None:
    rows = [[_storable(value) for value in row] for row in rows]
    write: Callable[[Path], None]
    if target.suffix == ".csv":
        write = partial(_write_csv, names=names, rows=rows)
    else:
        write = partial(_write_parquet, names=names, rows=rows, numbers=numbers)
    atomically(target, write, ADVICE)


def _storable(value: Any) -> Any:
    """Write bytes of a name that are no UTF-8 as `\\udce9`; no file can hold them as text."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def _write_csv(path: Path, names: Sequence[str], rows: list[list[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows([_harmless(value) for value in row] for row in rows)


def _harmless(value: Any) -> Any:
    """Put a blank before a text that a spreadsheet would compute."""
    if isinstance(value, str) and value.startswith(FORMULA):
        return f" {value}"
    return value


def _write_parquet(
    path: Path, names: Sequence[str], rows: list[list[Any]], numbers: Mapping[str, str]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [
        pa.array([row[place] for row in rows], numbers.get(name, "string"))
        for place, name in enumerate(names)
    ]
    pq.write_table(pa.Table.from_arrays(columns, names=list(names)), path)
