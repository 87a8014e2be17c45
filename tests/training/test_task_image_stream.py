"""`sogclr pretrain` on a stream: the same run wherever it is stopped; and what is refused."""

import re

import pytest
import torch
from helpers.bits import checkpoint, same
from helpers.flaky_files import flaky_files
from helpers.interrupting import interrupt_after
from helpers.packing import encoded, pack, pack_images
from helpers.refusal import refused
from helpers.serving import serving

import sogclr
from sogclr import UserError
from sogclr.commands.cli import main
from sogclr.data.tar import members
from sogclr.models.momentum import MomentumModel
from sogclr.runs.folder import Run

SAMPLES, ROWS, EPOCHS = 40, 64, 3
SHORT = {"encoder": "small", "image_size": 8, "batch_size": 8, "device": "cpu"}
STREAM = {"epoch_samples": SAMPLES, "table_rows": ROWS}
FLAGS = ["--encoder", "small", "--batch-size", "8", "--device", "cpu"]


@pytest.fixture
def shards(tmp_path):
    """A folder of five shards, and their pattern within it."""
    pack_images(tmp_path / "shards", SAMPLES, 5)
    return tmp_path / "shards", "{0..4}.tar"


@pytest.fixture
def pattern(shards):
    folder, pattern = shards
    return f"{folder.as_uri()}/{pattern}"


def keys_of(samples):
    return sogclr.stable_keys(f"{n:03}" for n in range(samples))


def test_every_sample_visits_its_row_once_an_epoch(pattern, tmp_path, capsys):
    rows = sogclr.hashed_rows(keys_of(SAMPLES), ROWS)
    run = str(tmp_path / "run")
    numbers = ["--epoch-samples", str(SAMPLES), "--table-rows", str(ROWS)]
    # One batch an epoch: samples in one row count one visit.
    flags = [*FLAGS[:2], "--batch-size", str(SAMPLES), *FLAGS[4:], *numbers]
    main(["pretrain", pattern, "--out", run, "--epochs", str(EPOCHS), *flags])
    visits = checkpoint(run)["loss"]["normalizer.table"][:, 1][:-1]
    assert len(visits) == ROWS
    assert visits.nonzero().flatten().tolist() == rows.unique().tolist()
    assert set(visits[rows].tolist()) == {EPOCHS}
    said = capsys.readouterr().err
    assert "5 shards, a stream; an epoch is 40 of its samples" in said
    assert f"{sogclr.collision_rate(SAMPLES, ROWS):.1%} of 40 samples share a row" in said
    assert sogclr.load(run)(torch.zeros(1, 3, 8, 8)).shape[0] == 1


KEEPING_NO_TABLE = [{"method": method, "table_rows": None} for method in ("simclr", "moco")]


@pytest.mark.parametrize("changes", [{}, {"memory_size": 11}, *KEEPING_NO_TABLE])
@pytest.mark.parametrize("workers", [0, 2])
def test_stopped_and_resumed_is_uninterrupted(pattern, tmp_path, monkeypatch, changes, workers):
    settings = {"epochs": EPOCHS, "accumulate": 2, **STREAM, **changes, **SHORT}
    sogclr.pretrain(pattern, tmp_path / "whole", **settings)
    interrupt_after(monkeypatch, 1, 5)
    parts = tmp_path / "parts"
    assert not sogclr.pretrain(pattern, parts, workers=workers, **settings).complete
    assert not sogclr.pretrain(pattern, parts, workers=workers, resume=True).complete
    assert sogclr.pretrain(pattern, parts, workers=workers, resume=True).complete
    assert same(checkpoint(tmp_path / "whole"), checkpoint(parts))


