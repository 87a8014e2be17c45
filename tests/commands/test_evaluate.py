"""evaluate, embed and search open data in the same way."""

import numpy as np
import pytest
from helpers.small_tables import read_rows, write_table
from PIL import Image

import sogclr
from sogclr import UserError


def test_a_saved_dataset_is_a_table_where_a_folder_could_be_images(trained, pairs, tmp_path):
    import datasets

    datasets.disable_progress_bars()
    rows = read_rows(pairs)
    columns = {
        "image": [str(pairs.parent / name) for name, _ in rows],
        "caption": [text for _, text in rows],
    }
    saved = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    saved.save_to_disk(tmp_path / "saved")
    one, other = (sogclr.evaluate(trained, data).retrieval for data in (tmp_path / "saved", pairs))
    assert one == other
    sogclr.embed(trained, tmp_path / "saved", out=tmp_path / "x.npz")
    assert np.load(tmp_path / "x.npz")["vectors"].shape == (24 + 45, 16)
    settings = {"data": tmp_path / "saved", "out": tmp_path / "x.png", "top": 3}
    found = sogclr.search(trained, "a red picture", **settings)
    expected = sogclr.search(trained, "a red picture", **{**settings, "data": pairs})
    assert [m.similarity for m in found] == pytest.approx([m.similarity for m in expected])


def test_columns_of_a_table_may_be_named(on_texts, tmp_path):
    rows = [(f"a red picture {i}", f"unused {i}", f"a picture {i}") for i in range(4)]
    table = write_table(tmp_path / "three.csv", rows, ("x", "y", "z"))
    with pytest.raises(UserError, match="cannot tell which two"):
        sogclr.evaluate(on_texts, table)
    found = sogclr.evaluate(on_texts, table, columns=["x", "z"]).retrieval
    assert found.a_to_b.queries == found.b_to_a.queries == 4
    sogclr.embed(on_texts, table, out=tmp_path / "x.npz", columns="x,z")
    assert np.load(tmp_path / "x.npz")["paths"].tolist() == [r[0] for r in rows] + [
        r[2] for r in rows
    ]


@pytest.fixture(scope="module")
def on_images(tmp_path_factory):
    """A run on images alone, and its images in two classes."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name in ("a/0", "a/1", "b/2", "b/3"):
        (folder / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "data" / f"{name}.png")
    settings = {"epochs": 1, "batch_size": 2, "device": "cpu", "workers": 0}
    sogclr.pretrain(folder / "data", folder / "run", **settings)
    return folder / "run", folder / "data"


@pytest.mark.parametrize(
    ("command", "run", "data", "options", "message"),
    [
        ("evaluate", "on_images", "images", {"columns": "a,b"}, "--columns: .* images alone"),
        ("evaluate", "on_images", "images", {"templates": "a {}"}, "--templates: .* images alone"),
        ("evaluate", "trained", "pairs", {"templates": "a {}"}, "--templates: .* retrieval has no"),
        ("evaluate", "on_texts", "sentences", {"templates": "a {}"}, "--templates: .* sts has no"),
        ("evaluate", "trained", "pairs", {"test": "pairs"}, "--test: .* is a run on pairs"),
        ("evaluate", "trained", "images", {"columns": "a,b"}, "--columns: .* zero-shot"),
        ("embed", "on_images", "images", {"columns": "a,b"}, "--columns: .* images alone"),
        ("embed", "trained", "images", {"columns": "a,b"}, "--columns: .* data are images"),
    ],
)
def test_options_without_an_effect_are_refused(
    command, run, data, options, message, on_images, request, tmp_path
):
    places = {"images": on_images[1], "on_images": on_images[0]}
    run, data = (places.get(n) or request.getfixturevalue(n) for n in (run, data))
    options = {**options, "test": data} if "test" in options else options
    if command == "embed":
        options["out"] = tmp_path / "x.npz"
    with pytest.raises(UserError, match=rf"^{message}.*; leave it out$"):
        getattr(sogclr, command)(run, data, **options)
    assert not (tmp_path / "x.npz").exists()
