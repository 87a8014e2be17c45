"""Damaged tables: no row vanishes without a word.

Behind the header, since another header names other columns.
"""

import csv
import io
import json

import pytest
from helpers.fuzzing import Content, damage, draw_damages, require_one_line, run_cases
from hypothesis import strategies as st

from sogclr import UserError
from sogclr.data.open_pairs import open_pairs
from sogclr.data.tables.read import read_table

KINDS = ("csv", "csv", "tsv", "jsonl", "parquet")
TEXTS = st.one_of(
    st.sampled_from(["plain", "with, comma", 'says "hi"', '"', "ünï", "two\nlines", "a\r\nb", "'"]),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12),
)
INSERTED = st.one_of(
    st.binary(min_size=1, max_size=3),
    st.sampled_from(
        [
            *(b'"', b'""', b'",', b',"', b'"\n', b'\n"', b"\n", b"\r", b",", b"\0", b"\\", b"\t"),
            *(
                b"{",
                b"[",
                b"}",
                b"]",
                b"[" * 5000,
                b"\xef\xbb\xbf",
                b"\xed\xa0\x80",
                b"\xe2\x80\xa8",
            ),
        ]
    ),
)


@st.composite
def draw_tables(draw):
    """The kind of a table, its rows, its bytes, and how many of these are the header."""
    kind = draw(st.sampled_from(KINDS))
    drawn = draw(st.lists(TEXTS, min_size=1, max_size=12))
    if kind == "tsv":  # which knows no quotes
        drawn = ["".join(c for c in text if c not in "\r\n\t") for text in drawn]
    rows = [(f"k{i}", f"{text} {i}") for i, text in enumerate(drawn)]
    names = ("text1", "text2")
    if kind == "parquet":
        import pyarrow as pa
        from pyarrow import parquet

        file = io.BytesIO()
        columns = zip(*rows, strict=True)
        parquet.write_table(pa.table(dict(zip(names, map(list, columns), strict=True))), file)
        return kind, rows, Content(file.getvalue()), 0
    text = io.StringIO(newline="")
    if kind == "jsonl":
        lines = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
        text.write("".join(line + "\n" for line in lines))
        return kind, rows, Content(text.getvalue().encode()), 0
    if kind == "tsv":
        text.write("".join("\t".join(row) + "\n" for row in (names, *rows)))
    else:
        quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
        csv.writer(text, quoting=quoting).writerows([names, *rows])
    content = text.getvalue().encode()
    return kind, rows, Content(content), content.index(b"\n") + 1


@pytest.fixture
def check(tmp_path):
    def check(table, damages):
        kind, rows, content, first = table
        path = tmp_path / f"t.{kind}"
        path.write_bytes(damage(content, damages, first))
        try:
            read = read_table(path)
        except UserError as error:
            require_one_line(str(error))
            return "refused"
        try:
            pairs = open_pairs(path)
        except UserError as error:
            require_one_line(str(error))
            return "refused"
        require_one_line(pairs.describe())
        if read.broken:
            assert "rows that cannot be read" in pairs.describe()
        said = bool(read.broken or read.notes or pairs.left_out)
        if not said and len(read.rows) < len(rows):
            # From the file, nobody can know that whole lines were cut or removed.
            assert any(each.kind in ("cut", "remove") for each in damages)
        if not said and kind == "parquet":
            assert list(zip(*read.columns.values(), strict=True)) == rows
        return "read, with the rows named" if said else "read whole"

    return check


@pytest.mark.parametrize("cases", [50, pytest.param(500, marks=pytest.mark.fuzz)])
def test_damaged_tables(check, counts, cases):
    ends = run_cases(check, cases, table=draw_tables(), damages=draw_damages(content=INSERTED))
    counts["tables"] = ends
    assert len(ends) == 3
