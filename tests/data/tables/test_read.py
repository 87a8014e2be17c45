import json
import os

import pytest
from PIL import Image

from sogclr import UserError
from sogclr.data.open_pairs import open_pairs
from sogclr.data.tables.read import is_table, read_table


def _written(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def _columns(table):
    return {name: list(values) for name, values in table.columns.items()}


def test_csv_has_commas_quotes_and_line_breaks_inside_of_values(tmp_path):
    text = 'image,caption\na.png,"one, two"\nb.png,"says ""hi"""\nc.png,"two\nlines"\nd.png,plain\n'
    table = read_table(_written(tmp_path / "t.csv", text))
    assert _columns(table) == {
        "image": ["a.png", "b.png", "c.png", "d.png"],
        "caption": ["one, two", 'says "hi"', "two\nlines", "plain"],
    }
    assert table.rows == [2, 3, 4, 5]
    assert table.root == tmp_path


def test_line_breaks_inside_of_values_may_lie_anywhere_in_a_large_file(tmp_path):
    """Larger than the blocks in which it is read."""
    captions = [f"caption {i}\n{'and on ' * 8}\nto the end" for i in range(25_000)]
    text = "".join(f'{i}.png,"{caption}"\n' for i, caption in enumerate(captions))
    table = read_table(_written(tmp_path / "t.csv", "image,caption\n" + text))
    assert _columns(table)["caption"] == captions
    assert not table.broken


def test_broken_rows_of_a_csv_are_listed_and_the_others_keep_their_numbers(tmp_path):
    text = 'image,caption\na.png,"x\ny"\nb.png,one,two\nc.png,fine\nd.png\ne.png,fine\n'
    table = read_table(_written(tmp_path / "t.csv", text))
    assert _columns(table)["image"] == ["a.png", "c.png", "e.png"]
    assert table.rows == [2, 4, 6]
    assert table.broken == [
        (3, "3 fields where 2 are expected"),
        (5, "1 fields where 2 are expected"),
    ]


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    csv = read_table(_written(tmp_path / "t.csv", "\ufeffimage,caption\na.png,x\n"))
    jsonl = read_table(_written(tmp_path / "t.jsonl", '\ufeff{"image": "a.png", "caption": "x"}\n'))
    assert _columns(csv) == _columns(jsonl) == {"image": ["a.png"], "caption": ["x"]}


def test_tsv_knows_no_quotes(tmp_path):
    text = 'image\tcaption\na.png\tsays "hi\nb.png\t"quoted", twice\nc.png\tone\ttwo\n'
    table = read_table(_written(tmp_path / "t.tsv", text))
    assert _columns(table)["caption"] == ['says "hi', '"quoted", twice']
    assert table.broken == [(4, "3 fields where 2 are expected")]


def test_jsonl_keeps_lists_and_lists_broken_lines(tmp_path):
    lines = ['{"image": "a.png", "caption": ["x", "y"]}', "", "{", "[1]", '{"image": "b.png"}']
    table = read_table(_written(tmp_path / "t.jsonl", "\n".join(lines)))
    assert _columns(table) == {"image": ["a.png", "b.png"], "caption": [["x", "y"], None]}
    assert table.rows == [1, 5]
    assert [row for row, _ in table.broken] == [3, 4]
    assert table.broken[1][1] == "not an object"


def test_parquet_is_read_with_lists(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"image": ["a.png", "b.png"], "caption": [["x", "y"], ["z"]]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert _columns(table) == columns
    assert table.rows == [1, 2]


def test_a_mapping_of_lists_is_a_table():
    columns = {"one": ["x", "y"], "two": ["z", "w"]}
    table = read_table(columns)
    assert (_columns(table), table.rows) == (columns, [1, 2])
    with pytest.raises(UserError, match=r"columns differ in length: .*'two': 1"):
        read_table({"one": ["x", "y"], "two": ["z"]})


@pytest.fixture
def photos(tmp_path):
    """A data set with images inside, and the paths they are from."""
    import datasets

    datasets.disable_progress_bars()
    paths = []
    for i in range(3):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.new("RGB", (8, 8), (80 * i, 0, 0)).save(paths[-1])
    columns = {"photo": paths, "caption": [["x", "y"], ["z"], ["w"]]}
    return datasets.Dataset.from_dict(columns).cast_column("photo", datasets.Image())


def test_a_saved_data_set_is_a_table_whose_images_are_known_as_such(photos, tmp_path):
    photos.save_to_disk(tmp_path / "saved")
    for table in (read_table(tmp_path / "saved"), read_table(photos)):
        assert table.images == ("photo",)
        assert list(table.columns) == ["photo", "caption"]
        assert list(table.columns["caption"]) == [["x", "y"], ["z"], ["w"]]
        assert table.rows == [1, 2, 3]


def test_of_splits_train_is_taken_else_the_first(photos, tmp_path):
    from datasets import DatasetDict

    one, two = photos.select([0]), photos.select([1, 2])
    with_train = DatasetDict({"validation": one, "train": two})
    with_train.save_to_disk(tmp_path / "saved")
    for data in (with_train, tmp_path / "saved"):
        table = read_table(data)
        assert len(table.rows) == 2
        assert "(train)" in table.name
    assert len(read_table(DatasetDict({"validation": one, "test": two})).rows) == 1


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "", r"t\.csv is empty"),
        ("t.csv", "\n\n", r"t\.csv is empty; its first row must name the columns"),
        ("t.csv", "image,caption\n", r"t\.csv has no rows$"),
        ("t.csv", "image,caption\na,b,c\n", r"1 of 1 rows of .* \(the first: row 2, 3 fields"),
        ("t.tsv", "image\tcaption\n", "has no rows"),
        ("t.jsonl", "", "has no rows"),
        ("t.jsonl", "\n{\n", r"1 of 1 rows of .* cannot be read \(the first: row 2, Expecting"),
        ("t.jsonl", b'{"image": "\xe9"}', r"1 of 1 rows .* \(the first: row 1, not UTF-8"),
        ("t.parquet", "no parquet", r"t\.parquet cannot be read"),
        ("t.xlsx", "?", r"t\.xlsx is not a table; \.csv, \.tsv, \.jsonl, \.parquet can be read"),
    ],
)
def test_what_is_not_a_table_with_rows_says_so(tmp_path, name, text, message):
    with pytest.raises(UserError, match=message):
        read_table(_written(tmp_path / name, text))


