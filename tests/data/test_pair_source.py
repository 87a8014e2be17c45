import io
import shutil
from collections import Counter, defaultdict

import numpy as np
import pytest
from helpers.pictures import NO_IMAGE
from PIL import Image

from sogclr import UserError
from sogclr.data.batches.schedule import ShuffledSchedule
from sogclr.data.decode import UnreadableImageError
from sogclr.data.open_pairs import are_pairs, open_pairs
from sogclr.data.randomness import stable_id


@pytest.fixture
def write(tmp_path):
    """A table in a folder of 20 images, written from rows."""

    def write(rows, names=("image", "caption"), name="pairs"):
        (tmp_path / name / "img").mkdir(parents=True, exist_ok=True)
        for i in range(20):
            Image.new("RGB", (12, 10), (i, 9 * i, 0)).save(tmp_path / name / "img" / f"{i}.png")
        lines = ["\t".join(names), *("\t".join(row) for row in rows)]
        (tmp_path / name / "t.tsv").write_text("\n".join(lines) + "\n")
        return tmp_path / name / "t.tsv"

    return write


def _rows(count=20, captions=1):
    return [(f"img/{i}.png", f"caption {k} of {i}") for i in range(count) for k in range(captions)]


def _texts_of(source):
    """The texts of each sample of side a, by its name."""
    return {
        source.a.names[i]: [
            source.b.texts[j] for j in source.partners[source.start[i] : source.start[i + 1]]
        ]
        for i in range(len(source.a))
    }


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (("image", "caption"), ("image", "caption")),
        (("title", "filepath"), ("filepath", "title")),
        (("file_name", "text", "split"), ("file_name", "text")),
        (("caption", "anything"), ("anything", "caption")),
    ],
)
def test_columns_with_images_are_guessed(write, names, chosen):
    image, text = names.index(chosen[0]), names.index(chosen[1])
    rows = []
    for row in _rows(4):
        cells = [""] * len(names)
        cells[image], cells[text] = row
        rows.append(cells)
    source = open_pairs(write(rows, names))
    assert source.columns == chosen
    assert source.kinds == ("image", "text")
    assert _texts_of(source) == {f"img/{i}.png": [f"caption 0 of {i}"] for i in range(4)}


@pytest.mark.parametrize(
    "names",
    [
        ("text1", "text2"), ("sentence1", "sentence2"), ("anchor", "positive"),
        ("question", "answer"), ("german", "english"),
    ],
)  # fmt: skip
def test_columns_with_two_texts_are_guessed(names):
    source = open_pairs({names[0]: ["x", "y"], names[1]: ["z", "w"]})
    assert (source.columns, source.kinds) == (names, ("text", "text"))
    assert _texts_of(source) == {"x": ["z"], "y": ["w"]}


def test_two_of_many_columns_are_named_and_images_are_side_a_in_any_order(write):
    names = ("photo", "de", "en", "image")
    table = write([(f"img/{i}.png", f"de {i}", f"en {i}", "img/none.png") for i in range(3)], names)
    for asked in ("photo,en", "en, photo"):
        source = open_pairs(table, asked)
        assert source.columns == ("photo", "en")
        assert source.kinds == ("image", "text")
        assert source.b.texts == ["en 0", "en 1", "en 2"]
    assert open_pairs(table, "en,de").kinds == ("text", "text")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("photo,title", r"has no column 'title'; it has photo, other, de, en"),
        ("photo", "give two names with a comma between them, got 'photo'"),
        ("photo,other", "photo and other of .* both hold images"),
        (None, "cannot tell which two .* name them with --columns, it has photo, other, de, en"),
    ],
)
def test_columns_that_cannot_be_meant_are_refused(write, asked, message):
    row = ("img/0.png", "img/1.png", "x", "y")
    with pytest.raises(UserError, match=message):
        open_pairs(write([row], ("photo", "other", "de", "en")), asked)


def test_captions_that_are_not_text_are_refused_or_listed(write):
    with pytest.raises(UserError, match=r"caption of columns does not hold text but int .*: 7"):
        open_pairs({"image": ["a.png", "b.png"], "caption": [7, 8]})
    images = write(_rows()).parent / "img"
    paths = [str(images / f"{i}.png") for i in range(3)]
    source = open_pairs({"image": paths, "caption": ["x", 7, ["y", "z"]]})
    assert len(source.a) == 2
    assert source.left_out == ["1 rows whose caption is not text (row 2: 7)"]
    with pytest.raises(UserError, match="image of columns does not hold paths of images"):
        open_pairs({"image": [1, 2], "caption": ["x", "y"]})


