"""Streams that processes share: the same run as in one, wherever it is stopped."""

from pathlib import Path

import pytest
from helpers import together
from helpers.bits import assert_alike, checkpoint
from helpers.launching import finished, started
from helpers.packing import pack_images

import sogclr

SCRIPT = str(Path(together.__file__))
EPOCHS, STEPS = 2, 5  # steps of an epoch


@pytest.fixture
def pattern(tmp_path):
    return pack_images(tmp_path / "shards", together.SAMPLES, 7, (8, 8))


def test_processes_that_are_stopped_end_where_one_does(pattern, tmp_path, monkeypatch):
    """In two, in one, and in two again, each time stopped in the midst of an epoch."""
    stream = [pattern, "sogclr"]
    together.main(monkeypatch, tmp_path / "whole", EPOCHS, stream=stream)
    command = [SCRIPT, str(tmp_path / "parts"), str(EPOCHS), "--stream", *stream]
    said = finished(started(2, *command, "--stop-after", "2"))
    assert "processes       2            6 samples of each batch per process" in said
    assert "stopped at step 2" in said
    assert "stopped at step 7" in finished(started(1, *command, "--resume", "--stop-after", "7"))
    said = finished(started(2, *command, "--resume"))
    assert said.count("done: ") == 1
    assert checkpoint(tmp_path / "parts")["step"] == EPOCHS * STEPS
    assert_alike(tmp_path / "whole", tmp_path / "parts")
    keys = sogclr.stable_keys(f"{n:03}" for n in range(together.SAMPLES))
    rows, owners = sogclr.hashed_rows(keys, together.ROWS).unique(return_counts=True)
    visits = checkpoint(tmp_path / "parts")["loss"]["normalizer.table"][:, 1]
    assert set(visits[rows[owners == 1]].tolist()) == {EPOCHS}


def test_processes_fill_one_queue_of_keys(pattern, tmp_path, monkeypatch):
    stream = [pattern, "moco"]
    together.main(monkeypatch, tmp_path / "whole", EPOCHS, stream=stream)
    shared = [SCRIPT, str(tmp_path / "shared"), str(EPOCHS), "--stream", *stream]
    finished(started(2, *shared))
    assert_alike(tmp_path / "whole", tmp_path / "shared")
