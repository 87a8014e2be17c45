"""A header that lacks the columns of pairs is refused before the rows behind it are read."""

import pytest

import sogclr
from sogclr import UserError
from sogclr.data.open_pairs import open_pairs, require_columns


def write(path, names, rows):
    """A table whose rows cannot be read, so that a reader of rows stumbles over them."""
    if path.suffix == ".parquet":
        arrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(arrow.table({name: ["x"] * len(rows) for name in names}), path)
        content = bytearray(path.read_bytes())
        content[4:40] = bytes(36)  # the pages; the names stand at the end
        path.write_bytes(content)
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        path.write_text("\n".join([mark.join(names), *rows]) + "\n")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize(
    ("names", "columns", "message"),
    [
        (("a", "b", "c"), None, "cannot tell which two columns .* it has a, b, c"),
        (("image", "caption"), "image,words", "has no column 'words'; it has image, caption"),
        (("question", "answer"), ("question", "image"), "has no column 'image'"),
        (("image", "caption"), "image", "two names with a comma"),
        (("image", "caption"), "image,image", "named twice"),
    ],
)
def test_columns_are_looked_for_in_the_header(tmp_path, suffix, names, columns, message):
    path = write(tmp_path / f"table{suffix}", names, ['"'] * 5)
    for check in (require_columns, sogclr_align(tmp_path)):
        with pytest.raises(UserError, match=rf"^--columns: .*{message}"):
            check(path, columns)
    if suffix != ".tsv":
        with pytest.raises(UserError, match=r"^data: .* cannot be read|: 5 of 5 rows"):
            open_pairs(write(path, ("image", "caption"), ['"'] * 5))


def sogclr_align(folder):
    return lambda path, columns: sogclr.align(path, folder / "run", columns=columns, device="cpu")


def test_what_has_no_header_is_not_checked(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"image": "a.png"}\n{"image": "b.png", "caption": "b"}\n')
    for data in (tmp_path / "t.jsonl", {"x": []}, tmp_path, "hf:a/b.csv", tmp_path / "{0..9}.tar"):
        require_columns(data, "image,caption")


@pytest.mark.parametrize(
    ("names", "message"),
    [(("a", "b", "c"), "cannot tell"), (("image",), "one column"), (("image", "image"), "several")],
)
def test_columns_of_what_is_held_back_are_checked_before_training_data_is_read(
    tmp_path, names, message
):
    train = write(tmp_path / "train.csv", ("image", "caption"), ['"'] * 5)
    val = write(tmp_path / "val.csv", names, ["1"])
    with pytest.raises(UserError, match=rf"val\.csv.*{message}|{message}.*val\.csv"):
        sogclr.align(train, tmp_path / "run", val=val, device="cpu")


def test_pairs_of_other_kinds_cannot_be_held_back(pairs, sentences, tmp_path):
    columns = {"sentence1": ["a", "b"], "sentence2": ["c", "d"]}
    cases = [(pairs, columns, "text and text"), (sentences, pairs, "image and text")]
    for data, val, kinds in cases:
        with pytest.raises(UserError, match=rf"^--val: .* holds pairs of {kinds}, but the train"):
            sogclr.align(data, tmp_path / "run", val=val, epochs=1, device="cpu")