def test_a_server_that_fails_leaves_no_trace(shards, tmp_path, monkeypatch):
    folder, pattern = shards
    monkeypatch.setattr(members, "PAUSE", 0)
    settings = {"epochs": EPOCHS, **STREAM, **SHORT}
    with serving(folder) as (address, _):
        sogclr.pretrain(f"{address}/{pattern}", tmp_path / "whole", **settings)
    interrupt_after(monkeypatch, 6)
    failures = [None, 500, -3000, None, -100, 429]
    with serving(folder, failures) as (address, asked):
        url = f"{address}/{pattern}?token=secret"
        assert not sogclr.pretrain(url, tmp_path / "parts", **settings).complete
    with serving(folder) as (address, _):
        url = f"{address}/{pattern}?token=another"
        assert sogclr.pretrain(url, tmp_path / "parts", resume=True).complete
    assert len(asked) > len(failures)
    assert same(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts"))


def test_another_file_system_that_fails_leaves_no_trace(shards, tmp_path, monkeypatch):
    folder, pattern = shards
    monkeypatch.setattr(members, "PAUSE", 0)
    settings = {"epochs": EPOCHS, **STREAM, **SHORT}
    interrupt_after(monkeypatch, 6)
    # Shards are known by their paths. Then the order is that of files in the same folder.
    with flaky_files(folder, f"bucket{folder}") as (url, errors):
        errors.extend([None, OSError("reset"), RuntimeError("throttled"), None, TimeoutError()])
        run = tmp_path / "parts"
        assert not sogclr.pretrain(f"{url}/{pattern}", run, **settings).complete
        errors.extend([None, None, OSError("reset")])
        assert sogclr.pretrain(f"{url}/{pattern}", run, resume=True).complete
        assert not errors
    sogclr.pretrain(f"{folder.as_uri()}/{pattern}", tmp_path / "whole", **settings)
    assert same(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts"))


def test_a_server_that_is_gone_ends_the_run_which_goes_on_later(shards, tmp_path, capsys):
    folder, pattern = shards
    run, numbers = str(tmp_path / "run"), ["--epoch-samples", "40", "--table-rows", "64"]
    more = ["--out", run, "--epochs", "3", *numbers, *FLAGS]
    # For the size all five shards, two for the picture, five in the first epoch, two in the second.
    with serving(folder, [None] * 14 + [404] * 99) as (address, _):
        url = f"{address}/{pattern}"
        line = refused(capsys, "pretrain", url, "--checkpoint-seconds", "0", *more)
    assert "cannot read http://127.0.0.1" in line
    assert "(404 Not Found)" in line
    assert "--resume" in line
    assert checkpoint(run)["step"] == 5
    main(["pretrain", f"{folder.as_uri()}/{pattern}", "--out", run, "--resume"])
    assert checkpoint(run)["step"] == 15


def test_other_shards_are_told_and_keep_their_rows(shards, tmp_path, monkeypatch, capsys):
    folder, pattern = shards
    interrupt_after(monkeypatch, 5)
    start = {"epochs": EPOCHS, **STREAM, **SHORT}
    sogclr.pretrain(f"{folder.as_uri()}/{pattern}", tmp_path / "run", **start)
    before = Run(tmp_path / "run").read_checkpoint()["loss"]["normalizer.table"][:, 1]
    pack(folder / "5.tar", [("new.png", encoded(99))])
    sogclr.pretrain(f"{folder.as_uri()}/{{1..5}}.tar", tmp_path / "run", resume=True)
    told = "the shards have changed: 4 are known, 1 are new, 1 are gone; samples keep their rows"
    assert told in capsys.readouterr().err
    after = Run(tmp_path / "run").read_checkpoint()["loss"]["normalizer.table"][:, 1]
    assert (after >= before).all()
    assert after[sogclr.hashed_rows(sogclr.stable_keys(["new"]), ROWS)] > 0


def test_the_momentum_encoder_is_primed_once_by_whole_images(pattern, tmp_path, monkeypatch):
    """Not again when the run goes on."""
    seen = []
    monkeypatch.setattr(MomentumModel, "prime", lambda _, images: seen.append(images))
    interrupt_after(monkeypatch, 2)
    sogclr.pretrain(pattern, tmp_path / "run", epochs=1, epoch_samples=40, method="moco", **SHORT)
    sogclr.pretrain(pattern, tmp_path / "run", resume=True)
    (views,) = seen
    assert views.shape == (2 * 8, 3, 8, 8)
    assert len(views.flatten(1).unique(dim=0)) == len(views)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://me:hunter2@127.0.0.1:1/a.tar#hunter2", "cannot read http://127.0.0.1:1/a.tar ("),
        ("https://h/{0..99999999999}.tar?hunter2", "stands for more than 1,000,000 shards"),
        ("http://[hunter2@/a.tar", "http:///a.tar is no valid URL"),
        ("gopher://me:hunter2@host/a.tar", "gopher:// is unknown"),
        ("memory://me:hunter2@none.tar", "cannot read memory://none.tar (not found)"),
    ],
)
def test_urls_that_cannot_be_read_are_one_line(tmp_path, capsys, monkeypatch, url, told):
    monkeypatch.setattr(members, "PAUSE", 0)
    numbers = ["--epoch-samples", 40, "--table-rows", 64]
    line = refused(capsys, "pretrain", url, "--out", tmp_path / "run", *numbers, *FLAGS)
    assert told in line
    assert "hunter2" not in line


