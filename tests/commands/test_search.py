"""`sogclr.search` returns and draws the nearest samples."""

import shutil

import numpy as np
import pytest
import torch
from helpers.refusal import refused
from helpers.small_tables import write_table
from PIL import Image

import sogclr
from sogclr.commands.search_picture import HEADER, LINE, MARGIN, TILE, header_height, line_height
from sogclr.data.open_images import open_images
from sogclr.data.open_pairs import open_pairs


def _images(model, table):
    source = open_pairs(table)
    return source.a.names, model.encode_image([source.a.image(row) for row in range(len(source.a))])


def _nearest(names, vectors, query, top):
    similarity = vectors @ query
    pairs = sorted(zip(similarity.tolist(), names, strict=True), reverse=True)[:top]
    return [name for _, name in pairs], [value for value, _ in pairs]


@pytest.mark.parametrize("run", ["trained", "joined"])
def test_a_sentence_finds_the_nearest_images(run, pairs, request, capsys):
    folder = request.getfixturevalue(run)
    model = sogclr.load(folder)
    names, vectors = _images(model, pairs)
    query = model.encode_text(["a red picture"])[0]
    expected, values = _nearest(names, vectors, query, 5)
    found = sogclr.search(folder, "a red picture", data=pairs, top=5)
    assert [match.name for match in found] == expected
    assert [match.similarity for match in found] == pytest.approx(values, abs=1e-5)
    lines = capsys.readouterr().out.strip().splitlines()
    source = open_pairs(pairs)
    captions = {
        name: {source.b.texts[i] for i in source.partners[slice(*source.start[row : row + 2])]}
        for row, name in enumerate(source.a.names)
    }
    for match, line, below in zip(found, lines[::2], lines[1::2], strict=True):
        assert line == f"{match.similarity:.3f}  {match.name}"
        assert set(match.captions) == captions[match.name]
        assert below.strip() == match.captions[0]


def test_an_image_finds_itself_and_then_the_nearest(trained, pairs, tmp_path):
    model = sogclr.load(trained)
    names, vectors = _images(model, pairs)
    query = pairs.parent / names[7]
    expected, _ = _nearest(names, vectors, vectors[7], 4)
    found = sogclr.search(trained, str(query), data=pairs, top=4, out=tmp_path / "x.png")
    assert expected[0] == names[7]
    assert [match.name for match in found] == expected
    assert found[0].similarity == pytest.approx(1)


