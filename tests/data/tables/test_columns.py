"""What a column holds is decided by several values and by the files, or asked for."""

import pytest
from PIL import Image

from sogclr import UserError
from sogclr.data.open_pairs import open_pairs

COUNT = 8


@pytest.fixture
def files(tmp_path):
    """A folder of images under names with and without the suffix of an image."""
    (tmp_path / "img").mkdir()
    for i in range(COUNT):
        image = Image.new("RGB", (16, 16), (20 * i, 0, 0))
        for suffix in ("jpg", "PNG", "webp"):
            image.save(tmp_path / "img" / f"{i}.{suffix}")
        image.save(tmp_path / "img" / f"{i:06}", "PNG")
    return tmp_path


def _table(folder, names, *columns):
    lines = [",".join(row) for row in (names, *zip(*columns, strict=True))]
    (folder / "t.csv").write_text("\n".join(lines) + "\n")
    return folder / "t.csv"


TEXTS = [f"picture {i}" for i in range(COUNT)]


@pytest.mark.parametrize("name", ["photo", "src", "media", "anchor", "Image", "FILE_NAME"])
@pytest.mark.parametrize("path", ["img/{}.jpg", "./img/{}.PNG", "img/{:06}", "img/{}.webp"])
def test_paths_of_files_are_images_under_any_name(files, name, path):
    paths = [path.format(i) for i in range(COUNT)]
    for names in ((name, "text"), ("text", name)):
        columns = (paths, TEXTS) if names[0] == name else (TEXTS, paths)
        source = open_pairs(_table(files, names, *columns), names)
        assert source.kinds == ("image", "text")
        assert source.columns == (name, "text")
        assert len(source.a) == COUNT


@pytest.mark.parametrize("first", ["n/a", "", "unknown", "a dog"])
def test_a_first_row_without_an_image_changes_nothing(files, first):
    paths = [first, *(f"img/{i}.jpg" for i in range(1, COUNT))]
    source = open_pairs(_table(files, ("photo", "title"), paths, TEXTS))
    assert source.kinds == ("image", "text")
    assert len(source.a) == COUNT - 1
    assert "row 2" in source.left_out[0]


@pytest.mark.parametrize("suffix", ["tif", "heic", "bmp", "avif", "gif"])
def test_missing_files_with_the_suffix_of_an_image_are_no_texts(files, suffix):
    paths = [f"gone/{i}.{suffix}" for i in range(COUNT)]
    with pytest.raises(UserError, match=r"8 of 8 images of .* cannot be read, searched from"):
        open_pairs(_table(files, ("photo", "title"), paths, TEXTS))


@pytest.mark.parametrize(
    "value",
    [
        "https://host/{}.jpg", "http://host/image?id={}", "s3://bucket/{}", "gs://b/{}",
        "data:image/png;base64;x{}", "/9j/4AAQSkZJRg{}", "iVBORw0KGgo{}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["url", "image", "question"])
def test_urls_and_encoded_images_are_no_texts(files, value, name):
    values = [value.format(i) for i in range(COUNT)]
    with pytest.raises(UserError, match=r"holds URLs or encoded images .* save the images"):
        open_pairs(_table(files, (name, "caption"), values, TEXTS))


@pytest.mark.parametrize(
    "values",
    [
        ["img/000001", "img/000002", *(f"words {i}" for i in range(6))],
        ["a.jpg", "b.png", *(f"words {i}" for i in range(6))],
        [*(f"words {i}" for i in range(7)), "img/3.webp"],
    ],
)
def test_what_may_be_images_or_texts_is_asked_for(files, values):
    table = _table(files, ("thing", "caption"), values, TEXTS)
    with pytest.raises(UserError, match=r"'words 0'.*; rename the column to image or to text"):
        open_pairs(table)
    # The names are the answer.
    assert open_pairs(_table(files, ("text", "title"), values, TEXTS)).kinds == ("text", "text")
    with pytest.raises(UserError, match=r"images of .* cannot be read"):
        open_pairs(_table(files, ("image", "title"), values, TEXTS))


@pytest.mark.parametrize("name", ["caption", "text", "title"])
def test_paths_under_the_name_of_a_text_are_refused(files, name):
    paths = [f"img/{i:06}" for i in range(COUNT)]
    with pytest.raises(UserError, match=rf"{name} of .* holds paths of files .*'img/000000'"):
        open_pairs(_table(files, (name, "other"), paths, TEXTS))


def test_texts_that_mention_files_stay_texts(files):
    texts = [f"how to open file {i}" for i in range(99)] + ["what is in a.png"]
    source = open_pairs(_table(files, ("question", "answer"), texts, [f"a {t}" for t in texts]))
    assert source.kinds == ("text", "text")
    assert source.a.texts == texts


def test_the_same_column_twice_is_no_pair(files):
    with pytest.raises(UserError, match="text is named twice; a pair needs two columns"):
        open_pairs(_table(files, ("text", "title"), TEXTS, TEXTS), "text,text")


def test_values_that_are_no_paths_are_left_out_by_their_row(files):
    paths = [str(files / "img" / f"{i}.jpg") for i in range(4)]
    source = open_pairs({"image": [*paths[:2], 7, *paths[2:]], "caption": list("abcde")})
    assert len(source.a) == 4
    assert source.left_out == ["1 rows whose image cannot be read (row 3: no path but 7)"]


@pytest.mark.parametrize("names", [("image", "Caption", "caption"), ("Image", "IMAGE", "text")])
def test_usual_names_that_differ_in_case_alone_are_asked_for(files, names):
    columns = [[f"img/{i}.jpg" for i in range(COUNT)], TEXTS, [f"a {text}" for text in TEXTS]]
    if names[1] == "IMAGE":
        columns[1] = columns[0]
    path = _table(files, names, *columns)
    pair = [name for name in names if name.lower() == names[1].lower()]
    with pytest.raises(UserError, match=f"has the columns {' and '.join(pair)}; name the two"):
        open_pairs(path)
    assert open_pairs(path, (names[0], names[2])).columns == (names[0], names[2])


def test_other_names_may_differ_in_case_alone(files):
    path = _table(files, ("image", "a", "A", "caption"), TEXTS, TEXTS, TEXTS, TEXTS)
    with pytest.raises(UserError, match=r"images of .* cannot be read"):
        open_pairs(path)
