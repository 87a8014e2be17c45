"""evaluate, embed and search open data in the same way."""

import numpy as np
import pytest
from helpers.small_tables import read_rows, write_table

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
