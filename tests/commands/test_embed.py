"""`sogclr.embed` writes and returns what the encoder computes."""

import io
import json
import os
import shlex

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers.pictures import encode_pictures
from PIL import Image

import sogclr
from sogclr import UserError
from sogclr.common import whole_files
from sogclr.data.open_images import open_images
from sogclr.data.open_pairs import open_pairs
from sogclr.evaluation.findings.neighbours import nearest_neighbours
from sogclr.runs.folder import Run
from sogclr.runs.stored_samples import read_samples


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
    assert table["path"] == [*source.a.names, *[None] * 45]
    assert table["text"] == [*[None] * 24, *source.b.texts]
    assert table["side"] == stored["side"].tolist()
    assert [int(each) for each in table["id"]] == stored["ids"].tolist()
    assert np.array_equal(np.array(table["vector"], dtype=np.float32), stored["vectors"])


def test_a_folder_of_images_is_written_without_sides(trained, make_folder, tmp_path):
    returned = sogclr.embed(trained, make_folder(), out=tmp_path / "x.npz")
    assert returned.sides is None
    stored = np.load(tmp_path / "x.npz")
    assert set(stored.files) == {"ids", "paths", "vectors", "labels", "normalized"}
    assert stored["labels"].tolist() == returned.labels == ["blue"] * 8 + ["red"] * 8
    assert stored["normalized"]
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


@pytest.fixture
def on_images(make_folder, tmp_path):
    """A run on images with labels, and its data."""
    folder = make_folder(size=(60, 50))
    sogclr.pretrain(folder, tmp_path / "run", epochs=1, device="cpu", image_size=16)
    return tmp_path / "run", folder


def test_a_table_has_what_embedding_atlas_shows(on_images, tmp_path, capsys):
    run, folder = on_images
    target = tmp_path / "of a space.parquet"
    returned = sogclr.embed(run, folder, out=target)
    assert not returned.normalized
    table = pq.read_table(target)
    assert json.loads(table.schema.metadata[b"sogclr"]) == {"unit vectors": False}
    rows = table.to_pylist()
    source = open_images(folder)
    assert [row["label"] for row in rows] == ["blue"] * 8 + ["red"] * 8
    stored = read_samples(Run(run))[""]
    log_u = dict(zip(stored.ids.tolist(), stored.log_u.tolist(), strict=True))
    nearest = nearest_neighbours(returned.vectors, 15)
    for number, row in enumerate(rows):
        assert row["log_u"] == pytest.approx(log_u[int(row["id"])])
        assert row["neighbors"]["ids"] == nearest.index[number].tolist()
        distances = row["neighbors"]["distances"]
        assert distances == sorted(distances)
        assert np.allclose(1 - nearest.similarity[number], distances, atol=1e-6)
        assert np.isfinite([row["x"], row["y"]]).all()
        shown = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
        assert shown.size == (112, 93)
        average = np.asarray(shown).mean(axis=(0, 1))
        assert np.allclose(average, np.asarray(source.image(number)).mean(axis=(0, 1)), atol=3)
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "look at it" in line)
    words = shlex.split(line)
    options = ["--x", "x", "--y", "y", "--neighbors", "neighbors", "--image", "image"]
    assert words[3:] == ["embedding-atlas", str(target), *options]
    assert {option for option in options if "--" not in option} <= set(table.column_names)


def test_vectors_are_scaled_on_request_and_it_is_said(on_images, tmp_path, capsys):
    run, folder = on_images
    plain = sogclr.embed(run, folder, out=tmp_path / "x.npz")
    assert "wrote 16 vectors of width" in capsys.readouterr().err
    scaled = sogclr.embed(run, folder, out=tmp_path / "y.npz", normalize=True)
    assert "wrote 16 unit vectors of width" in capsys.readouterr().err
    assert (plain.normalized, scaled.normalized) == (False, True)
    assert not np.load(tmp_path / "x.npz")["normalized"]
    assert np.load(tmp_path / "y.npz")["normalized"]
    lengths = np.linalg.norm(plain.vectors, axis=1, keepdims=True)
    assert np.allclose(scaled.vectors, plain.vectors / lengths, atol=1e-6)
    assert not np.allclose(lengths, 1, atol=1e-3)


def test_samples_without_a_label_or_unknown_to_the_run_have_none(on_images, tmp_path):
    run, folder = on_images
    Image.new("RGB", (30, 20), "green").save(folder / "new.png")
    returned = sogclr.embed(run, folder, out=tmp_path / "x.parquet")
    rows = {row["path"]: row for row in pq.read_table(tmp_path / "x.parquet").to_pylist()}
    assert rows["new.png"]["label"] is None
    assert rows["new.png"]["log_u"] is None
    assert returned.labels[returned.names.index("new.png")] == ""
    assert sum(row["log_u"] is not None for row in rows.values()) == 16


def test_two_columns_of_texts_have_no_thumbnails(on_texts, sentences, tmp_path):
    sogclr.embed(on_texts, sentences, out=tmp_path / "x.parquet")
    table = pq.read_table(tmp_path / "x.parquet")
    assert not {"path", "image", "label"} & set(table.column_names)
    assert {"text", "side", "log_u", "x", "y", "neighbors", "vector"} <= set(table.column_names)
    assert None not in table["text"].to_pylist()


def test_hostile_labels_and_names_are_kept_as_they_are(trained, make_folder, tmp_path):
    names = ["<script>alert(1)</script>'\"", "\u202e\n\U0001f600"]
    folder = make_folder(per_class=2)
    for old, new in zip(("blue", "red"), names, strict=True):
        (folder / old).rename(folder / new.replace("/", "|"))
    sogclr.embed(trained, folder, out=tmp_path / "x.parquet")
    labels = pq.read_table(tmp_path / "x.parquet")["label"].to_pylist()
    assert set(labels) == {name.replace("/", "|") for name in names}


def test_no_column_of_a_table_has_numbers_that_a_browser_cannot_show(trained, pairs, tmp_path):
    sogclr.embed(trained, pairs, out=tmp_path / "x.parquet")
    for column in pq.read_table(tmp_path / "x.parquet").flatten().itercolumns():
        numbers = column.to_numpy() if str(column.type) in ("int64", "uint64") else [0]
        assert max(numbers) < 2**53