def test_missing_tables_and_other_folders_say_so(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv does not exist; give a table"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(UserError, match="is a folder that datasets did not save"):
        read_table(tmp_path)
    with pytest.raises(UserError, match="has no rows"):
        read_table({})


def test_without_a_network_the_hub_says_what_to_do():
    with pytest.raises(UserError) as caught:
        read_table("hf:nobody/nothing")
    message = str(caught.value)
    assert message.startswith("data: nobody/nothing could not be loaded from the hub")
    assert "dataset.save_to_disk(FOLDER)" in message
    assert r"\n" not in message


def test_tables_are_told_from_images(photos, make_folder, tmp_path):
    photos.save_to_disk(tmp_path / "saved")
    tables = ["t.csv", tmp_path / "t.jsonl", "hf:a/b", tmp_path / "saved", {"a": []}, photos]
    images = ["digits", make_folder(), str(make_folder()), ([1], [2])]
    assert [is_table(data) for data in (*tables, *images)] == [True] * 6 + [False] * 4


def test_rows_of_jsonl_may_have_other_columns_than_the_first(tmp_path):
    records = [{"image": "a.png"}, {"image": "b.png", "caption": "x"}]
    table = read_table(_written(tmp_path / "t.jsonl", "\n".join(map(json.dumps, records))))
    assert _columns(table) == {"image": ["a.png", "b.png"], "caption": [None, "x"]}


def test_parquet_names_the_row_that_is_not_utf_8(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for bad in (b"caf\xe9", b"\xff", b"\xed\xa0\x80"):
        values = [b"a", b"b", bad, b"d"]
        lengths = [0]
        for value in values:
            lengths.append(lengths[-1] + len(value))
        buffers = [None, pa.array(lengths, pa.int32()).buffers()[1], pa.py_buffer(b"".join(values))]
        column = pa.Array.from_buffers(pa.string(), 4, buffers)
        pq.write_table(pa.table({"text1": column, "text2": list("wxyz")}), tmp_path / "t.parquet")
        table = read_table(tmp_path / "t.parquet")
        assert _columns(table) == {"text1": ["a", "b", "d"], "text2": ["w", "x", "z"]}
        assert (table.rows, table.broken) == ([1, 2, 4], [(3, "not UTF-8")])


def test_parquet_with_equal_names_is_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for names in (("caption", "caption"), ("image", "caption", "image")):
        arrays = [pa.array(["x", "y"])] * len(names)
        pq.write_table(pa.Table.from_arrays(arrays, names=names), tmp_path / "t.parquet")
        with pytest.raises(UserError, match=f"several columns with the name '{names[0]}'"):
            read_table(tmp_path / "t.parquet")


@pytest.mark.parametrize("damage", ["cut", "middle", "no footer"])
def test_a_damaged_parquet_file_is_refused_in_one_line(tmp_path, damage):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "t.parquet"
    columns = {"text1": [f"a {i}" for i in range(500)], "text2": [f"b {i}" for i in range(500)]}
    pq.write_table(pa.table(columns), path)
    content = bytearray(path.read_bytes())
    if damage == "middle":
        content[100:2000] = bytes(1900)
    path.write_bytes({"cut": content[:3000], "no footer": content[:-8]}.get(damage, content))
    with pytest.raises(UserError, match=r"t\.parquet cannot be read \(") as caught:
        read_table(path)
    assert r"\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x" * 5000 + ".csv", "." * 300, "a\0b.csv"])
