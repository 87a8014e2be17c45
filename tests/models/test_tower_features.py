import copy
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import sogclr
from sogclr import UserError
from sogclr.data.open_pairs import open_pairs
from sogclr.data.texts import Texts
from sogclr.models.tower_features import (
    cached_features,
    compute_features,
    plain_inputs,
    stored_embeddings,
)
from sogclr.models.tower_inputs import CenterImages
from sogclr.models.towers import PairSpec

SPEC = PairSpec(("image", "text"), 16, {}, {}, image_size=16)
CPU = torch.device("cpu")


class Body(nn.Module):
    """Mean colours, and a count of the images it was shown."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        return images.mean(dim=(2, 3)) * self.scale


def _cut(table, number):
    file = table.parent / "img" / f"{number:02d}.png"
    file.write_bytes(file.read_bytes()[:500])


@torch.no_grad()
def test_features_stand_in_the_order_of_the_rows(joined):
    encoder = sogclr.load(joined)
    words = ["red", "green", "blue", "picture", "very", "a", "in"]
    texts = Texts([" ".join([*words[: 1 + 7 * i % 6], str(i)]) for i in range(70)])
    inputs = plain_inputs(texts, encoder.spec, encoder.tokenizer)
    found = compute_features(lambda x: encoder.towers["text"](x)[1], texts, inputs, CPU)
    assert found.dtype == np.float32
    for row in (0, 13, 69):
        alone = encoder.encode_text([texts.texts[row]])[0].numpy()
        np.testing.assert_allclose(found[row] / np.linalg.norm(found[row]), alone, atol=1e-5)


def test_only_rows_that_are_asked_for_are_computed(pairs):
    source, body = open_pairs(pairs).a, Body()
    inputs = CenterImages(source, SPEC)
    whole = compute_features(body, source, inputs, CPU)
    some = compute_features(body, source, inputs, CPU, rows=np.array([5, 2, 5]))
    assert body.seen == 24 + 2
    np.testing.assert_allclose(some[[2, 5]], whole[[2, 5]], rtol=1e-6)
    assert np.isnan(some[[0, 1, 3, 4, *range(6, 24)]]).all()


def test_unreadable_rows_are_nan_and_told_once(make_pairs, capsys):
    table = make_pairs(size=(60, 60))
    source = open_pairs(table).a
    _cut(table, 3)
    inputs = CenterImages(source, SPEC)
    told = set()
    for _ in range(2):
        found = compute_features(Body(), source, inputs, CPU, reported=told)
        assert np.flatnonzero(np.isnan(found).any(axis=1)).tolist() == [3]
    assert told == {"img/03.png"}
    assert capsys.readouterr().err.count("skipped img/03.png: ") == 1
    for number in range(24):
        _cut(table, number)
    with pytest.raises(UserError, match="none of the images can be read"):
        compute_features(Body(), source, inputs, CPU)


@pytest.fixture
def cached():
    def cached(body, source, spec=SPEC):
        return cached_features(body, "image", source, spec, None, CPU)

    return cached


def test_features_are_computed_once(make_pairs, cached, capsys):
    table, body = make_pairs(), Body()
    first = cached(body, open_pairs(table).a)
    again = copy.deepcopy(body)
    assert np.array_equal(cached(again, open_pairs(table).a), first)
    assert (body.seen, again.seen) == (24, 24)  # the copy was made after the first 24
    said = capsys.readouterr().err
    assert said.count("computing once") == said.count("read from the cache") == 1
    expected = compute_features(
        body, open_pairs(table).a, CenterImages(open_pairs(table).a, SPEC), CPU
    )
    np.testing.assert_allclose(first, expected, rtol=1e-6)


def test_other_weights_other_data_or_other_preprocessing_are_computed(make_pairs, cached):
    table, body = make_pairs(), Body()
    cached(body, open_pairs(table).a)
    with torch.no_grad():
        body.scale[1] = 2.0
    doubled = cached(body, open_pairs(table).a)
    assert body.seen == 48
    cached(body, open_pairs(table).a, replace(SPEC, image_size=8))
    assert body.seen == 72
    cached(body, open_pairs(table).a, replace(SPEC, mean=(0.5, 0.5, 0.5)))
    assert body.seen == 96
    file = table.parent / "img" / "04.png"
    shutil.copy(table.parent / "img" / "05.png", file)  # under the old name another size in bytes
    changed = cached(body, open_pairs(table).a)
    assert body.seen == 120
    np.testing.assert_allclose(changed[4], changed[5], rtol=1e-6)
    assert not np.allclose(doubled[4], changed[4])
    cached(body, open_pairs(table).a)
    assert body.seen == 120


def test_texts_are_computed_again_for_another_tokenizer_but_not_for_another_folder(
    joined, bert, tmp_path
):
    from open_clip.tokenizer import HFTokenizer

    encoder, texts = sogclr.load(joined), Texts(["a red picture", "blue"])
    body = encoder.towers["text"].body

    def cached(folder, length=16):
        names = {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder)}
        spec = replace(encoder.spec, text={**encoder.spec.text, **names, "context_length": length})
        tokenizer = HFTokenizer(str(folder), context_length=length)
        before = set(kept.iterdir()) if kept.exists() else set()
        cached_features(body, "text", texts, spec, tokenizer, CPU)
        return len(set(kept.iterdir()) - before)

    kept = Path(os.environ["SOGCLR_CACHE"]) / "features"
    shutil.copytree(bert, tmp_path / "copy")
    assert [cached(bert), cached(bert), cached(tmp_path / "copy"), cached(bert, 3)] == [1, 0, 0, 1]
    words = json.loads((bert / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    vocabulary["red"], vocabulary["blue"] = vocabulary["blue"], vocabulary["red"]
    (tmp_path / "copy" / "tokenizer.json").write_text(json.dumps(words))
    assert cached(tmp_path / "copy") == 1


def test_the_body_computes_in_eval_mode(make_pairs, cached):
    class Dropping(Body):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, images):
            return self.drop(super().forward(images))

    source = open_pairs(make_pairs()).a
    found = cached(Dropping().train(), source)
    np.testing.assert_allclose(
        found, compute_features(Body(), source, CenterImages(source, SPEC), CPU), rtol=1e-6
    )


def test_a_full_disk_is_no_obstacle(make_pairs, cached, monkeypatch, capsys):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    table, body = make_pairs(), Body()
    assert cached(body, open_pairs(table).a).shape == (24, 3)
    assert "not cached (the disk is nearly full)" in capsys.readouterr().err
    cached(body, open_pairs(table).a)
    assert body.seen == 48


def test_embeddings_of_a_run_are_kept_until_it_is_trained_further(make_pairs, tmp_path):
    source, calls = open_pairs(make_pairs()), []

    def compute():
        calls.append(1)
        return np.full((24, 2), len(calls), dtype=np.float32)

    weights, folder = tmp_path / "trained.safetensors", tmp_path / "embeddings"
    weights.write_bytes(b"one")
    for _ in range(2):
        assert (stored_embeddings(weights, folder, source.a, compute) == 1).all()
    weights.write_bytes(b"two")
    assert (stored_embeddings(weights, folder, source.a, compute) == 2).all()
    assert (stored_embeddings(weights, folder, source.b, compute) == 3).all()
    assert (stored_embeddings(weights, folder, source.a, compute) == 2).all()


@pytest.mark.parametrize("damage", ["truncated", "empty", "of another shape", "of objects"])
def test_a_damaged_cache_is_computed_again(make_pairs, tmp_path, capsys, damage):
    source, folder = open_pairs(make_pairs()).a, tmp_path / "embeddings"
    (tmp_path / "weights").write_bytes(b"one")
    right = np.random.default_rng(0).normal(size=(24, 2)).astype(np.float32)
    stored_embeddings(tmp_path / "weights", folder, source, lambda: right)
    (file,) = folder.iterdir()
    if damage in ("truncated", "empty"):
        file.write_bytes(file.read_bytes()[: -4 if damage == "truncated" else 0])
    else:
        np.save(file, right[:3] if damage == "of another shape" else np.array([{}] * 24))
    for _ in range(2):
        found = stored_embeddings(tmp_path / "weights", folder, source, lambda: right)
        assert np.array_equal(found, right)
    assert capsys.readouterr().err.count("is damaged") == 1


def test_a_cache_that_the_disk_cut_short_is_not_kept(make_pairs, tmp_path, monkeypatch, capsys):
    source, save = open_pairs(make_pairs()).a, np.save

    def cut(file, array):
        save(file, array)
        file.truncate(150)

    monkeypatch.setattr(np, "save", cut)
    (tmp_path / "weights").write_bytes(b"one")
    stored_embeddings(tmp_path / "weights", tmp_path / "e", source, lambda: np.ones((24, 2), "f4"))
    assert "features are not cached" in capsys.readouterr().err
    assert list((tmp_path / "e").iterdir()) == []
