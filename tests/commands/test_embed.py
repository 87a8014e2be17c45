"""`sogclr.embed` writes and returns what the encoder computes."""

import numpy as np
import pyarrow.parquet as pq
import torch
from helpers.pictures import encode_pictures

import sogclr
from sogclr.data.open_pairs import open_pairs


def test_both_sides_of_a_table_are_written(trained, pairs, tmp_path):
    source, model = open_pairs(pairs), sogclr.load(trained)
    for name in ("x.npz", "x.parquet"):
        returned = sogclr.embed(trained, pairs, out=tmp_path / name)
    stored = np.load(tmp_path / "x.npz")
    names = [*source.a.names, *source.b.texts]
    assert stored["paths"].tolist() == names
    assert stored["side"].tolist() == ["a"] * 24 + ["b"] * 45
    assert np.array_equal(stored["ids"], np.concatenate([source.a.ids, source.b.ids]))
    expected = torch.cat(
        [encode_pictures(model, pairs.parent, source.a.names), model.encode_text(source.b.texts)]
    )
    assert np.allclose(stored["vectors"], expected.numpy(), atol=1e-5)
    assert (returned.names, returned.sides) == (names, stored["side"].tolist())
    assert np.array_equal(returned.ids, stored["ids"])
    assert np.array_equal(returned.vectors, stored["vectors"])

    table = pq.read_table(tmp_path / "x.parquet").to_pydict()
    assert table["path"] == names
    assert table["side"] == stored["side"].tolist()
    assert table["id"] == stored["ids"].tolist()
    assert np.array_equal(np.array(table["vector"], dtype=np.float32), stored["vectors"])


def test_a_folder_of_images_is_written_without_sides(trained, make_folder, tmp_path):
    returned = sogclr.embed(trained, make_folder(), out=tmp_path / "x.npz")
    assert returned.sides is None
    stored = np.load(tmp_path / "x.npz")
    assert set(stored.files) == {"ids", "paths", "vectors"}
    assert stored["vectors"].shape == (16, 16)
    assert np.allclose(np.linalg.norm(stored["vectors"], axis=1), 1)
