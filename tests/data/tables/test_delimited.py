"""No row of a CSV or TSV file is swallowed, eaten or changed without a word."""

import csv
import os

import pytest

from sogclr import UserError
from sogclr.data.open_images import require_undamaged
from sogclr.data.open_pairs import open_pairs
from sogclr.data.tables.read import read_table


def _write(path, rows, header="one,two"):
    content = header.encode() + b"\n"
    content += b"".join((row if isinstance(row, bytes) else row.encode()) + b"\n" for row in rows)
    path.write_bytes(content)
    return path


def _pairs(table):
    return list(zip(*table.columns.values(), strict=True))


@pytest.mark.parametrize("rows", [9, 3000, 30_000])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_quote_that_never_closes_breaks_its_own_row_alone(tmp_path, rows, place):
    broken = {"first": 0, "middle": rows // 2, "last": rows - 1}[place]
    lines = [f"key {i},value {i} {'x' * 40}" for i in range(rows)]
    lines[broken] = lines[broken].replace(",", ',"')
    table = read_table(_write(tmp_path / "t.csv", lines))
    assert table.broken == [(broken + 2, "a quote that never closes")]
    assert table.rows == [i + 2 for i in range(rows) if i != broken]
    assert _pairs(table) == [
        (f"key {i}", f"value {i} {'x' * 40}") for i in range(rows) if i != broken
    ]
    with pytest.raises(UserError, match=f"row {broken + 2}: a quote that never closes"):
        require_undamaged(open_pairs(tmp_path / "t.csv", "one,two").damaged, "refuse")


@pytest.mark.parametrize(
    ("closing", "kept"),
    [
        ('k7,"in quotes, 7"', True),  # a whole row, whose opening quote seems to close
        ('k7,value 7"', False),
        ('k7,value 7", and on', False),
        ('k7,5" and 7"" high', False),
        ('"k7",value 7', True),
    ],
)
def test_a_quote_that_another_row_closes_swallows_no_row_between_them(tmp_path, closing, kept):
    lines = [f"k{i},value {i}" for i in range(12)]
    lines[2] = 'k2,"value 2'
    lines[7] = closing
    table = read_table(_write(tmp_path / "t.csv", lines))
    assert [row for row, _ in table.broken] == ([4] if kept else [4, 9])
    lost = {2} if kept else {2, 7}
    assert table.columns["one"] == [f"k{i}" for i in range(12) if i not in lost]


def test_image_paths_prove_that_a_single_row_was_swallowed(tmp_path):
    lines = ["a.png,one", 'b.png,"two', 'c.png,three"', "d.png,four"]
    table = read_table(_write(tmp_path / "t.csv", lines, "image,caption"))
    assert table.columns["image"] == ["a.png", "d.png"]
    assert table.broken[0] == (3, "a quote that opens here closes in row 4")
    assert table.broken[1][0] == 4


def test_values_of_several_lines_are_whole_and_said(tmp_path):
    rows = [
        ("a", "one, two\nthree, four\nfive"),
        ("b", 'says "hi"\n\n,,\n'),
        ("c", "x" * 200_000 + "\ny"),
        ("d", "plain"),
    ]
    with open(tmp_path / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows([("one", "two"), *rows])
    table = read_table(tmp_path / "t.csv")
    assert _pairs(table) == rows
    assert (table.rows, table.broken) == ([2, 3, 4, 5], [])
    assert table.notes == ["3 rows have values of several lines (the first: row 2)"]
    source = open_pairs(tmp_path / "t.csv", "one,two")
    assert "3 rows have values of several lines" in source.describe()
    assert not source.damaged


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_values_are_text_as_they_are_written(tmp_path, suffix):
    values = [
        *("007", "true", "2024-01-01", "nan", "NA", "null", "None", "1e5", "-0", "0x1F", "FALSE"),
        *("12:30:00", "1,000", "∞", "+5", ".", "-", "N/A", "#N/A", "inf", "3.0", "1_000", "yes"),
        *("2024-01-01T00:00:00Z", "99999999999999999999", "0.1000000000000000055511151231257827"),
    ]
    with open(tmp_path / f"t.{suffix}", "w", newline="") as file:
        mark = {"csv": ",", "tsv": "\t"}[suffix]
        rows = [(value, value[::-1]) for value in values]
        csv.writer(file, delimiter=mark).writerows([("text1", "text2"), *rows])
    source = open_pairs(tmp_path / f"t.{suffix}")
    assert source.a.texts == values
    assert source.b.texts == [value[::-1] for value in values]
    assert not source.left_out


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize(
    "bad", [b"caf\xe9", b"\xed\xa0\x80", b"\xff", b"\xc0\xaf", "schön".encode("latin-1")]
)
def test_bytes_that_are_not_utf_8_break_their_own_row_alone(tmp_path, suffix, bad):
    mark = {"csv": b",", "tsv": b"\t"}[suffix]
    lines = [b"%d%svalue %d \xe7\x8b\x97" % (i, mark, i) for i in range(500)]
    lines[300] = b"300" + mark + bad
    path = _write(tmp_path / f"t.{suffix}", lines, mark.decode().join(("one", "two")))
    table = read_table(path)
    assert table.broken == [(302, "not UTF-8")]
    assert table.columns["two"] == [f"value {i} 狗" for i in range(500) if i != 300]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_of_any_system_are_rows(tmp_path, end):
    text = end.join(["one,two", "a,b", "", 'c,"d, e"', "f,g,h", "i,j"])
    (tmp_path / "t.csv").write_bytes(text.encode())
    table = read_table(tmp_path / "t.csv")
    assert _pairs(table) == [("a", "b"), ("c", "d, e"), ("i", "j")]
    assert table.rows == [2, 4, 6]
    assert table.broken == [(5, "3 fields where 2 are expected")]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("image,caption,caption", r"several columns with the name 'caption'; rename"),
        ("image, caption,caption ", r"several columns with the name 'caption'"),
        ("text1,text2,text1", r"several columns with the name 'text1'"),
        ("image;caption", "one column, 'image;caption'; two .* semicolons .* needs commas"),
        ("image\tcaption", r"one column, .*; tabs separate its values, but \.csv needs commas"),
        ("caption", "one column, 'caption'; two are needed$"),
        ('image,"caption', "row 1, the header, cannot be read .a quote that never closes"),
        (b"image,l\xe9gende".decode("latin-1").encode("latin-1"), "row 1, the header, .*not UTF-8"),
        ("i\0m\0,c\0a\0", "row 1, the header, cannot be read .a NUL character"),
    ],
)
def test_a_header_that_cannot_be_meant_is_refused_in_a_line(tmp_path, header, message):
    content = header if isinstance(header, bytes) else header.encode()
    (tmp_path / "t.csv").write_bytes(content + b"\na.png,x,y\nb.png,z,w\n")
    with pytest.raises(UserError, match=message) as caught:
        read_table(tmp_path / "t.csv")
    assert r"\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_utf_16_is_named(tmp_path, encoding):
    text = "image,caption\na.png,x\n"
    text = text if encoding == "utf-16" else "\ufeff" + text
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    with pytest.raises(UserError, match="is UTF-16; save it as UTF-8"):
        read_table(tmp_path / "t.csv")


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize(
    "row",
    [("a dog runs", "ein Hund rennt"), ("dog", "Hund"), ("img/0.png", "a picture"), ("1", "2")],
)
def test_a_first_row_that_may_be_data_is_asked_for(tmp_path, suffix, row):
    mark = {"csv": ",", "tsv": "\t"}[suffix]
    path = _write(tmp_path / f"t.{suffix}", [mark.join(("x", "y"))] * 3, mark.join(row))
    with pytest.raises(UserError, match=r"a header, .* if it is a pair, put a header above"):
        open_pairs(path)
    if row[1] == "Hund":
        assert open_pairs(path, ",".join(row)).columns == row


