"""`sogclr align` on a stream: the run of the same pairs on this machine, wherever it is stopped."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import stopping
from helpers.bits import assert_alike, checkpoint, same
from helpers.interrupting import interrupt_after
from helpers.launching import finished, started
from helpers.packing import pack
from helpers.refusal import refused
from helpers.serving import serving
from helpers.small_tables import read_rows
from safetensors.torch import load_file

import sogclr
from sogclr.commands.cli import main
from sogclr.data.batches.stream import StreamSchedule
from sogclr.data.open_pairs import open_pairs
from sogclr.data.tar.stream_pairs import PairStream
from sogclr.models.tower_inputs import DrawnViews, ImageViews, Tokenizer
from sogclr.planning.pairs import CLIP_VIEWS
from sogclr.training.task_pair_stream import stream_pair_batches

SAMPLES, ROWS, EPOCHS = 24, 10_000, 3
STREAM = {"epoch_samples": SAMPLES, "table_rows": ROWS}
NO_TABLE = {"table_rows": None}
FLAGS = ["--epoch-samples", str(SAMPLES), "--table-rows", str(ROWS)]


@pytest.fixture
def shards(pairs, tmp_path):
    """A folder of three shards: the table's images and captions, some of which they share."""
    captions = {}
    for image, caption in read_rows(pairs):
        captions.setdefault(image, []).append(caption)
    for name in sorted(captions)[:4]:
        captions[name] = ["a red picture"]
    (tmp_path / "shards").mkdir()
    for number, names in enumerate(np.array_split(sorted(captions), 3)):
        members = []
        for name in names.tolist():
            members.append((name, (pairs.parent / name).read_bytes()))
            texts = json.dumps({"captions": captions[name]}).encode()
            members.append((name.replace(".png", ".json"), texts))
        pack(tmp_path / "shards" / f"{number}.tar", members)
    return tmp_path / "shards"


@pytest.fixture
def pattern(shards):
    return f"{shards.as_uri()}/{{0..2}}.tar"


def hashed(names):
    return sogclr.hashed_rows(sogclr.stable_keys(names), ROWS)


def batches(pattern, encoder, samples, workers=0):
    plan = StreamSchedule(PairStream(pattern, samples), ROWS, 5, 1, 2, seed=3)
    inputs = DrawnViews(encoder.spec, CLIP_VIEWS), Tokenizer(encoder.tokenizer, None)
    return list(stream_pair_batches(plan, *inputs, workers=workers, pin_memory=False))


@pytest.mark.parametrize("workers", [0, 2])
def test_views_and_captions_are_those_of_the_pairs_on_this_machine(
    shards, pattern, trained, workers
):
    encoder, here = sogclr.load(trained), open_pairs(str(shards))
    views = ImageViews(here.a, encoder.spec, CLIP_VIEWS, 3)
    names, drawn = list(here.a.names), set()
    for batch in batches(pattern, encoder, SAMPLES, workers):
        rows = np.array([names.index(sample.name) for sample in batch.micro_batch.samples])
        partners = here.draw(3, batch.micro_batch.epoch, rows)
        texts = [here.b.texts[text] for text in partners]
        drawn |= set(zip(rows.tolist(), partners.tolist(), strict=True))
        same_views = views.prepare(rows, batch.micro_batch.epoch)
        assert torch.equal(batch.a.tensor, same_views.tensor)
        assert np.array_equal(batch.a.draws, same_views.draws)
        assert torch.equal(batch.b.tensor, encoder.tokenizer(texts))
        assert batch.micro_batch.rows.tolist() == hashed(here.a.names[row] for row in rows).tolist()
        assert batch.partners.tolist() == hashed(texts).tolist()
        assert batch.keys_b.tolist() == sogclr.stable_keys(texts).tolist()
    assert len({row for row, _ in drawn}) == SAMPLES < len(drawn)


def test_a_sample_that_comes_again_in_an_epoch_may_have_another_caption(pattern, trained):
    encoder, met = sogclr.load(trained), {}
    for batch in batches(pattern, encoder, 2 * SAMPLES):
        for key, caption in zip(
            batch.micro_batch.keys.tolist(), batch.keys_b.tolist(), strict=True
        ):
            met.setdefault((batch.micro_batch.epoch, key), []).append(caption)
    assert {len(captions) for captions in met.values()} == {2}
    assert 1 <= sum(len(set(captions)) == 2 for captions in met.values()) < len(met)


