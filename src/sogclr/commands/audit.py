"""`sogclr.audit`: measure, tell, draw."""

from dataclasses import asdict
from math import expm1
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import nn

from ..auditing.measure import Audit, audit_of, shown
from ..auditing.picture import draw
from ..auditing.subject import subject_of
from ..common.console import result, say
from ..common.errors import UserError
from ..common.options import Device
from ..runs.folder import atomically, pretty

__all__ = ["audit"]

ORIGINS = {
    "batch": "the batch (DCL)",
    "batch with positive": "the batch, with the positive",
    "table": "one number a sample (SogCLR)",
    "table at rest": "the same, before the step's own",
}


def audit(
    run: str | Path | nn.Module,
    data: Any,
    *,
    samples: int,
    views: int | None,
    batch_size: int | None,
    temperature: float | None,
    out: str | Path | None,
    module: nn.Module | None,
    device: Device,
) -> Audit:
    """See `sogclr.audit`."""
    picture = None if out is None else _picture(Path(out))
    subject = subject_of(
        run,
        data,
        samples=samples,
        views=views,
        batch_size=batch_size,
        temperature=temperature,
        module=module,
        device=device,
    )
    found = audit_of(subject)
    result(_table(found))
    result(found.summary)
    result(_explain(found))
    picture = picture or (subject.folder or Path()) / "audit.png"
    numbers = picture.with_suffix(".json")
    atomically(numbers, lambda path: path.write_text(pretty(asdict(found))))
    atomically(picture, lambda path: draw(found, subject.name, path))
    say(f"picture: {picture}; all numbers: {numbers}")
    return found


def _picture(out: Path) -> Path:
    """A file to write, from a file or folder that was named."""
    target = out / "audit.png" if out.is_dir() else out
    target = target if target.suffix else target.with_suffix(".png")
    if target.suffix != ".png":
        raise UserError(f"out: a picture is written as .png, not as {target.suffix}")
    if not target.parent.is_dir():
        raise UserError(f"out: there is no folder {target.parent}; make it first")
    return target


def _table(found: Audit) -> Table:
    table = Table()
    table.add_column("normalizers from")
    for name in ("batch", "off from F", "off from F2"):
        table.add_column(name, justify="right")
    for row in sorted(found.rows, key=lambda row: list(ORIGINS).index(row.estimator)):
        batch = f"{row.batch:,}" if row.batch else "-"
        table.add_row(ORIGINS[row.estimator], batch, shown(row.v1), shown(row.v2))
    return table


def _explain(found: Audit) -> str:
    return (
        f"Of the expected gradient by the embeddings of {found.samples:,} samples, "
        f"{found.views} views each, tau {found.temperature:.3g}. F averages the logarithm of a "
        "normalizer over views, F2, which one number a sample estimates, takes the logarithm of "
        f"the average; their gradients are {found.distance:.1%} apart. The table's numbers are too "
        f"{'large' if found.lag.mean > 0 else 'small'} by {abs(expm1(found.lag.mean)):.1%} on "
        f"average, with a spread of {found.lag.spread:.2f} (in log u)."
    )