def test_missing_images_are_named_and_counted_and_left_out(write):
    rows = _rows()
    for i in (1, 3, 5, 7, 9, 11, 13):
        rows[i] = (f"img/gone{i}.png", rows[i][1])
    source = open_pairs(write(rows))
    assert len(source.a) == len(source.b) == 13
    assert source.left_out == [
        "7 rows whose image cannot be read (row 3: img/gone1.png: no such file or directory; "
        "row 5: img/gone3.png: no such file or directory; "
        "row 7: img/gone5.png: no such file or directory; "
        "row 9: img/gone7.png: no such file or directory; "
        "row 11: img/gone9.png: no such file or directory; ...)"
    ]
    assert source.left_out[0] in source.describe()


def test_a_table_whose_images_are_mostly_missing_is_refused(write, tmp_path):
    table = write(_rows())
    shutil.rmtree(table.parent / "img")
    with pytest.raises(UserError) as caught:
        open_pairs(table)
    message = str(caught.value)
    assert message.startswith(f"data: 20 of 20 images of {table} cannot be read")
    assert f"searched from {tmp_path / 'pairs'}" in message
    assert "row 2: img/0.png: no such file" in message
    assert "row 6" in message
    assert "row 7" not in message


def test_empty_captions_and_unreadable_files_are_listed(write):
    rows = _rows()
    rows[2] = (rows[2][0], "  ")
    table = write(rows)
    (table.parent / "img" / "4.png").write_bytes(b"not an image")
    source = open_pairs(table)
    assert sorted(source.left_out) == [
        f"1 rows whose image cannot be read (row 6: img/4.png: {NO_IMAGE})",
        "1 rows with an empty caption (row 4)",
    ]
    (damage,) = source.damaged  # an empty caption was never whole
    assert damage == f"{table}: {min(source.left_out)}"
    assert len(source.a) == 18
    assert "img/2.png" not in source.a.names


def test_broken_rows_are_listed_with_the_others(tmp_path):
    (tmp_path / "t.tsv").write_text("text1\ttext2\nx\ty\nz\nu\tv\n")
    source = open_pairs(tmp_path / "t.tsv")
    assert source.left_out == ["1 rows that cannot be read (row 3: 1 fields where 2 are expected)"]
    (tmp_path / "t.tsv").write_text("text1\ttext2\n \ty\nz\t \n")
    with pytest.raises(UserError, match=r"has no usable pair; 1 rows with an empty text2 \(row 3"):
        open_pairs(tmp_path / "t.tsv")


def test_who_belongs_to_whom_is_as_in_a_dictionary(write):
    """Captions of an image in rows apart, copies of rows, and captions of several images."""
    g = np.random.default_rng(0)
    rows = [(f"img/{g.integers(12)}.png", f"caption {g.integers(15)}") for _ in range(80)]
    expected = defaultdict(set)
    for image, caption in rows:
        expected[image].add(caption)
    source = open_pairs(write(rows))
    found = _texts_of(source)
    assert {image: set(texts) for image, texts in found.items()} == expected
    assert all(len(texts) == len(set(texts)) for texts in found.values())
    assert len(source.b.texts) == len(set(source.b.texts)) == len({text for _, text in rows})
    distinct = len(set(rows))
    assert len(source.partners) == source.start[-1] == distinct
    assert source.left_out == [f"{80 - distinct} copies of other rows"]
    owners = [source.a.names[row] for row in source.owners()]
    assert Counter(owners) == {image: len(texts) for image, texts in expected.items()}


def test_white_space_makes_no_other_text():
    source = open_pairs({"text1": ["x  y", "x y "], "text2": ["z\nw", "z w"]})
    assert (source.a.texts, source.b.texts) == (["x y"], ["z w"])
    assert source.left_out == ["1 copies of other rows"]


def test_lists_of_captions_are_as_rows_of_them(write):
    images = write(_rows()).parent / "img"
    path = str(images / "0.png")
    one = open_pairs({"image": [path], "caption": [["x", "y", None, ""]]})
    many = open_pairs({"image": [path, path], "caption": ["x", "y"]})
    assert _texts_of(one) == _texts_of(many) == {path: _texts_of(one)[path]}
    assert set(one.b.texts) == {"x", "y"}


def test_ids_survive_moving_and_reordering(write, tmp_path):
    rows = _rows(captions=2)
    before = open_pairs(write(rows))
    shutil.move(tmp_path / "pairs", tmp_path / "elsewhere")
    order = np.random.default_rng(0).permutation(len(rows))
    after = open_pairs(write([rows[i] for i in order], name="elsewhere"))
    for side in ("a", "b"):
        old, new = getattr(before, side), getattr(after, side)
        assert dict(zip(old.names, old.ids, strict=True)) == dict(
            zip(new.names, new.ids, strict=True)
        )
        assert old.names != new.names
    assert after.a.ids[after.a.names.index("img/3.png")] == stable_id("img/3.png")
    text = "caption 1 of 3"
    assert after.b.ids[after.b.texts.index(text)] == stable_id(text)


def _drawn(source, seed, epoch, rows=None):
    """The text drawn for each image, by name."""
    rows = np.arange(len(source.a)) if rows is None else rows
    partners = source.draw(seed, epoch, rows)
    return {source.a.names[i]: source.b.texts[j] for i, j in zip(rows, partners, strict=True)}


