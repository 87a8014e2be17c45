"""What a person got wrong is one line that says what to do, and exit code 2."""

import json

import numpy as np
import pytest
import torch
from helpers.refusal import refused
from helpers.small_tables import read_rows, write_table
from PIL import Image

import sogclr
from sogclr.commands.cli import main


@pytest.fixture
def align_fails(tmp_path, tiny, capsys):
    """The line of `sogclr align` on a table; nothing may be left of a run."""

    def fails(table, *flags, model=True):
        out = tmp_path / "refused"
        named = ["--model", tiny] if model else []
        line = refused(
            capsys, "align", table, "--out", out, "--device", "cpu", "--epochs", "1", *named, *flags
        )
        assert not (out / "settings.json").exists()
        return line

    return fails


def test_from_pairs_to_a_picture(make_pairs, tiny, tmp_path, capsys):
    table, run = make_pairs(), str(tmp_path / "run")
    flags = ["--model", str(tiny), "--batch-size", "8", "--epochs", "2", "--device", "cpu"]
    main(["align", str(table), "--out", run, *flags])
    derived = capsys.readouterr().err
    assert "24 images with 45 texts (columns image, caption)" in derived
    assert "learning rate" in derived

    main(["evaluate", run, str(table)])
    shown = capsys.readouterr().out
    for word in ("R@1", "R@5", "R@10", "median rank", "image to caption", "caption to image"):
        assert word in shown

    main(["search", run, "a red picture", "--top", "3"])
    found = capsys.readouterr().out.rstrip().splitlines()
    assert len(found) == 2 * 3  # an image, then its caption
    assert all(line.startswith(" ") for line in found[1::2])
    assert (tmp_path / "run" / "search.png").is_file()

    main(["embed", run, str(table), "--out", str(tmp_path / "x.npz")])
    assert np.load(tmp_path / "x.npz")["vectors"].shape == (24 + 45, 16)


def test_bad_tables_are_one_line(make_pairs, tmp_path, align_fails):
    table = make_pairs()
    rows = read_rows(table)

    def written(rows, names=("image", "caption"), folder=table.parent):
        return write_table(folder / "bad.csv", rows, names)

    assert "does not exist" in align_fails(tmp_path / "none.csv")
    assert "one pair has nothing to be contrasted with" in align_fails(written(rows[:1]))
    assert "has no rows" in align_fails(written([]))
    line = align_fails(written([(image, "a picture") for image, _ in rows]))
    assert "all 24 pairs have the same text" in line
    (tmp_path / "empty.csv").write_text("")
    assert "is empty" in align_fails(tmp_path / "empty.csv")
    line = align_fails(written(rows), "--columns", "image,words")
    assert "no column 'words'; it has image, caption" in line
    assert "two names with a comma" in align_fails(written(rows), "--columns", "caption")
    line = align_fails(written([(*row, 1) for row in rows], ("x", "y", "z")))
    assert "name them with --columns, it has x, y, z" in line
    line = align_fails(written(rows, folder=tmp_path))  # there is no img/ beside it
    assert "45 of 45 images of" in line
    assert "row 2: img/00.png: no such file or directory" in line
    assert f"searched from {tmp_path}" in line
    numbers = table.parent / "numbers.jsonl"
    numbers.write_text("\n".join(f'{{"image": "{image}", "caption": 7}}' for image, _ in rows))
    line = align_fails(numbers)
    assert "caption of" in line
    assert "does not hold text but int values (the first: 7)" in line
    line = align_fails(written([(image, "") for image, _ in rows]))
    assert "no usable pair; 45 rows with an empty caption" in line
    (tmp_path / "table.txt").write_text("image,caption\n")
    assert ".csv, .tsv, .jsonl, .parquet can be read" in align_fails(tmp_path / "table.txt")
    assert "a folder that datasets did not save" in align_fails(table.parent)
    line = align_fails("hf:nobody/nothing")
    assert "could not be loaded from the hub" in line
    assert "save it on another machine with dataset.save_to_disk(FOLDER)" in line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch-size", "25"], "25 is more than the 24 pairs there are"),
        (["--batch-size", "1"], "leaves no negatives"),
        (
            ["--rho", "6"],
            "rho: goes with --temperature-mode learned or --temperature-mode individual",
        ),
        (["--rho", "0", "--temperature-mode", "learned"], "rho: must be above 0"),
        (
            ["--rho", "3.9", "--temperature-mode", "learned"],
            "a softmax over 45 samples is at most 3.8 nats",
        ),
        (["--temperature-mode", "individual", "--method", "clip"], "with --method sogclr"),
        (
            ["--temperature-mode", "learned", "--method", "siglip"],
            "siglip always learns its temperature",
        ),
        (["--dropout", "1"], "dropout: must be at least 0 and below 1"),
        (["--temperature", "0"], "temperature: must be above 0"),
        (["--freeze", "audio"], "'audio' is not a side of these pairs: image, text"),
        (["--pretrained", "laion"], "is neither a file nor a tag"),
        (["--image-size", "32"], "image-size: is for joined towers"),
        (["--text-tower", "some/thing"], "text-tower: is for joined towers"),
    ],
)
def test_bad_settings_are_one_line(pairs, align_fails, flags, message):
    assert message in align_fails(pairs, *flags)


