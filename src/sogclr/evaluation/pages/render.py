"""Turn sections into one HTML file, in which whatever came with the data is text."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from ...common.printable import printable
from ...runs.stored import atomically
from .page import Page, Section, group_by_reason

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["make_environment", "render_page", "write_page"]

ADVICE = "make room on the disk, or name another --out"


def make_environment() -> "Environment":
    """Make what renders the templates of this package; all that they insert is shown as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("sogclr.evaluation.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_as_text,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render_page(title: str, sections: list[Section]) -> str:
    """Render sections as HTML that needs no other file and runs no script."""
    shown = [section for section in sections if not section.missing]
    left_out = group_by_reason({each.title: each.missing for each in sections if each.missing})
    template = make_environment().get_template("report.html")
    return template.render(title=title, sections=shown, left_out=left_out)


def write_page(target: Path, title: str, sections: list[Section]) -> Page:
    """Write a page whole or not at all.

    Raises:
        UserError: the disk is full or fails.
    """
    html = render_page(title, sections)
    atomically(target, lambda path: path.write_text(html, encoding="utf-8"), ADVICE)
    return Page(
        target,
        [section.title for section in sections if not section.missing],
        {section.title: section.missing for section in sections if section.missing},
    )


def _as_text(value: Any) -> Any:
    r"""Write control characters, line breaks and halves of characters of a name as `\n`."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value)
    return value