def test_a_picture_has_the_first_images_of_very_many(trained, pairs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sogclr.commands.search.MOST_TILES", 7)
    for top, note in ((8, " (the first 7 images)"), (24, " (the first 7 images)"), (7, "")):
        found = sogclr.search(trained, "blue", data=pairs, top=top, out=tmp_path / "x.png")
        assert len(found) == top
        assert capsys.readouterr().err.strip().endswith(f"picture: {tmp_path / 'x.png'}{note}")
        with Image.open(tmp_path / "x.png") as picture:
            assert picture.size[1] == header_height(False) + 2 * line_height(True) + MARGIN


@pytest.mark.parametrize("top", [1, 6, 7, 100])
def test_the_picture_is_a_grid_of_six_columns(trained, pairs, tmp_path, top):
    found = sogclr.search(trained, "blue", data=pairs, top=top, out=tmp_path / "x.png")
    assert len(found) == min(top, 24)
    lines = -(-len(found) // 6)
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.size == (
            min(len(found), 6) * (TILE + MARGIN) + MARGIN,
            header_height(False) + lines * line_height(True) + MARGIN,
        )
        shown = np.asarray(picture.convert("RGB"))
    for place, match in enumerate(found):
        with Image.open(pairs.parent / match.name) as image:
            tile = np.asarray(image.resize((TILE, 183), Image.Resampling.NEAREST))
        assert tile.shape == (183, TILE, 3)  # 24 x 20 pixels, enlarged to fit the tile
        x = MARGIN + place % 6 * (TILE + MARGIN)
        y = header_height(False) + place // 6 * line_height(True)
        assert np.array_equal(shown[y + 18 : y + 201, x : x + TILE], tile)
        assert (shown[y + TILE + LINE : y + TILE + 3 * LINE, x : x + TILE] < 128).any()  # a caption


def test_by_default_the_data_of_the_run_is_searched_and_the_picture_kept_there(
    pairs, tiny, tmp_path
):
    """The columns are those of the run; they could not be guessed."""
    rows = [(str(pairs.parent / "img" / f"{i:02d}.png"), f"picture {i}", "x") for i in range(8)]
    table = write_table(tmp_path / "three.csv", rows, ("where", "what", "else"))
    settings = {"model": str(tiny), "batch_size": 8, "epochs": 1, "device": "cpu", "workers": 0}
    sogclr.align(table, tmp_path / "run", columns="where,what", **settings)
    found = sogclr.search(tmp_path / "run", "picture", top=100)
    assert sorted(match.name for match in found) == [name for name, *_ in rows]
    assert (tmp_path / "run" / "search.png").is_file()


def test_a_folder_of_images_is_searched(trained, make_folder, tmp_path):
    found = sogclr.search(trained, "red", data=make_folder(), top=20, out=tmp_path / "x.png")
    assert len(found) == 16
    assert {match.name.split("/")[0] for match in found} == {"blue", "red"}


@pytest.fixture(scope="module")
def on_images(tmp_path_factory):
    """A run on images alone: a folder of two labels."""
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("images")
    for number, label in enumerate(("blue [b]", "red")):
        (root / "photos" / label).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 120, (12, 16, 3), dtype=np.uint8)
            pixels[..., 2 - 2 * number] += 130
            Image.fromarray(pixels).save(root / "photos" / label / f"{i}.png")
    settings = {"batch_size": 8, "epochs": 1, "device": "cpu", "workers": 0}
    sogclr.pretrain(root / "photos", root / "run", **settings)
    return root / "run"


def test_a_run_on_images_finds_the_neighbours_of_a_picture(on_images, tmp_path):
    photos = on_images.parent / "photos"
    source, model = open_images(photos), sogclr.load(on_images)
    vectors = model.encode_image([photos / name for name in source.names])
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    expected, values = _nearest(source.names, vectors, vectors[13], 6)
    shutil.copy(photos / source.names[13], tmp_path / "a file without a suffix")
    for query in (photos / source.names[13], tmp_path / "a file without a suffix"):
        found = sogclr.search(on_images, str(query), top=6)
        assert [match.name for match in found] == expected
        assert [match.similarity for match in found] == pytest.approx(values, abs=1e-4)
        assert {match.captions for match in found} == {()}
    by_name = sogclr.search(on_images, source.names[13], top=6)
    assert [match.name for match in by_name] == expected


def test_the_picture_shows_the_picture_that_was_searched_for(on_images, tmp_path):
    query = np.full((90, 90, 3), (250, 120, 10), dtype=np.uint8)
    Image.fromarray(query).save(tmp_path / "query.png")
    sogclr.search(on_images, str(tmp_path / "query.png"), top=7, out=tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.size[1] == header_height(True) + 2 * line_height(False) + MARGIN
        shown = np.asarray(picture)
    assert (shown[HEADER : HEADER + TILE, MARGIN : MARGIN + TILE] == (250, 120, 10)).all()


def test_images_of_a_table_have_captions_in_a_run_on_images_too(on_images, pairs, tmp_path):
    name = open_pairs(pairs).a.names[0]
    found = sogclr.search(on_images, name, data=pairs, top=3, out=tmp_path / "x.png")
    assert found[0].name == name
    assert all(match.captions for match in found)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("a dog", "this run was trained on images alone, so it takes no sentence"),
        ("gone.png", "gone.png cannot be read as an image (no such file or directory)"),
        (" ", "query: is empty"),
    ],
)
def test_what_a_run_on_images_cannot_search_for_is_refused(on_images, capsys, query, message):
    assert message in refused(capsys, "search", on_images, query)


def test_texts_are_no_data_of_a_run_on_images(on_images, sentences, capsys):
    line = refused(capsys, "search", on_images, "x.png", "--data", sentences)
    assert "the run was trained on images alone; give images" in line


