"""`sogclr.audit`: measure, print and draw."""

import re
from dataclasses import asdict
from math import expm1
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import nn

from ..auditing.measure import audit_subject
from ..auditing.measured import LABELS, Audit, format_bias
from ..auditing.picture import draw_audit
from ..auditing.subject import open_subject
from ..common.console import result, say
from ..common.errors import require
from ..common.options import Device
from ..runs.stored import atomically, format_json
from .early_checks import picture_file

__all__ = ["audit"]


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
    require(samples >= 2, "samples", f"must be at least 2, got {samples}")
    picture = None if out is None else picture_file(Path(out), "audit.png")
    subject = open_subject(
        run,
        data,
        samples=samples,
        views=views,
        batch_size=batch_size,
        temperature=temperature,
        module=module,
        device=device,
    )
    measured = audit_subject(subject)
    picture = picture or (subject.folder or Path()) / "audit.png"
    numbers = picture.with_suffix(".json")
    advice = "make room on the disk, or name another --out"
    text = format_json(asdict(measured))
    atomically(numbers, lambda path: path.write_text(text, encoding="utf-8"), advice)
    atomically(picture, lambda path: draw_audit(measured, subject.name, path), advice)
    for sentence in re.split(r"(?<=\.) (?=[A-Z])", measured.summary):
        result(sentence)
    result(_error_table(measured))
    result(_explain(measured))
    say(f"picture: {picture}; all numbers: {numbers}")
    return measured


def _error_table(measured: Audit) -> Table:
    table = Table()
    table.add_column("normalizers from")
    for name in ("batch", "error from F", "error from F2"):
        table.add_column(name, justify="right")
    for row in sorted(measured.rows, key=lambda row: list(LABELS).index(row.estimator)):
        batch = f"{row.batch:,}" if row.batch else "-"
        table.add_row(LABELS[row.estimator], batch, format_bias(row.v1), format_bias(row.v2))
    return table


def _explain(measured: Audit) -> str:
    lag = measured.lag
    return (
        f"Of the expected gradient by the embeddings of {measured.samples:,} samples, "
        f"{measured.views} views each, tau {measured.temperature:.3g}. F averages the logarithm "
        "of a normalizer over views; F2, which one number per sample estimates, takes the "
        f"logarithm of the average. Their gradients are {measured.distance:.1%} apart. The "
        f"table's numbers are too {'large' if lag.mean > 0 else 'small'} by "
        f"{abs(expm1(lag.mean)):.1%} on average, with a spread of {lag.spread:.2f} (in log u)."
        f"{_explain_coupling(measured)}"
    )


def _explain_coupling(measured: Audit) -> str:
    coupling = measured.coupling
    if coupling is None:
        return ""
    return (
        f" ĝ of a batch of {coupling.batch:,}, embedded together, is {coupling.ratio:.3f} ± "
        f"{coupling.uncertainty:.3f} of what rows of other batches give (1 if batch statistics "
        "play no part)."
    )
