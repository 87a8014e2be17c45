import json

import pytest

from sogclr import UserError
from sogclr.data.open_pairs import open_pairs
from sogclr.data.tables.read import read_table


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"one": "caf\xe9", "two": "x"}', "not UTF-8"),
        (b'{"one": "\xed\xa0\x80", "two": "x"}', "not UTF-8"),
        (b"[" * 100_000, "too deep"),
        (b'{"one": ' * 50_000, "too deep"),
        (b'{"one": "a", "two": "b", "one": "c"}', "the name 'one' occurs twice"),
        (b'{"one": {"x": 1, "x": 2}, "two": "b"}', "the name 'x' occurs twice"),
        (b'"text"', "not an object"),
        (b'{"one": "x", "two": "y"} {"one": "z"}', "Extra data: line 1 column 26 (char 25)"),
        (b'{"one": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
    ],
)
def test_a_broken_line_is_named_and_the_others_are_read(tmp_path, line, reason):
    lines = [json.dumps({"one": f"a {i}", "two": f"b {i}"}).encode() for i in range(40)]
    lines[30] = line
    (tmp_path / "t.jsonl").write_bytes(b"\n".join(lines))
    table = read_table(tmp_path / "t.jsonl")
    ((row, found),) = table.broken
    assert row == 31
    assert found.startswith(reason)
    assert table.columns["one"] == [f"a {i}" for i in range(40) if i != 30]


@pytest.mark.parametrize("name", ["a\0.png", "\ud800.png", "img/\udfff", "\0"])
def test_paths_that_no_file_can_have_are_left_out_by_their_row(make_folder, name):
    folder = make_folder()
    found = sorted(folder.rglob("*.png"))[:4]
    rows = [{"image": str(path), "caption": f"text {i}"} for i, path in enumerate(found)]
    rows.insert(2, {"image": name, "caption": "none"})
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = open_pairs(folder / "t.jsonl")
    assert len(source.a) == 4
    (told,) = source.left_out
    assert told.startswith("1 rows whose image cannot be read (row 3: ")
    assert source.damaged


def test_nul_characters_in_texts_are_left_out_by_their_row():
    source = open_pairs({"text1": ["a", "b\0", "c"], "text2": ["x", "y", ["z", "\0"]]})
    assert source.a.texts == ["a"]
    assert source.left_out == [
        "2 rows that cannot be read (row 3: a NUL character in text2; row 2: a NUL character in "
        "text1)"
    ]
    assert source.damaged


@pytest.mark.parametrize("data", [{"a": "abc", "b": "def"}, {"a": iter("ab"), "b": ["c", "d"]}, 7])
def test_what_is_no_list_is_refused(data):
    with pytest.raises(UserError, match=r"must be a list, not|give the path of a table"):
        open_pairs(data)


@pytest.mark.parametrize("text", ["cut emoji \ud83d", "\udce9 first", "in\ud800side"])
def test_halves_of_characters_are_said(tmp_path, text):
    rows = [{"text1": f"a {i}", "text2": f"b {i}"} for i in range(5)]
    rows[3]["text2"] = text
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = open_pairs(tmp_path / "t.jsonl")
    assert source.b.texts[3] == text.encode(errors="replace").decode()
    note = "1 rows whose text2 has half a character, read as ? (row 4)"
    assert list(source.notes) == [note]
    assert note in source.describe()
    assert not source.damaged