def test_damaged_samples_are_skipped_and_named(shards, tmp_path, capsys):
    folder, pattern = shards
    pack(folder / "1.tar", [("bad.png", b"none"), ("good.png", encoded(1))])
    sogclr.pretrain(f"{folder.as_uri()}/{pattern}", tmp_path / "run", epochs=2, **STREAM, **SHORT)
    assert re.search(
        r"skipped bad: not an image.* \(training goes on, 1 so far\)", capsys.readouterr().err
    )


def test_features_that_are_not_finite_are_named(pattern, tmp_path):
    class Broken(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :16] / 0

    settings = {**SHORT, **STREAM, "encoder": Broken()}
    with pytest.raises(UserError, match=r"features of sample \d+ \(0\d\d\), "):
        sogclr.pretrain(pattern, tmp_path / "run", epochs=1, **settings)


REFUSED = {
    "no samples": ([], "the length of a stream is unknown; give --epoch-samples"),
    "one sample": (["--epoch-samples", 1], "epoch-samples: must be at least 2, got 1"),
    "no rows": (["--epoch-samples", 40], "give --table-rows, for example 400 (a tenth"),
    "none": (["--epoch-samples", 40, "--table-rows", 0], "table-rows: must be at least 1, got 0"),
    "no table": (
        ["--epoch-samples", 40, "--table-rows", 9, "--method", "simclr"],
        "table-rows: goes with --method sogclr",
    ),
    "refuse": (
        ["--epoch-samples", 40, "--table-rows", 9, "--on-damaged", "refuse"],
        "a stream cannot be checked before the first step",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_with_a_stream_is_refused(pattern, tmp_path, capsys, name):
    flags, told = REFUSED[name]
    assert told in refused(capsys, "pretrain", pattern, "--out", tmp_path / "run", *flags)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flag", ["--table-rows", "--epoch-samples"])
def test_its_numbers_go_with_a_stream_alone(make_folder, tmp_path, capsys, flag):
    line = refused(capsys, "pretrain", make_folder(), "--out", tmp_path / "run", flag, 9)
    assert f"{flag[2:]}: goes with a stream, shards by URL" in line


def test_a_run_keeps_its_numbers_and_its_kind_of_data(pattern, make_folder, tmp_path, capsys):
    run = tmp_path / "run"
    sogclr.pretrain(pattern, run, epochs=1, **STREAM, **SHORT)
    line = refused(capsys, "pretrain", pattern, "--out", run, "--resume", "--table-rows", 65)
    assert "table-rows: " in line
    assert "was started with 64, not 65" in line
    photos = make_folder()
    line = refused(capsys, "pretrain", photos, "--out", run, "--resume")
    assert "goes with a stream" in line
    assert "audit an encoder instead" in refused(capsys, "audit", run, photos)
    other = tmp_path / "other"
    sogclr.pretrain(photos, other, epochs=1, **SHORT)
    line = refused(capsys, "pretrain", pattern, "--out", other, "--resume")
    assert "give --epoch-samples" in line


@pytest.mark.parametrize("verb", ["embed", "evaluate", "audit"])
def test_other_verbs_want_data_of_this_machine(pattern, make_folder, tmp_path, capsys, verb):
    run = tmp_path / "run"
    sogclr.pretrain(make_folder(), run, epochs=1, **SHORT)
    out = ["--out", tmp_path / "vectors.npz"] if verb == "embed" else []
    assert "is a stream, which only sogclr pretrain and align train on" in refused(
        capsys, verb, run, pattern, *out
    )