@pytest.mark.parametrize(
    ("flags", "messages"),
    [
        (["--model", "ViT-B-33"], ["'ViT-B-33' is unknown to open_clip", "nearest: ViT-B-32"]),
        (
            ["--model", "ViT-B-32", "--pretrained", "opneai"],
            ["neither a file nor a tag of ViT-B-32", "nearest: openai"],
        ),
        (["--image-tower", "resnet51"], ["'resnet51' is unknown; nearest:", "resnet50"]),
        (
            ["--text-tower", "nobody/no-such-tower"],
            ["nobody/no-such-tower is neither a folder", "pass its folder"],
        ),
        (
            ["--image-tower", "test_vit"],
            ["image-tower: ", "could not be built", "without a network", "--image-weights FILE"],
        ),
        (["--pretrained", "openai"], ["pretrained: goes with --model"]),
        (["--width", "0"], ["width: must be at least 1, got 0"]),
    ],
    ids=lambda value: "-".join(value[:2]),
)
def test_towers_that_cannot_be_had_are_one_line(pairs, align_fails, flags, messages):
    line = align_fails(pairs, *flags, model=False)
    assert all(message in line for message in messages), line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "ViT-B-33"], "is unknown to open_clip"),
        (["--model", "ViT-B-32", "--pretrained", "opneai"], "neither a file nor a tag"),
        (["--image-tower", "resnet51"], "'resnet51' is unknown"),
    ],
)
def test_unknown_towers_are_refused_before_the_data_is_read(
    pairs, align_fails, flags, message, monkeypatch
):
    monkeypatch.setattr("sogclr.data.tables.read.read_table", None)
    monkeypatch.setattr("sogclr.training.open_streams.open_data", None)
    monkeypatch.setattr("sogclr.commands.align.open_data", None)
    assert message in align_fails(pairs, *flags, model=False)


def test_weights_that_do_not_fit_are_one_line(pairs, tmp_path, resnet_weights, align_fails):
    """Of the same names and other shapes, of other names, none at all, and not weights."""
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pt")
    tower = ["--image-tower", "test_resnet", "--image-weights"]
    line = align_fails(pairs, *tower, tmp_path / "other.pt", model=False)
    assert "image-weights: " in line
    assert "does not fit the encoder" in line
    line = align_fails(
        pairs, "--image-tower", "test_vit", "--image-weights", resnet_weights, model=False
    )
    assert "does not fit the encoder" in line
    assert "does not exist" in align_fails(pairs, *tower, tmp_path / "none.pt", model=False)
    (tmp_path / "text.pt").write_text("no weights")
    assert "cannot be read" in align_fails(pairs, *tower, tmp_path / "text.pt", model=False)
    line = align_fails(pairs, "--pretrained", tmp_path / "other.pt")
    assert "could not be built" in line


def test_nothing_left_to_train_is_one_line(sentences, make_config, align_fails):
    """A tower whose body ends in the joint space has no head."""
    path = make_config(text_cfg={"proj_type": "none"})
    line = align_fails(sentences, "--model", path, "--freeze", "text", model=False)
    assert "freeze: nothing is left to train" in line


def test_models_that_are_none_are_one_line(pairs, make_config, tmp_path, align_fails):
    path = make_config(text_cfg={"proj_type": "none", "width": 24})
    line = align_fails(pairs, "--model", path, model=False)
    assert "end in different widths, 16 and 24; give both a projection" in line
    for text, message in (("{", "cannot be read"), ("{}", "open_clip: it lacks embed_dim")):
        (tmp_path / "bad.json").write_text(text)
        line = align_fails(pairs, "--model", tmp_path / "bad.json", model=False)
        assert f"model: {tmp_path}/bad.json" in line
        assert message in line
    line = align_fails(pairs, "--model", tmp_path / "none.json", model=False)
    assert "is unknown to open_clip" in line


def test_a_run_in_the_way_and_one_that_is_none_are_one_line(pairs, trained, tmp_path, capsys):
    assert "holds a run already" in refused(capsys, "align", pairs, "--out", trained)
    line = refused(capsys, "align", pairs, "--out", tmp_path / "none", "--resume")
    assert "does not exist" in line


