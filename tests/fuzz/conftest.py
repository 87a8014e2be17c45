"""Collect the counts of all kinds, and write them into a page on request (`make fuzz`)."""

import os
import re
from pathlib import Path

import pytest

KINDS = ("images", "tar shards", "tables", "files of runs", "argument lists", "calls of losses")
FLIPS = "flipped bits"
ENDS_OF_FLIPS = ("found", "harmless", "read wrongly")


@pytest.fixture(scope="session")
def counts():
    """The ends of all full fuzzes, by kind; written at the end if no kind is missing."""
    found = {}
    yield found
    target = os.environ.get("FUZZ_COUNTS")
    if target and found.keys() == {*KINDS, FLIPS}:
        page = Path(target)
        text = page.read_text(encoding="utf-8")
        text = put_table(text, "counts", ["kind", "cases", "how they end"], rows_of_kinds(found))
        text = put_table(text, FLIPS, ["file", *ENDS_OF_FLIPS], rows_of_flips(found[FLIPS]))
        page.write_text(text, encoding="utf-8")


def rows_of_kinds(found):
    for kind in KINDS:
        ends = ", ".join(f"{number:,} {end}" for end, number in found[kind].most_common())
        yield [kind, f"{found[kind].total():,}", ends]


def rows_of_flips(found):
    for name, ends in found.items():
        yield [name, *(f"{ends[end]:,}" for end in ENDS_OF_FLIPS)]


def put_table(page, name, head, rows):
    """Replace the table between the marks of this name in a page."""
    lines = [head, ["---"] * len(head), *rows]
    table = "".join("| " + " | ".join(cells) + " |\n" for cells in lines)
    marks = rf"(?<=<!-- {name} -->\n).*?(?=<!-- end of {name} -->)"
    page, number = re.subn(marks, lambda _: table, page, flags=re.DOTALL)
    assert number == 1
    return page