def test_columns_without_a_name_are_no_obstacle(tmp_path):
    """As pandas writes an index."""
    lines = [",text1,text2,", "0,a,b,", "1,c,d,"]
    path = _write(tmp_path / "t.csv", lines[1:], lines[0])
    assert list(read_table(path).columns) == ["column 1", "text1", "text2", "column 4"]
    assert open_pairs(path).b.texts == ["b", "d"]


def test_a_table_of_mostly_broken_rows_is_refused(tmp_path):
    path = _write(tmp_path / "t.csv", ["a,b,c", "d", "e,f"])
    with pytest.raises(UserError, match=r"2 of 3 rows .* row 2, 3 fields where 2 are expected"):
        read_table(path)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, suffix):
    os.mkfifo(tmp_path / f"fifo.{suffix}")
    (tmp_path / f"zero.{suffix}").symlink_to("/dev/zero")
    for name in ("fifo", "zero"):
        with pytest.raises(UserError, match=rf"{name}\.{suffix} cannot .* not a file"):
            open_pairs(tmp_path / f"{name}.{suffix}")


@pytest.mark.parametrize(
    ("suffix", "row", "why"),
    [
        ("tsv", 'x\t"one, two"', "TSV knows no quotes"),
        ("tsv", '"a ""b"" c"\ty', "TSV knows no quotes"),
        ("csv", 'x, "one"', "there is a blank in front of them"),
    ],
)
def test_quotes_that_are_read_as_a_part_of_values_are_said(tmp_path, suffix, row, why):
    mark = {"csv": ",", "tsv": "\t"}[suffix]
    plain = mark.join(("a", 'says "hi"'))
    path = _write(tmp_path / f"t.{suffix}", [plain, row], mark.join(("text1", "text2")))
    source = open_pairs(path)
    assert len(source.a) == 2
    (note,) = source.notes
    assert note.startswith("1 rows have quotes around a value")
    assert note.endswith(f"since {why} (the first: row 3)")


@pytest.mark.parametrize("again", ["text1,text2", "\ufefftext1,text2", '"text1","text2"'])
def test_the_header_of_a_file_that_was_appended_is_no_pair(tmp_path, again):
    path = _write(tmp_path / "t.csv", ["a,b", again, "c,d"], "text1,text2")
    table = read_table(path)
    assert _pairs(table) == [("a", "b"), ("c", "d")]
    assert table.broken == [(3, "the header again")]
