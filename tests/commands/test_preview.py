"""`sogclr.preview` shows before training what `pretrain` and `align` train on."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from helpers.refusal import refused
from helpers.small_tables import read_rows, write_table
from PIL import Image

import sogclr
from sogclr import UserError
from sogclr.data.open_images import open_images
from sogclr.data.open_pairs import open_pairs
from sogclr.models.build_towers import build_towers, describe_inputs, tokenizer_of
from sogclr.models.towers import PairModel
from sogclr.planning.pairs import plan_pairs
from sogclr.planning.settings_pairs import PairSettings
from sogclr.planning.settings_preview import PreviewArguments
from sogclr.training.build_pairs import build_training
from sogclr.training.pair_inputs import PairInputs
from sogclr.training.pairs_picture import load_first_pairs


def pixels_of(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_images_are_shown_as_pretrain_shows_them(make_folder, tmp_path, capsys):
    folder, options = make_folder(), {"image_size": 20, "seed": 4}
    shown = sogclr.preview(folder, out=tmp_path, **options)
    assert shown == tmp_path / "preview.png"
    assert "image size      20 px        as given" in capsys.readouterr().err
    sogclr.pretrain(folder, tmp_path / "run", epochs=1, device="cpu", **options)
    assert np.array_equal(pixels_of(shown), pixels_of(tmp_path / "run" / "views.png"))
    other = sogclr.preview(folder, out=tmp_path / "other.png", image_size=20, seed=5)
    assert not np.array_equal(pixels_of(shown), pixels_of(other))


def test_the_picture_is_not_taken_for_data(make_folder):
    folder = make_folder()
    sogclr.preview(folder, out=folder)
    assert len(open_images(folder)) == 16


def test_pairs_are_what_align_receives(pairs, tiny):
    given = PreviewArguments(str(pairs), model=str(tiny), seed=2)
    request, source = given.settings(PairSettings), open_pairs(pairs)
    plan = plan_pairs(request, source, frozen=(), pretrained=False, device="cpu", workers=None)
    spec, tokenizer = describe_inputs(given, source.kinds, (), source.image_size)
    first = load_first_pairs(source, plan, spec, tokenizer)

    _, towers = build_towers(request, source.kinds, (), source.image_size)
    inputs = PairInputs(spec, towers, tokenizer_of(spec, towers), plan, torch.device("cpu"))
    model = PairModel(towers, spec.kinds, ())
    task, schedule = build_training(source, model, plan, inputs, None, nullcontext)
    rows = next(iter(schedule)).rows[:10]
    partners = source.draw(2, 0, rows)
    views = task.a.to_model(task.a.prepare(rows, 0), torch.device("cpu"))
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    for number, (row, view) in enumerate(zip(rows, views, strict=True)):
        original, shown = first.images[number]
        assert np.array_equal(np.asarray(original), np.asarray(source.a.image(row)))
        expected = (view * std + mean) * 255
        found = torch.from_numpy(np.array(shown)).permute(2, 0, 1)
        assert (found - expected).abs().max() <= 0.5 + 1e-3
        (text,) = first.texts[number]
        assert text.tokens == len(tokenizer.tokenizer.tokenize(source.b.texts[partners[number]]))
    (longest,) = first.texts[first.longest]
    assert longest.tokens >= max(text.tokens for (text,) in first.texts.values())


@pytest.mark.parametrize("named", [False, True])
def test_descriptions_without_weights_are_those_of_the_towers(named, pairs, bert, resnet_weights):
    names = {"image_tower": "test_resnet", "text_tower": str(bert), "context_length": 9}
    options = names if named else {}
    weights = {"image_weights": str(resnet_weights)} if named else {}
    spec, tokenizer = describe_inputs(PreviewArguments("x", **options), ("image", "text"), (), 40)
    built, towers = build_towers(PairSettings(**options, **weights), ("image", "text"), (), 40)
    for name in ("kinds", "image_size", "mean", "std"):
        assert getattr(spec, name) == getattr(built, name)
    texts = ["a red picture", "the " * 20]
    assert torch.equal(tokenizer(texts), tokenizer_of(built, towers)(texts))


def test_a_picture_of_each_kind_of_pairs(pairs, sentences, tiny, tmp_path, capsys):
    files = [
        sogclr.preview(pairs, out=tmp_path / "a.png", model=str(tiny)),
        sogclr.preview(pairs, out=tmp_path / "b.png", model=str(tiny), freeze="image"),
        sogclr.preview(sentences, out=tmp_path / "c.png", model=str(tiny), context_length=4),
    ]
    shown = [pixels_of(file) for file in files]
    assert not np.array_equal(shown[0], shown[1])
    red = (shown[2] == (0xB3, 0x26, 0x1E)).all(axis=2)
    assert red.sum() > 100
    assert "are longer than 4 tokens and are cut" in capsys.readouterr().err


def test_hostile_captions_are_drawn_as_text(make_pairs, tiny, tmp_path):
    table = make_pairs()
    hostile = ["<script>alert(1)</script>", "\u202egnp \x1b[31m", "$x^2$ \U0001f600", "w" * 900]
    write_table(table, [*read_rows(table), *(("img/00.png", caption) for caption in hostile)])
    assert sogclr.preview(table, out=tmp_path / "x.png", model=str(tiny)).is_file()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["photos", "--columns", "a,b"], "--columns: has no effect, since these data are images"),
        (["photos", "--freeze", "image"], "--freeze: has no effect, since these data are images"),
        (["pairs.csv", "--encoder", "small"], "--encoder: has no effect, since these data are pai"),
        (["photos", "--out", "x.jpg"], "--out: a picture is written as .png, not as .jpg"),
        (["https://example.org/a.tar"], "data: a stream cannot be previewed"),
        (["nothing"], "data: nothing does not exist"),
        (["photos", "--encoder", "resnet18x"], "--encoder: "),
        (["pairs.csv", "--freeze", "sound"], "--freeze: 'sound' is not a side of these pairs"),
    ],
)
def test_what_cannot_work_is_one_line(
    words, line, make_folder, make_pairs, tmp_path, monkeypatch, capsys
):
    make_folder()
    make_pairs(".").rename(tmp_path / "pairs.csv")
    monkeypatch.chdir(tmp_path)
    assert line in refused(capsys, "preview", *words)


def test_nothing_readable_is_refused(make_folder, tmp_path):
    folder = make_folder(per_class=1)
    source = open_images(folder)
    for name in source.names:
        (folder / name).unlink()
    with pytest.raises(UserError, match="none of the first images can be read"):
        sogclr.preview(source, out=tmp_path / "x.png")
