"""Argument lists: a command does its work, or refuses in words; never with a traceback."""

import os
from typing import Literal, get_args, get_origin

import pytest
from helpers.commands_in_process import end_of, short_training
from helpers.fuzzing import run_cases
from helpers.packing import encoded, pack
from hypothesis import strategies as st

from sogclr.commands.arguments import arguments_of
from sogclr.commands.cli import COMMANDS
from sogclr.common.errors import flag

NUMBERS = (
    *("0", "-1", "1", "2", "3", "8", "0.5", "0.9", "1.5", "1e3", "1e-300", "1e400", "nan", "-inf"),
    *("9" * 30, "1_0", "0x10", "007", "1,2", "٣"),
)
WORDS = (
    *("", " ", "x", "ünï", "a,b", ",", "-", "--", "None", "True", "[]", "{}", "[/red]", ":smile:"),
    *(
        "a\nb",
        "\udcff",
        "a" * 5000,
        "~",
        "digits",
        "custom:X",
        "hf:",
        "hf:a/b:c",
        "{0..99999999999}",
    ),
    *("photos", "photos/blue/000.png", "pairs/train.csv", "shard.tar", "images", "trained", "none"),
    *("file:shard.tar", "file:///none.tar", "ftp://", "://", "../x", "x.npz", "x.parquet", "x.png"),
    *("small", "auto", "test_resnet", "resnet19", "image", "image,caption", "image,image", "text"),
    *("/proc/x", "photos/x", "config.json", "knn", "knn,linear", "retrieval", "sts", "zero-shot"),
)
# Lists that work; others are made of them.
PRETRAIN = ["pretrain", "photos", "--out", "out", "--encoder", "small", "--image-size", "8"]
ALIGN = ["align", "pairs/train.csv", "--out", "out", "--model", "config.json"]
TRAIN = ["--batch-size", "8", "--epochs", "1", "--device", "cpu"]
GOOD = [
    [*PRETRAIN, *TRAIN],
    [*ALIGN, *TRAIN],
    ["evaluate", "images", "photos", "--device", "cpu"],
    ["evaluate", "trained", "pairs/train.csv", "--device", "cpu"],
    ["embed", "images", "photos", "--out", "x.npz", "--device", "cpu"],
    ["embed", "trained", "pairs/train.csv", "--out", "x.parquet", "--device", "cpu"],
    ["search", "trained", "a red picture", "--device", "cpu", "--out", "x.png"],
    ["audit", "images", "photos", "--device", "cpu", "--samples", "16"],
    ["report", "images", "photos", "--device", "cpu", "--samples", "16", "--out", "x.html"],
]
USUAL = ("1", "2", "4", "8", "0.5", "0.9")  # what most options take
SWITCHES = ("--pretrained", "--shard-model", "--checkpoint-activations", "--resume")
WORKERS = ("-1", "0", "1001", "x", "")  # more would start processes


def choices_of(kind):
    """The words of a Literal, also of one that may be None."""
    kinds = (kind, *get_args(kind))
    return next((get_args(each) for each in kinds if get_origin(each) is Literal), ())


def options_of(name):
    """The options of a command, and the words that each of them takes, if it takes only these."""
    options = {}
    for argument in arguments_of(COMMANDS[name]):
        if argument.name == "views" and hasattr(argument.default, "flip"):
            options |= {f"--views.{field}": () for field in vars(argument.default)}
        elif not argument.python_only:
            options[flag(argument.name)] = choices_of(argument.kind)
    return options


@st.composite
def draw_lists(draw):
    """A list that works, with one to three changes, of which every second is an option's value."""
    words = list(draw(st.sampled_from(GOOD)))
    options = options_of(words[0])
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        place = draw(st.integers(1, len(words)))
        change = draw(st.integers(0, 19))
        if change == 0:
            del words[place - 1]
        elif change == 1:
            words[place:place] = words[place - 1 : place]
        elif change == 2:
            words[place - 1] = draw(st.sampled_from(WORDS))
        elif change == 3:
            words.insert(place, draw(st.sampled_from([*WORDS, "--help", "--x", "-h", "--resume"])))
        else:
            option = draw(st.sampled_from(sorted(options)))
            usual = options[option] or USUAL
            value = draw(st.sampled_from([*usual] if change > 9 else [*NUMBERS, *WORDS]))
            if option == "--workers":
                value = draw(st.sampled_from(WORKERS))
            bare = option in SWITCHES or draw(st.integers(0, 19)) == 0
            words += [option] if bare else [option, value]
    return words


@pytest.fixture
def place(tmp_path, monkeypatch, make_folder, trained, tiny, pairs):
    """A folder, deep enough for `..`, that has what the lists name."""
    make_folder()
    here = tmp_path / "a" / "b"
    here.mkdir(parents=True)
    (tmp_path / "photos").rename(here / "photos")
    (here / "config.json").symlink_to(tiny)
    (here / "pairs").symlink_to(pairs.parent)
    (here / "trained").symlink_to(trained)
    pack(here / "shard.tar", [(f"{i}.png", encoded(i)) for i in range(4)])
    monkeypatch.chdir(here)
    assert end_of([*PRETRAIN[:3], "images", *PRETRAIN[4:], *TRAIN]) == "done"
    return here


def remove(path):
    """Remove what a command has written."""
    for each in sorted(path.rglob("*"), reverse=True):
        each.rmdir() if each.is_dir() and not each.is_symlink() else each.unlink()
    path.rmdir()


@pytest.mark.parametrize("cases", [8, pytest.param(500, marks=pytest.mark.fuzz)])
def test_argument_lists(place, counts, cases):
    kept = set(os.listdir(place))

    def check(words):
        end = end_of(words)
        for name in set(os.listdir(place)) - kept:
            path = place / name
            remove(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        return end

    with short_training():
        counts["argument lists"] = ends = run_cases(check, cases, words=draw_lists())
    assert "refused" in ends
