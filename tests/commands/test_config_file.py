"""Options from a file: the same as from the command line, or a line that says what is wrong."""

import json
from functools import wraps

import pytest
from helpers.refusal import refused

import sogclr
from sogclr import Augmentation
from sogclr.commands import cli
from sogclr.commands.arguments import arguments_of

FAST = ["--encoder", "small", "--image-size", "8", "--batch-size", "8", "--device", "cpu"]


@pytest.fixture
def received(monkeypatch):
    """The arguments that each command receives; nothing is run."""
    calls = []
    for name in ("pretrain", "align"):
        stand_in = wraps(cli.COMMANDS[name])(lambda **values: calls.append(values))
        monkeypatch.setitem(cli.COMMANDS, name, stand_in)
    return calls


def write(tmp_path, text):
    file = tmp_path / "own.toml"
    file.write_text(text)
    return str(file)


def test_options_in_a_file_are_those_of_the_command_line(tmp_path, received):
    file = write(
        tmp_path,
        'data = "photos"\nout = "run"\nbatch-size = 64\nlearning_rate = 1\nmethod = "dcl"\n'
        'pretrained = true\nlogger = ["wandb", "mlflow"]\n[views]\ncrop-min = 0.3\nflip = 0\n',
    )
    words = ["photos", "--out", "run", "--batch-size", "64", "--learning-rate", "1"]
    words += ["--method", "dcl", "--pretrained", "--logger", "wandb,mlflow"]
    words += ["--views.crop-min", "0.3", "--views.flip", "0"]
    cli.main(["pretrain", "--config", file])
    cli.main(["pretrain", *words])
    assert received[0].pop("config") == file
    assert received[1].pop("config") is None
    assert received[0] == received[1]


@pytest.mark.parametrize("form", ["--config {}", "--config={}"])
def test_words_of_the_command_line_are_above_those_of_the_file(tmp_path, received, form):
    file = write(tmp_path, "epochs = 7\nseed = 3\nviews.flip = 0.25\nviews.gray = 0.5\n")
    words = form.format(file).split()
    # 100 is the default, too: given is given.
    cli.main(["pretrain", "x", "--out", "y", "--epochs", "100", *words, "--views.gray", "0"])
    assert received[0]["epochs"] == 100
    assert received[0]["seed"] == 3
    assert received[0]["views"] == Augmentation(flip=0.25, gray=0.0)


@pytest.mark.parametrize(
    ("words", "value"), [([], True), (["--pretrained"], True), (["--no-pretrained"], False)]
)
def test_a_switch_in_a_file_can_be_repeated_or_undone(tmp_path, received, words, value):
    file = write(tmp_path, "pretrained = true")
    cli.main(["pretrain", "x", "--out", "y", "--config", file, *words])
    assert received[0]["pretrained"] is value


def test_every_option_of_both_commands_can_stand_in_a_file(tmp_path, received):
    values = {int: 3, float: 0.5, bool: True, str: "x"}
    for command in ("pretrain", "align"):
        arguments = [a for a in arguments_of(cli.COMMANDS[command]) if not a.python_only]
        names = [a.name for a in arguments if a.name not in ("config", "views")]
        for name in names:
            taken = []
            for value in values.values():
                file = write(tmp_path, f"{name} = {json.dumps(value)}\n")
                try:
                    cli.main([command, "--config", file, *(["x"] if name != "data" else []),
                              *(["--out", "y"] if name != "out" else [])])  # fmt: skip
                    taken.append(received[-1][name] == value)
                except SystemExit:  # another type, or not one of the choices
                    continue
            literal = name in ("method", "normalizer", "norm", "optimizer", "precision", "device",
                               "temperature_mode", "on_damaged")  # fmt: skip
            assert taken or literal, name
            assert all(taken)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = 1\nbatch-sise = 3", "line 2: batch-sise is unknown; did you mean batch_size?"),
        ("\n\nzzz = 3", "line 3: zzz is unknown; sogclr pretrain --help lists all"),
        ("callbacks = 3", "line 1: callbacks is unknown"),
        ('config = "a.toml"', "line 1: config is unknown"),
        ('epochs = "7"', "line 1: epochs needs a whole number, got '7'"),
        ("learning-rate = 1" + "0" * 400, "line 1: learning-rate needs a number, got 1000"),
        ("[views]\ncrop-min = 0.1\ncrop_min = 0.2", "line 3: crop_min is given twice"),
        ("epochs = true", "line 1: epochs needs a whole number, got True"),
        ("epochs = 7.0", "line 1: epochs needs a whole number, got 7.0"),
        ("pretrained = 1", "line 1: pretrained needs true or false, got 1"),
        ('method = "simclrr"', "line 1: method needs one of sogclr, simclr, dcl, moco, got"),
        ("seed = 1\nseed = 2", "is no TOML ("),
        ("seed = 1\n[views]\nflop = 1", "line 3: flop is unknown; did you mean flip?"),
        ("views = 3", "line 1: views needs a table with crop_min, flip"),
        ("views.flip = 3", "--views.flip: must be between 0 and 1, got 3"),
        ("batch-size = 8\nbatch_size = 9", "line 2: batch_size is given twice"),
        ('logger = ["a,b"]', "line 1: logger needs texts without commas"),
        ("[optimization]\nseed = 1", "line 1: optimization is unknown; did you mean "),
        ("epochs = 0", "--epochs: must be at least 1, got 0"),
        ("seed", "is no TOML ("),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line(tmp_path, capsys, text, message):
    file = write(tmp_path, text)
    line = refused(capsys, "pretrain", tmp_path, "--out", tmp_path / "run", "--config", file)
    assert message in line
    assert message.startswith("--") or file in line