def test_bad_evaluations_are_one_line(pairs, sentences, trained, on_texts, tmp_path, capsys):
    def fails(run, data, *flags):
        return refused(capsys, "evaluate", run, data, *flags)

    line = fails(trained, pairs, "--protocol", "knn")
    assert "'knn' does not fit a run on pairs; give one of retrieval, zero-shot, sts" in line
    assert "give one of" in fails(trained, pairs, "--protocol", "retrieval,sts")
    assert "no column score; it has image, caption" in fails(trained, pairs, "--protocol", "sts")
    line = fails(trained, sentences, "--protocol", "retrieval")
    assert "pairs text and text, the run was trained on image and text" in line
    assert "pairs image and text" in fails(on_texts, pairs)
    assert "no labels" in fails(trained, pairs.parent)
    assert "does not exist" in fails(trained, tmp_path / "none.csv")
    (tmp_path / "bad.csv").write_text("text1,text2,score\na,b,high\nc,d,low\n")
    line = fails(on_texts, tmp_path / "bad.csv")
    assert "the score in row 2 of" in line
    assert "is not a number: 'high'" in line


def test_bad_templates_are_one_line(trained, make_folder, capsys):
    line = refused(capsys, "evaluate", trained, make_folder(), "--templates", "a photo")
    assert "'a photo' has no {} where the name of a class goes" in line


def test_bad_searches_are_one_line(make_folder, trained, joined, on_texts, tmp_path, capsys):
    def fails(run, *arguments):
        return refused(capsys, "search", run, *arguments)

    assert "query: is empty" in fails(trained, " ")
    assert "top: must be at least 1, got 0" in fails(trained, "red", "--top", "0")
    assert "cannot be read as an image" in fails(trained, tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no picture")
    line = fails(trained, tmp_path / "text.png")
    assert "text.png cannot be read as an image (not an image" in line
    line = fails(trained, "red", "--out", tmp_path / "no" / "folder.png")
    assert "out: there is no folder" in line
    line = fails(trained, "red", "--out", tmp_path / "found.bmp")
    assert "out: a picture is written as .png, not as .bmp" in line
    Image.new("RGB", (20, 20)).save(tmp_path / "black.png")
    assert "no images" in fails(on_texts, tmp_path / "black.png")
    assert "no image tower" in fails(on_texts, "red", "--data", make_folder())
    assert "is not a run" in fails(tmp_path, "red")
    small = ["--encoder", "small", "--image-size", "8", "--epochs", "1", "--device", "cpu"]
    main(["pretrain", str(make_folder()), "--out", str(tmp_path / "images"), *small])
    assert "was trained on images alone" in fails(tmp_path / "images", "red")


def test_bad_targets_of_embed_are_one_line(pairs, trained, tmp_path, capsys):
    line = refused(capsys, "embed", trained, pairs, "--out", tmp_path / "x.csv")
    assert "must end in .npz or .parquet" in line
    line = refused(
        capsys, "embed", trained, pairs, "--out", tmp_path / "x.npz", "--columns", "image,title"
    )
    assert "no column 'title'; it has image, caption" in line


def test_candidates_reach_the_loss(pairs, fast, tmp_path):
    settings = {**fast, "epochs": 1}
    ends = []
    for name, options in {
        "all": {},
        "few": {"effective_negatives": 3},
        "many": {"effective_negatives": 1e9},
    }.items():
        sogclr.align(pairs, tmp_path / name, **settings, **options)
        ends.append(torch.load(tmp_path / name / "checkpoint.pt")["model"])
    same = [all(torch.allclose(ends[0][k], other[k], atol=1e-4) for k in other) for other in ends]
    assert same == [True, False, True]


@pytest.mark.parametrize("freeze", ["", "image", "text"])
def test_dropout_without_a_place_is_refused(make_pairs, align_fails, freeze):
    flags = ["--dropout", "0.1", *(["--freeze", freeze] if freeze else [])]
    assert "--dropout: does nothing here" in align_fails(make_pairs(), *flags)


@pytest.mark.parametrize("towers", ["text", "both frozen"])
def test_dropout_is_placed_in_hidden_layers(make_pairs, bert, resnet_weights, tmp_path, towers):
    flags = ["--text-tower", str(bert)]
    if towers == "both frozen":
        flags += ["--image-tower", "test_resnet", "--image-weights", str(resnet_weights)]
        flags += ["--freeze", "image,text"]
    run = str(tmp_path / "run")
    command = ["align", str(make_pairs()), "--out", run, "--dropout", "0.1", "--epochs", "1"]
    main([*command, "--batch-size", "8", "--image-size", "32", "--device", "cpu", *flags])
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert settings["resolved"]["dropout"] == 0.1


@pytest.mark.parametrize(
    ("flag", "value"), [("gamma-min", "0.5"), ("gamma-decay-visits", "3"), ("memory-size", "9")]
)
@pytest.mark.parametrize("method", ["clip", "dcl", "siglip"])
def test_options_of_another_method_are_refused(make_pairs, align_fails, flag, value, method):
    line = align_fails(make_pairs(), f"--{flag}", value, "--method", method)
    assert f"--{flag}: goes with --method sogclr, not with {method}; leave it out" in line
