"""`sogclr.embed` writes and returns what the encoder computes."""

import os

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers.pictures import encode_pictures

import sogclr
from sogclr import UserError
from sogclr.common import whole_files
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


@pytest.mark.parametrize("name", ["x.npz", "x.parquet"])
def test_a_write_that_fails_leaves_the_old_file(trained, make_folder, tmp_path, monkeypatch, name):
    target = tmp_path / "out" / name
    target.parent.mkdir()
    target.write_text("old")
    photos = make_folder()

    def fill_the_disk(path):
        assert path.stat().st_size > 1000
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(whole_files, "flush_file", fill_the_disk)
        with pytest.raises(UserError, match=rf"could not write .*{name} \(No space .* is intact"):
            sogclr.embed(trained, photos, out=target)
    assert target.read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == [name]
    (target.parent / f".{name}.999999999").write_text("of a killed process")
    sogclr.embed(trained, photos, out=target)
    assert [path.name for path in target.parent.iterdir()] == [name]


def test_a_link_is_replaced_not_followed(trained, make_folder, tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "x.npz").symlink_to(tmp_path / "mine")
    sogclr.embed(trained, make_folder(), out=tmp_path / "x.npz")
    assert (tmp_path / "mine").read_text() == "mine"
    assert len(np.load(tmp_path / "x.npz")["ids"]) == 16


def test_names_that_are_no_utf8_are_written_to_parquet(trained, tmp_path, make_folder):
    folder = make_folder(per_class=1)
    next(folder.rglob("*.png")).rename(os.fsdecode(bytes(folder) + b"/\xff.png"))
    sogclr.embed(trained, folder, out=tmp_path / "x.parquet")
    assert any(
        "udcff" in name for name in pq.read_table(tmp_path / "x.parquet")["path"].to_pylist()
    )
