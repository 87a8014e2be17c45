"""Of a damaged table, no row is lost without a word, and no damage is a traceback."""

import csv
import io
import json
import random
from contextlib import suppress

import pytest

from sogclr import UserError
from sogclr.data.open_pairs import open_pairs
from sogclr.data.tables.read import read_table

INSERTED = (
    b'"', b",", b"\n", b"\r", b"\0", b"\xff", b'""', b'",', b',"', b'"\n', b'\n"', b"\xef\xbb\xbf",
    b"\xed\xa0\x80", b"\\", b"'", b"\t", b"\xe2\x80\xa8", b"{", b"[", b"}",
)  # fmt: skip


def _make_rows(rng, kind):
    """Rows with a key each, and texts that need quotes or escapes."""
    texts = ["plain", "with, comma", 'says "hi"', "ünï"]
    if kind == "csv":
        texts.append("two\nlines")
    width = rng.choice([2, 2, 3])
    count = rng.choice([3, 12, 60])
    return [
        [f"k{i}", *(f"{rng.choice(texts)} {i}" for _ in range(width - 1))] for i in range(count)
    ]


def _write(rng, kind, rows):
    names = ["text1", "text2", "other"][: len(rows[0])]
    file = io.StringIO(newline="")
    if kind == "jsonl":
        file.write("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))
    elif kind == "tsv":
        file.write("".join("\t".join(row) + "\n" for row in [names, *rows]))
    else:
        quoting = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
        csv.writer(file, quoting=quoting).writerows([names, *rows])
    return bytearray(file.getvalue().encode())


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_what_is_inserted_hides_no_row(tmp_path, kind):
    rng = random.Random(kind)
    refused = damaged = 0
    for _ in range(150):
        rows = _make_rows(rng, kind)
        content = _write(rng, kind, rows)
        first = 0 if kind == "jsonl" else content.index(b"\n") + 1  # behind the header
        for _ in range(rng.choice([1, 1, 2, 5])):
            place = rng.randrange(first, len(content) + 1)
            content[place:place] = rng.choice(INSERTED)
        (tmp_path / f"t.{kind}").write_bytes(content)
        try:
            table = read_table(tmp_path / f"t.{kind}")
        except UserError:
            refused += 1
            continue
        damaged += bool(table.broken)
        if len(table.rows) < len(rows):
            assert table.broken or table.notes, bytes(content)
    assert refused + damaged > 50


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_bytes_cut_or_changed_are_no_traceback(tmp_path, kind):
    rng = random.Random(kind)
    read = 0
    for _ in range(150):
        content = _write(rng, kind, _make_rows(rng, kind))
        for _ in range(3):
            place = rng.randrange(len(content))
            if rng.random() < 0.5:
                content[place] = rng.randrange(256)
            else:
                del content[place : place + rng.choice([1, 2, 30])]
        (tmp_path / f"t.{kind}").write_bytes(content)
        with suppress(UserError):
            read += len(open_pairs(tmp_path / f"t.{kind}").a) > 0
    assert read > 50