def test_of_two_texts_the_second_is_searched_and_no_picture_made(on_texts, sentences, tmp_path):
    model, source = sogclr.load(on_texts), open_pairs(sentences)
    query = model.encode_text(["a blue picture"])[0]
    expected, _ = _nearest(source.b.texts, model.encode_text(source.b.texts), query, 3)
    found = sogclr.search(on_texts, "a blue picture", top=3, out=tmp_path / "x.png")
    assert [match.name for match in found] == expected
    assert not (tmp_path / "x.png").exists()


def test_embeddings_are_kept_in_the_run_until_the_data_changes(
    pairs, make_pairs, trained, tmp_path, capsys
):
    other, out = make_pairs(count=5), tmp_path / "x.png"
    first = sogclr.search(trained, "red", data=other, out=out)
    kept = set((trained / "embeddings").iterdir())
    assert sogclr.search(trained, "red", data=other, out=out) == first
    assert set((trained / "embeddings").iterdir()) == kept
    capsys.readouterr()
    assert len(sogclr.search(trained, "red", data=make_pairs(count=6), out=out)) == 6
    assert len(set((trained / "embeddings").iterdir()) - kept) == 1


def test_images_that_cannot_be_read_are_not_found(trained, make_pairs, tmp_path):
    table = make_pairs(count=6, size=(40, 40))
    victim = table.parent / "img" / "03.png"
    victim.write_bytes(victim.read_bytes()[:900])
    found = sogclr.search(trained, "red", data=table, top=10, out=tmp_path / "x.png")
    assert {match.name for match in found} == {f"img/{i:02d}.png" for i in (0, 1, 2, 4, 5)}
    assert all(torch.tensor(match.similarity).isfinite() for match in found)


def test_the_place_of_an_image_that_was_damaged_since_stays_empty(trained, make_pairs, tmp_path):
    table, out = make_pairs(count=3, size=(40, 40)), tmp_path / "x.png"
    before = sogclr.search(trained, "red", data=table, out=out)
    first = table.parent / before[0].name
    size = first.stat().st_size
    first.write_bytes(first.read_bytes()[:200].ljust(size, b"\xff"))
    assert sogclr.search(trained, "red", data=table, out=out) == before
    with Image.open(out) as picture:
        tiles = [
            np.asarray(picture)[header_height(False) :][:TILE, x : x + TILE]
            for x in (MARGIN + place * (TILE + MARGIN) for place in range(3))
        ]
    assert [int(tile.min()) == 255 for tile in tiles] == [True, False, False]


@pytest.mark.parametrize(
    "text", ["[laughs] a red picture", ":dog: [/b] blue", "green [bold]" + " and very" * 30]
)
def test_texts_are_printed_whole_and_as_they_are(on_texts, tmp_path, capsys, text):
    rows = [("a picture", "a red one"), ("picture 2", text), ("an", "in the blue picture")]
    table = write_table(tmp_path / "t.csv", rows, ("sentence1", "sentence2"))
    found = sogclr.search(on_texts, "a picture \udce9", data=table, top=3)
    (match,) = [match for match in found if match.name == text]
    assert f"{match.similarity:.3f}  {text}" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("names", [("[/b] one", "two"), (":dog:", "[red]"), ("x" * 99, "y" * 99)])
def test_names_of_columns_are_printed_as_they_are(on_texts, tmp_path, capsys, names):
    rows = [(f"picture {i}", f"a red picture {i}") for i in range(4)]
    table = write_table(tmp_path / "t.csv", rows, names)
    sogclr.evaluate(on_texts, table, columns=names)
    output = capsys.readouterr().out
    assert f"{names[0]} to {names[1]}" in output
    assert f"{names[1]} to {names[0]}" in output


def test_a_query_that_is_cut_is_said(on_texts, sentences, capsys):
    for query, cut in (("a picture", False), ("a very " * 10, True), ("very " * 300, True)):
        sogclr.search(on_texts, query, data=sentences)
        said = "100.0% of 1 texts are longer than 16 tokens and are cut" in capsys.readouterr().err
        assert said == cut