METHODS = {
    "sogclr": {}, "recent": {"memory_size": SAMPLES},
    "individual": {"temperature_mode": "individual", "rho": 0.5},
    "frozen": {"freeze": "image,text", "memory_size": 0}, "half": {"freeze": "image"},
    **{method: {"method": method, **NO_TABLE} for method in ("clip", "dcl", "siglip")},
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_it_is_the_run_of_the_same_pairs_on_this_machine(shards, pattern, tiny, tmp_path, method):
    """Of one batch an epoch, in whose order sums are taken. By SGD, as with several processes."""
    settings = {
        "model": str(tiny), "batch_size": SAMPLES, "epochs": EPOCHS, "device": "cpu",
        "precision": "32-true", "optimizer": "sgd", **METHODS[method],
    }  # fmt: skip
    sogclr.align(pattern, tmp_path / "stream", **{**STREAM, **settings})
    settings.pop("table_rows", None)
    sogclr.align(str(shards), tmp_path / "here", **settings)
    stream, here = (checkpoint(tmp_path / name) for name in ("stream", "here"))
    torch.testing.assert_close(stream["model"], here["model"], rtol=1e-4, atol=2e-5)
    # Its temperature too, where some rows are nobody's.
    written = [load_file(tmp_path / name / "trained.safetensors") for name in ("stream", "here")]
    torch.testing.assert_close(*written, rtol=1e-4, atol=2e-5)
    source = open_pairs(str(shards))
    rows = {"a": hashed(source.a.names), "b": hashed(source.b.texts)}
    for name, value in here["loss"].items():
        module, _, part = name.rpartition(".")
        if part in ("table", "tau", "velocity"):
            assert len(rows[module[-1]].unique()) == len(value) - 1
            own = stream["loss"][name][rows[module[-1]]]
            torch.testing.assert_close(own, value[:-1], rtol=1e-4, atol=2e-5)
    if method == "sogclr":
        visits = stream["loss"]["normalizer_a.table"][:, 1]
        assert visits.sum() == EPOCHS * SAMPLES


def test_where_samples_share_rows_the_loss_gets_their_keys(
    shards, pattern, fast, tmp_path, monkeypatch
):
    forward, calls = sogclr.GlobalClipLoss.forward, []

    def recording(self, a, b, index, *, index_b, **keys):
        calls.append((index, index_b, keys["sample_key"], keys["sample_key_b"]))
        return forward(self, a, b, index, index_b=index_b, **keys)

    monkeypatch.setattr(sogclr.GlobalClipLoss, "forward", recording)
    sogclr.align(pattern, tmp_path / "run", **{**fast, **STREAM, "table_rows": 3})
    source = open_pairs(str(shards))
    names = dict(zip(sogclr.stable_keys(source.a.names).tolist(), range(SAMPLES), strict=True))
    texts = sogclr.stable_keys(source.b.texts).tolist()
    owners = set(zip(source.owners().tolist(), source.partners.tolist(), strict=True))
    for index, index_b, key, sample_key_b in calls:
        assert torch.equal(index, sogclr.hashed_rows(key, 3))
        assert torch.equal(index_b, sogclr.hashed_rows(sample_key_b, 3))
        pairs = zip(key.tolist(), sample_key_b.tolist(), strict=True)
        assert {(names[one], texts.index(other)) for one, other in pairs} <= owners
    assert sum(len(key) for _, _, key, _ in calls) == fast["epochs"] * SAMPLES


@pytest.mark.parametrize("method", ["sogclr", "individual", "half", "clip"])
@pytest.mark.parametrize("workers", [0, 2])
def test_stopped_and_resumed_is_uninterrupted(
    pattern, fast, tmp_path, monkeypatch, method, workers
):
    settings = {**STREAM, **fast, "epochs": EPOCHS, "batch_size": 5, "accumulate": 2}
    settings |= METHODS[method]
    sogclr.align(pattern, tmp_path / "whole", **settings)
    interrupt_after(monkeypatch, 1, 5)
    parts, settings["workers"] = tmp_path / "parts", workers
    assert not sogclr.align(pattern, parts, **settings).complete
    assert not sogclr.align(pattern, parts, resume=True, workers=workers).complete
    assert sogclr.align(pattern, parts, resume=True, workers=workers).complete
    assert same(checkpoint(tmp_path / "whole"), checkpoint(parts))


def test_two_processes_that_are_stopped_end_where_one_does(pattern, tiny, tmp_path):
    """Stopped in the midst of an epoch, and ended by one."""
    command = ["align", pattern, "--model", str(tiny), "--device", "cpu", "--batch-size", "5"]
    command += ["--epochs", "2", "--optimizer", "sgd", "--precision", "32-true", *FLAGS]
    main([*command, "--out", str(tmp_path / "whole")])
    parts = [*command, "--out", str(tmp_path / "parts")]
    stopped = finished(started(2, str(Path(stopping.__file__)), "7", *parts), code=75)
    assert "stopped at step 7" in stopped
    main(["align", pattern, "--out", str(tmp_path / "parts"), "--resume"])
    assert_alike(tmp_path / "whole", tmp_path / "parts")


def test_every_verb_takes_such_a_run_with_pairs_of_this_machine(shards, tiny, tmp_path, capsys):
    run, here = str(tmp_path / "run"), str(shards)
    start = ["--model", str(tiny), "--batch-size", "8", "--epochs", "1", "--device", "cpu"]
    with serving(shards) as (address, _):
        url = f"{address}/{{0..2}}.tar?token=secret"
        main(["align", url, "--out", run, "--val", here, *start, *FLAGS])
        told = refused(capsys, "evaluate", run, url)
    assert f"data: {address}/{{0..2}}.tar is a stream, which only sogclr pretrain and" in told
    assert "secret" not in (Path(run) / "settings.json").read_text()
    main(["evaluate", run, here])
    assert "sum of the six recalls" in capsys.readouterr().out
    main(["embed", run, here, "--out", str(tmp_path / "x.npz")])
    assert np.load(tmp_path / "x.npz")["side"].tolist().count("a") == SAMPLES
    assert "the run was trained on a stream; name data" in refused(capsys, "search", run, "red")
    main(["search", run, "a red picture", "--data", here, "--top", "3"])
    assert len(capsys.readouterr().out.strip().splitlines()) >= 3
    assert "was trained on a stream, and rows" in refused(capsys, "audit", run, here)


def test_what_is_known_of_it_is_told(shards, pattern, fast, tmp_path, capsys):
    flags = {**fast, "epochs": 1, "epoch_samples": SAMPLES, "table_rows": 40}
    result = sogclr.align(pattern, tmp_path / "run", val=str(shards), **flags)
    said = capsys.readouterr().err
    texts = len(open_pairs(str(shards)).partners)
    one, other = (f"{sogclr.collision_rate(n, 40):.1%}" for n in (SAMPLES, texts))
    assert "3 shards, a stream; an epoch is 24 of its pairs" in said
    assert f"for each side; {one} of 24 images and {other} of {texts} captions share a row" in said
    assert 0 <= result.metrics["R@1"] <= 1
    result = sogclr.align(pattern, tmp_path / "other", **flags)
    assert "R@1" not in result.metrics


def test_what_is_damaged_is_skipped_and_named(shards, pattern, fast, tmp_path, capsys):
    whole = shards / "1.tar"
    whole.write_bytes(whole.read_bytes()[:-12_000])
    pack(shards / "2.tar", [("bad.png", b"none"), ("bad.txt", b"a red picture")])
    assert sogclr.align(pattern, tmp_path / "run", **STREAM, **fast).complete
    said = capsys.readouterr().err
    assert "skipped bad: not an image" in said
    assert "1.tar: damaged (" in said
    assert ", the samples behind the damage are left out (training goes on, " in said


REFUSED = {
    "no samples": (["--table-rows", 9], "give --epoch-samples"),
    "no rows": (["--epoch-samples", 24], "give --table-rows, for example 240"),
    "no table": ([*FLAGS, "--method", "siglip"], "table-rows: goes with --method sogclr"),
    "columns": ([*FLAGS, "--columns", "image,caption"], "columns: a stream has none"),
    "refuse": ([*FLAGS, "--on-damaged", "refuse"], "leave out --on-damaged refuse"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_with_a_stream_is_refused(pattern, tiny, tmp_path, capsys, name):
    flags, told = REFUSED[name]
    run = tmp_path / "run"
    assert told in refused(capsys, "align", pattern, "--out", run, "--model", tiny, *flags)
    assert not run.exists()


def test_what_is_held_back_lies_on_this_machine(pattern, pairs, tiny, tmp_path, capsys):
    flags = ["--out", tmp_path / "run", "--model", tiny]
    line = refused(capsys, "align", pattern, *flags, *FLAGS, "--val", pattern)
    assert "is a stream, which only sogclr pretrain and align train on" in line
    line = refused(capsys, "align", pairs, *flags, "--table-rows", 9)
    assert "table-rows: goes with a stream" in line
