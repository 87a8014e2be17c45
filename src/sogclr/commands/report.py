"""`sogclr.report`: write the page of a run; at the end of training it may fail, not the run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..common.console import say
from ..common.environment import rank
from ..common.errors import UserError, one_line, require
from ..common.options import REPORT_SAMPLES, Device
from ..distributed.device import choose_device
from ..evaluation.pages.compose import compose_sections, open_data
from ..evaluation.pages.page import Page, group_by_reason
from ..evaluation.pages.record import RunRecord
from ..evaluation.pages.render import write_page
from ..runs.folder import Run
from .early_checks import require_writable

__all__ = ["report", "report_at_the_end"]


def report(
    run: str | Path,
    data: Any,
    *,
    out: str | Path | None,
    samples: int,
    columns: str | Sequence[str] | None,
    module: nn.Module | None,
    device: Device,
) -> Page:
    """See `sogclr.report`."""
    require(samples >= 3, "samples", f"must be at least 3, got {samples}")
    record = RunRecord.read(Run(run))
    target = _page_file(record.run, out)
    shown = open_data(record, data, columns)
    say(shown.about)
    kind = choose_device(device)
    sections = compose_sections(record, shown, most=samples, module=module, device=kind)
    page = write_page(target, f"Run {record.run.folder}", sections)
    for titles, reason in group_by_reason(page.left_out):
        say(f"left out: {titles} ({reason})")
    say(f"report: {page.file} ({page.file.stat().st_size / 1e6:.1f} MB; open it in a browser)")
    return page


def report_at_the_end(folder: Path, data: Any, module: nn.Module | None, device: Device) -> None:
    """Write the page of a run that is complete; whatever goes wrong is one line.

    The first of several processes writes it.

    Args:
        folder: Folder of the run.
        data: What the run was trained on.
        module: The user's own encoder or image tower, which stays as it is; or None.
        device: Device to embed on.
    """
    if rank() > 0:
        return
    try:
        record = RunRecord.read(Run(folder))
        shown = open_data(record, data, getattr(record.settings, "columns", None))
        kind = choose_device(device, alone=False)  # the others are done
        sections = compose_sections(record, shown, most=REPORT_SAMPLES, module=module, device=kind)
        page = write_page(record.run.folder / "report.html", f"Run {folder}", sections)
    except KeyboardInterrupt:
        say(f"the report was stopped; the run is complete: sogclr report {folder} writes it")
    except Exception as error:
        why = one_line(error) or type(error).__name__
        say(f"no report ({why}); the run is complete: sogclr report {folder} tries again")
    else:
        for line in (line for section in sections for line in section.lines):
            say(line)
        say(f"report: {page.file} (open it in a browser)")


def _page_file(run: Run, out: str | Path | None) -> Path:
    """Choose the HTML file to write.

    Raises:
        UserError: the file is not an HTML file, or cannot be written.
    """
    target = run.folder / "report.html" if out is None else Path(out)
    target = target / "report.html" if target.is_dir() else target
    target = target if target.suffix else target.with_suffix(".html")
    if target.suffix not in (".html", ".htm"):
        raise UserError(f"--out: a page is written as .html, not as {target.suffix}")
    require_writable(target)
    return target
