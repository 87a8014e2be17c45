"""Runs on pairs in shards."""

import numpy as np
import pytest
from helpers.bits import checkpoint, same
from helpers.launching import finished, started
from helpers.packing import pack
from helpers.small_tables import read_rows

import sogclr
from sogclr.auditing import measure
from sogclr.commands.cli import main
from sogclr.data.batches.schedule import ShuffledSchedule
from sogclr.data.open_pairs import open_pairs
from sogclr.data.tar.patterns import find_shards
from sogclr.data.texts import Texts
from sogclr.models.tower_features import plain_inputs
from sogclr.models.tower_inputs import CenterImages
from sogclr.training.pair_batches import pair_batches


@pytest.fixture
def shards(pairs, tmp_path):
    """The first caption of every image of the table, in three shards: the pattern."""
    captions = {}
    for image, caption in read_rows(pairs):
        captions.setdefault(image, caption)
    for number, names in enumerate(np.array_split(sorted(captions), 3)):
        members = []
        for name in names.tolist():
            members.append((name, (pairs.parent / name).read_bytes()))
            members.append((name.replace(".png", ".txt"), captions[name].encode()))
        pack(tmp_path / f"pairs-{number}.tar", members)
    return str(tmp_path / "pairs-{0..2}.tar")


def test_every_verb_of_pairs_takes_shards(shards, tiny, tmp_path, capsys, monkeypatch):
    run = str(tmp_path / "run")
    start = ["--model", str(tiny), "--batch-size", "8", "--device", "cpu", "--workers", "1"]
    main(["align", shards, "--out", run, "--val", shards, "--epochs", "1", *start])
    said = capsys.readouterr().err
    assert "24 images with 24 texts" in said
    visits = checkpoint(run)["loss"]
    for side in "ab":
        assert visits[f"normalizer_{side}.table"][:, 1].tolist() == [1] * 24 + [0]

    main(["evaluate", run, shards])
    assert "sum of the six recalls" in capsys.readouterr().out
    main(["embed", run, shards, "--out", str(tmp_path / "x.npz")])
    stored = np.load(tmp_path / "x.npz")
    texts = list(open_pairs(shards).b.texts)
    assert stored["paths"].tolist() == [f"img/{i:02d}" for i in range(24)] + texts
    assert stored["side"].tolist() == ["a"] * 24 + ["b"] * 24
    monkeypatch.setattr(measure, "VISITS", 100)  # how exact it is does not matter here
    main(["audit", run, shards, "--out", str(tmp_path / "audit.png"), "--device", "cpu"])
    assert (tmp_path / "audit.png").exists()
    monkeypatch.chdir(tmp_path)  # the run remembers where its shards are, wherever it is called
    main(["search", "run", "a red picture", "--top", "3"])
    assert len(capsys.readouterr().out.strip().splitlines()) >= 3


def test_a_run_on_shards_is_the_run_on_columns_of_the_same_texts(shards, fast, tmp_path):
    """Order and views derive from ids, so images have to have the same ones."""
    source = open_pairs(shards)
    listed = Texts(list(source.b.texts))
    for name, b in (("shards", source.b), ("list", listed)):
        pairs = type(source)(**{**vars(source), "b": b})
        sogclr.align(pairs, tmp_path / name, **fast)
    assert same(checkpoint(tmp_path / "shards"), checkpoint(tmp_path / "list"))


def test_two_processes_read_every_pair_once(shards, tiny, tmp_path):
    arguments = ["-m", "sogclr", "align", shards, "--model", str(tiny), "--device", "cpu"]
    arguments += ["--batch-size", "8", "--epochs", "2", "--workers", "2"]
    finished(started(2, *arguments, "--out", str(tmp_path / "run")))
    loss = checkpoint(tmp_path / "run")["loss"]
    for side in "ab":
        assert loss[f"normalizer_{side}.table"][:, 1].tolist() == [2] * 24 + [0]


def test_a_pair_is_skipped_if_either_side_cannot_be_read(pairs, trained, tmp_path):
    """An image in one shard, whose caption occurs first in another one that goes."""
    for number, name in enumerate(("img/00.png", "img/01.png", "img/02.png")):
        members = [(name, (pairs.parent / name).read_bytes())]
        caption = b"a red picture" if number < 2 else b"blue"
        pack(tmp_path / f"{number}.tar", [*members, (name.replace(".png", ".txt"), caption)])
    source = open_pairs(str(tmp_path / "{0..2}.tar"))
    find_shards(str(tmp_path / "{0..2}.tar"))[0].unlink()
    encoder = sogclr.load(trained)
    inputs = (
        CenterImages(source.a, encoder.spec),
        plain_inputs(source.b, encoder.spec, encoder.tokenizer),
    )
    plan = ShuffledSchedule(source.a.ids, 3, 1, 1, seed=0)
    (batch,) = pair_batches(source, plan, *inputs, workers=0, pin_memory=False)
    assert batch.micro_batch.rows.tolist() == [2]
    assert batch.partners.tolist() == [1]
    assert len(batch.a.tensor) == len(batch.b.tensor) == 1
    assert [name for name, _ in batch.unreadable] == ["0.tar: img/00", source.b.names[0]]