def test_what_is_no_file_of_options_is_one_line(tmp_path, capsys):
    words = ["pretrain", tmp_path, "--out", tmp_path / "run", "--config"]
    assert "does not exist" in refused(capsys, *words, tmp_path / "none.toml")
    assert '--config: "" is no value' in refused(capsys, *words, "")
    (tmp_path / "folder.toml").mkdir()
    assert "is not a run of sogclr" in refused(capsys, *words, tmp_path / "folder.toml")
    (tmp_path / "own.py").write_text("raise SystemExit(9)")
    assert "must end in .toml" in refused(capsys, *words, tmp_path / "own.py")
    (tmp_path / "own.json").write_text("{}")
    assert "must be the settings.json" in refused(capsys, *words, tmp_path / "own.json")
    (tmp_path / "big.toml").write_bytes(b"#" * (1 << 20) + b"#")
    assert "is larger than 1 MiB" in refused(capsys, *words, tmp_path / "big.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    assert "is no TOML" in refused(capsys, *words, tmp_path / "bytes.toml")
    (tmp_path / "settings.json").write_text('{"asked": 3}')
    assert "'asked' is missing" in refused(capsys, *words, tmp_path / "settings.json")
    (tmp_path / "settings.json").write_text('{\n "asked": {\n  "sed": 3}}')
    line = refused(capsys, *words, tmp_path / "settings.json")
    assert "line 3: sed is unknown; did you mean seed?" in line


def test_a_run_is_repeated_by_its_settings(make_folder, tmp_path, capsys):
    photos, run, again = make_folder(), tmp_path / "run", tmp_path / "again"
    words = ["--epochs", "1", "--views.flip", "0.25", "--seed", "5", *FAST]
    cli.main(["pretrain", str(photos), "--out", str(run), *words])
    for number, file in enumerate((run, run / "settings.json")):
        cli.main(["pretrain", str(photos), "--out", f"{again}{number}", "--config", str(file)])
        stored = [
            json.loads((folder / "settings.json").read_text())
            for folder in (run, tmp_path / f"again{number}")
        ]
        assert stored[0] == stored[1]
    line = refused(capsys, "align", photos, "--out", tmp_path / "x", "--config", run)
    assert "is of a run of sogclr pretrain; give that of a run of sogclr align" in line
    (tmp_path / "settings.json").write_text('{"kind": "classifier", "asked": {}}')
    line = refused(capsys, "pretrain", photos, "--out", tmp_path / "x", "--config", tmp_path)
    assert "is of a classifier of sogclr finetune" in line


def test_the_frozen_towers_of_a_run_are_frozen_again(tmp_path, received):
    settings = {"kind": "pairs", "freeze": ["image", "text"], "asked": {"columns": ["a", "b"]}}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    cli.main(["align", "x", "--out", "y", "--config", str(tmp_path)])
    assert received[0]["freeze"] == "image,text"
    assert received[0]["columns"] == "a,b"


def test_python_takes_a_file_too(make_folder, tmp_path):
    photos, run = make_folder(), tmp_path / "run"
    file = write(
        tmp_path,
        f'data = {json.dumps(str(photos))}\nencoder = "small"\nepochs = 9\nbatch_size = 8\n'
        'image_size = 8\ndevice = "cpu"\n',
    )
    sogclr.pretrain(out=run, config=file, epochs=1)
    asked = json.loads((run / "settings.json").read_text())["asked"]
    assert (asked["epochs"], asked["batch_size"]) == (1, 8)
    with pytest.raises(TypeError, match=r"^pretrain\(\) missing a required argument: 'out'"):
        sogclr.pretrain(config=file)