def test_captions_are_drawn_uniformly(write):
    rows = [(f"img/{i}.png", f"caption {k} of {i}") for i in range(20) for k in range(1 + i % 5)]
    source = open_pairs(write(rows))
    epochs = 2000
    counts = defaultdict(Counter)
    for epoch in range(epochs):
        for name, text in _drawn(source, 0, epoch).items():
            counts[name][text] += 1
    for name, texts in _texts_of(source).items():
        expected = epochs / len(texts)
        assert set(counts[name]) == set(texts)
        chi2 = sum((counts[name][text] - expected) ** 2 / expected for text in texts)
        # Mean k - 1, variance 2 (k - 1): five deviations.
        free = len(texts) - 1
        assert chi2 <= free + 5 * (2 * free) ** 0.5 + 1e-9


def test_what_is_drawn_hangs_on_seed_epoch_and_id_alone(write, tmp_path):
    rows = _rows(captions=3)
    source = open_pairs(write(rows))
    whole = _drawn(source, 1, 5)
    some = np.array([7, 3, 11])
    assert _drawn(source, 1, 5, some) == {source.a.names[i]: whole[source.a.names[i]] for i in some}
    order = np.random.default_rng(0).permutation(len(rows))
    shuffled = open_pairs(write([rows[i] for i in order], name="shuffled"))
    assert _drawn(shuffled, 1, 5) == whole
    fewer = open_pairs(write(rows[30:], name="fewer"))
    assert _drawn(fewer, 1, 5).items() <= whole.items()
    assert _drawn(source, 2, 5) != whole
    assert _drawn(source, 1, 6) != whole


def test_an_epoch_is_every_image_once_with_a_caption_of_its_own(write):
    source = open_pairs(write(_rows(captions=3)))
    texts = _texts_of(source)
    for epoch in range(2):
        seen = []
        for batch in ShuffledSchedule(source.a.ids, 6, 1, 2, seed=0):
            if batch.epoch == epoch:
                drawn = _drawn(source, 0, epoch, batch.rows)
                assert all(text in texts[name] for name, text in drawn.items())
                seen += drawn
        assert sorted(seen) == sorted(source.a.names)


def _holding(*contents):
    """A data set that holds images: encoded ones, paths, or None."""
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features({"pixels": datasets.Image(), "says": datasets.Value("string")})
    encoded = [
        {"bytes": c if isinstance(c, bytes) else None, "path": c if isinstance(c, str) else None}
        for c in contents
    ]
    columns = {
        "pixels": [e if c else None for c, e in zip(contents, encoded, strict=True)],
        "says": [f"text {i}" for i in range(len(contents))],
    }
    return datasets.Dataset.from_dict(columns, features=features)


def _encoded(image, format="PNG"):
    file = io.BytesIO()
    image.save(file, format)
    return file.getvalue()


@pytest.fixture
def held():
    """Two images alike, two others; one damaged, one gone, one that never was."""
    images = [_encoded(Image.new("RGB", (12, 10), (i, 9 * i, 0))) for i in (0, 1, 0, 2)]
    return _holding(*images, b"damaged", "/gone.png", None)


def test_images_in_a_data_set_are_samples_by_their_content(held):
    source = open_pairs(held)
    texts = {name: set(texts) for name, texts in _texts_of(source).items()}
    assert texts == {"row 1": {"text 0", "text 2"}, "row 2": {"text 1"}, "row 4": {"text 3"}}
    assert source.a.image(2).getpixel((0, 0)) == (2, 18, 0)
    assert source.a.image_size == 10
    assert source.left_out == [
        "3 rows whose image cannot be read "
        f"(row 5: {NO_IMAGE}; row 6: no such file or directory; row 7: no image)"
    ]
    backwards = open_pairs(held.select(range(6, -1, -1)))
    assert sorted(backwards.a.ids) == sorted(source.a.ids)
    assert open_pairs(held, "says,pixels").columns == ("pixels", "says")


def test_a_data_set_of_mostly_missing_images_is_refused(held):
    with pytest.raises(UserError, match=r"3 of 4 images .* cannot be read \(row 2: not an image"):
        open_pairs(held.select([0, 4, 5, 6]))


def test_a_truncated_image_in_a_data_set_is_found_when_decoded():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = _encoded(Image.fromarray(pixels), "JPEG")
    source = open_pairs(_holding(whole, whole[:1000]))
    assert not source.left_out
    assert source.a.image(0).size == (64, 64)
    with pytest.raises(UnreadableImageError, match="row 2"):
        source.a.image(1)


def test_pairs_are_told_from_images(make_folder):
    source = open_pairs({"text1": ["x"], "text2": ["y"]})
    assert open_pairs(source) is source
    assert are_pairs(source)
    assert are_pairs("t.csv")
    assert not are_pairs(make_folder())
