"""What is measured of a run on pairs is what an explicit computation gives."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers.small_tables import read_rows, write_table
from PIL import Image
from scipy.stats import spearmanr

import sogclr
from sogclr import UserError
from sogclr.data.open_images import open_source
from sogclr.data.open_pairs import open_pairs
from sogclr.evaluation.pair_report import TEMPLATES, embed_side


def _pictures(model, folder, names):
    pictures = []
    for name in names:
        with Image.open(folder / name) as image:
            pictures.append(image.convert("RGB"))
    return model.encode_image(pictures)


def test_retrieval_is_counted_from_images_and_captions_one_by_one(trained, pairs):
    model, rows = sogclr.load(trained), read_rows(pairs)
    names = list(dict.fromkeys(name for name, _ in rows))
    images = _pictures(model, pairs.parent, names)
    texts = model.encode_text([text for _, text in rows])
    owner = [names.index(name) for name, _ in rows]
    similarity = (images @ texts.T).numpy()
    image_ranks = []
    for i in range(len(names)):
        best = max(similarity[i, j] for j in range(len(rows)) if owner[j] == i)
        others = [similarity[i, j] for j in range(len(rows)) if owner[j] != i]
        image_ranks.append(1 + sum(value >= best for value in others))
    text_ranks = []
    for j in range(len(rows)):
        others = [similarity[i, j] for i in range(len(names)) if i != owner[j]]
        text_ranks.append(1 + sum(value >= similarity[owner[j], j] for value in others))

    found = sogclr.evaluate(trained, pairs).retrieval
    for direction, ranks in ((found.a_to_b, image_ranks), (found.b_to_a, text_ranks)):
        assert direction.queries == len(ranks)
        assert direction.median_rank == np.median(ranks)
        for k in (1, 5, 10):
            assert direction.recall[k] == pytest.approx(np.mean(np.array(ranks) <= k))
    both = (*found.a_to_b.recall.values(), *found.b_to_a.recall.values())
    assert found.total == pytest.approx(100 * sum(both))


@pytest.mark.parametrize("run", ["trained", "joined"])
def test_sides_are_embedded_as_the_encoder_embeds(run, pairs, request):
    """Whether in batches of the whole side or one by one, frozen towers or trained ones."""
    model, source = sogclr.load(request.getfixturevalue(run)), open_pairs(pairs)
    a, b = (torch.from_numpy(embed_side(model, side)) for side in (source.a, source.b))
    single = torch.cat([_pictures(model, pairs.parent, [name]) for name in source.a.names])
    torch.testing.assert_close(torch.nn.functional.normalize(a, dim=1), single)
    single = torch.cat([model.encode_text([text]) for text in source.b.texts])
    torch.testing.assert_close(torch.nn.functional.normalize(b, dim=1), single)


@pytest.mark.parametrize("templates", [None, "a {} picture|{}"])
def test_zero_shot_is_the_nearest_mean_of_a_classs_sentences(
    trained, make_folder, capsys, templates
):
    photos = make_folder(classes=("blue", "dark_red", "green"))
    model, source = sogclr.load(trained), open_source(photos)
    chosen = TEMPLATES if templates is None else templates.split("|")
    prototypes = []
    for name in ("blue", "dark red", "green"):
        total = sum(model.encode_text([template.format(name)])[0] for template in chosen)
        prototypes.append(total / total.norm())
    images = _pictures(model, photos, source.names)
    right = 0
    for image, label in zip(images, source.labels, strict=True):
        right += int(torch.stack([image @ p for p in prototypes]).argmax()) == label
    report = sogclr.evaluate(trained, photos, templates=templates)
    assert report.zero_shot == pytest.approx(right / 24)
    assert report.classes == ["blue", "dark red", "green"]
    assert report.retrieval is None
    assert report.sts is None
    assert "24 images in 3 classes" in capsys.readouterr().out


def test_colours_that_were_told_in_captions_are_told_apart(trained, make_folder):
    photos = make_folder(classes=("red", "green", "blue"), size=(24, 20), seed=1)
    assert sogclr.evaluate(trained, photos, templates="a {} picture").zero_shot > 0.5  # chance 1/3


def test_labelled_images_in_memory_are_classified_too(trained, make_folder):
    source = open_source(make_folder(classes=("blue", "green"), size=(20, 20)))
    images = np.stack([np.asarray(source.image(row)) for row in range(len(source))])
    report = sogclr.evaluate(trained, (images, source.labels), templates="{}")
    names = sogclr.load(trained).encode_text(["0", "1"])
    found = sogclr.load(trained).encode_image([source.image(row) for row in range(len(source))])
    right = (found @ names.T).argmax(dim=1).numpy() == source.labels
    assert report.zero_shot == pytest.approx(right.mean())


def test_zero_shot_leaves_unreadable_images_out(trained, make_folder, capsys):
    photos = make_folder(size=(40, 40))
    victim = photos / "blue" / "003.png"
    victim.write_bytes(victim.read_bytes()[:900])
    assert 0 <= sogclr.evaluate(trained, photos).zero_shot <= 1
    captured = capsys.readouterr()
    assert "15 images in 2 classes" in captured.out
    assert "skipped blue/003.png" in captured.err


def test_sts_is_the_rank_correlation_of_similarities(on_texts, sentences):
    model = sogclr.load(on_texts)
    table = read_rows(sentences)
    similarity = [
        float(model.encode_text([one])[0] @ model.encode_text([other])[0])
        for one, other, _ in table
    ]
    expected = spearmanr(similarity, [float(score) for *_, score in table]).statistic
    report = sogclr.evaluate(on_texts, sentences)
    assert report.sts == pytest.approx(expected, abs=1e-6)
    assert report.retrieval is None
    assert sogclr.evaluate(on_texts, sentences, protocol="retrieval").retrieval is not None


def test_sts_counts_equal_rows_and_leaves_empty_ones_out(on_texts, tmp_path):
    rows = [
        ("a red picture", "a red one", 3),
        ("a red picture", "a red one", 2),
        ("", "a blue one", 5),
        ("a green picture", "a blue one", 1),
        ("picture", "a very very blue one", 0),
    ]
    names = ("sentence1", "sentence2", "score")
    whole = sogclr.evaluate(on_texts, write_table(tmp_path / "whole.csv", rows, names))
    kept = [row for row in rows if row[0]]
    model = sogclr.load(on_texts)
    similarity = [float(model.encode_text([a])[0] @ model.encode_text([b])[0]) for a, b, _ in kept]
    expected = spearmanr(similarity, [score for *_, score in kept]).statistic
    assert whole.sts == pytest.approx(expected)


def test_the_text_tower_of_a_run_on_images_takes_sts_too(trained, sentences):
    assert -1 <= sogclr.evaluate(trained, sentences).sts <= 1


def test_sts_is_refused_for_images(trained, pairs):
    rows = [(*row, i) for i, row in enumerate(read_rows(pairs))]
    table = write_table(pairs.parent / "scored.csv", rows, ("image", "caption", "score"))
    with pytest.raises(UserError, match="holds images; sts is for two texts, try retrieval"):
        sogclr.evaluate(trained, table)
    assert sogclr.evaluate(trained, table, protocol="retrieval").retrieval is not None


def test_what_datasets_saved_is_a_table_wherever_a_folder_could_be_images(trained, pairs, tmp_path):
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


def test_both_sides_of_a_table_are_written(trained, pairs, tmp_path):
    source, model = open_pairs(pairs), sogclr.load(trained)
    for name in ("x.npz", "x.parquet"):
        sogclr.embed(trained, pairs, out=tmp_path / name)
    stored = np.load(tmp_path / "x.npz")
    names = [*source.a.names, *source.b.texts]
    assert stored["paths"].tolist() == names
    assert stored["side"].tolist() == ["a"] * 24 + ["b"] * 45
    assert np.array_equal(stored["ids"], np.concatenate([source.a.ids, source.b.ids]))
    expected = torch.cat(
        [_pictures(model, pairs.parent, source.a.names), model.encode_text(source.b.texts)]
    )
    assert np.allclose(stored["vectors"], expected.numpy(), atol=1e-5)

    table = pq.read_table(tmp_path / "x.parquet").to_pydict()
    assert table["path"] == names
    assert table["side"] == stored["side"].tolist()
    assert table["id"] == stored["ids"].tolist()
    assert np.array_equal(np.array(table["vector"], dtype=np.float32), stored["vectors"])


def test_a_folder_of_images_is_written_without_sides(trained, make_folder, tmp_path):
    sogclr.embed(trained, make_folder(), out=tmp_path / "x.npz")
    stored = np.load(tmp_path / "x.npz")
    assert set(stored.files) == {"ids", "paths", "vectors"}
    assert stored["vectors"].shape == (16, 16)
    assert np.allclose(np.linalg.norm(stored["vectors"], axis=1), 1)


def test_columns_of_a_table_may_be_named(on_texts, tmp_path):
    rows = [(f"a red picture {i}", f"unused {i}", f"a picture {i}") for i in range(4)]
    table = write_table(tmp_path / "three.csv", rows, ("x", "y", "z"))
    with pytest.raises(UserError, match="cannot tell which two"):
        sogclr.evaluate(on_texts, table)
    found = sogclr.evaluate(on_texts, table, columns="x,z").retrieval
    assert found.a_to_b.queries == found.b_to_a.queries == 4
    sogclr.embed(on_texts, table, out=tmp_path / "x.npz", columns="x,z")
    assert np.load(tmp_path / "x.npz")["paths"].tolist() == [r[0] for r in rows] + [
        r[2] for r in rows
    ]
