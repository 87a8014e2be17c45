"""Collect the counts of all kinds, and write them into a page on request (`make fuzz`)."""

import os
import re
from pathlib import Path

import pytest

KINDS = ("images", "tar shards", "tables", "files of runs", "argument lists", "calls of losses")
TABLE = re.compile(r"(?<=<!-- counts -->\n).*?(?=<!-- end of counts -->)", re.DOTALL)


@pytest.fixture(scope="session")
def counts():
    """The ends of all full fuzzes, by kind; written at the end if no kind is missing."""
    found = {}
    yield found
    target = os.environ.get("FUZZ_COUNTS")
    if target and found.keys() == {*KINDS}:
        lines = ["| kind | cases | how they end |", "|---|---:|---|"]
        for kind in KINDS:
            ends = ", ".join(f"{number:,} {end}" for end, number in found[kind].most_common())
            lines.append(f"| {kind} | {found[kind].total():,} | {ends} |")
        page = Path(target)
        text = "\n".join(lines) + "\n"
        page.write_text(TABLE.sub(lambda _: text, page.read_text(encoding="utf-8")), "utf-8")