def test_paths_that_cannot_exist_are_no_traceback(name):
    with pytest.raises(UserError, match="does not exist"):
        read_table(name)


def test_a_folder_that_datasets_saved_may_be_damaged_or_hold_a_fifo(tmp_path):
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot be read \("):
        read_table(tmp_path)
    os.mkfifo(tmp_path / "data.arrow")
    with pytest.raises(UserError, match=r"data\.arrow cannot .* a named pipe, not a file"):
        read_table(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "zeros", "not utf-8"])
def test_a_damaged_data_set_is_refused_in_one_line(tmp_path, damage):
    import datasets

    datasets.disable_progress_bars()
    texts = {"text1": [f"a text {i}" for i in range(300)], "text2": [f"b {i}" for i in range(300)]}
    datasets.Dataset.from_dict(texts).save_to_disk(tmp_path / "saved")
    (file,) = (tmp_path / "saved").glob("*.arrow")
    content = file.read_bytes()
    changed = {
        "cut": content[: len(content) // 2],
        "zeros": content[:400] + bytes(len(content) - 400),
        "not utf-8": content.replace(b"a text 7", b"\xff text 7"),
    }
    file.write_bytes(changed[damage])
    with pytest.raises(UserError, match=r"cannot be read \("):
        open_pairs(tmp_path / "saved")


def test_tables_of_other_libraries_are_refused_in_one_line():
    import datasets
    import pandas
    import pyarrow

    columns = {"text1": ["a", "b"], "text2": ["c", "d"]}
    for data in (pandas.DataFrame(columns), pyarrow.table(columns), [("a", "c")], None):
        with pytest.raises(UserError, match=f"give the path .* not {type(data).__name__}"):
            open_pairs(data)
    stream = datasets.Dataset.from_dict(columns).to_iterable_dataset()
    with pytest.raises(UserError, match="is read as a stream; load it without"):
        open_pairs(stream)
