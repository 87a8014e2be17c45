"""Training shared by processes: the same run as in one."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from helpers import together
from helpers.bits import assert_alike, checkpoint
from helpers.launching import finished, started, torchrun
from helpers.refusal import refused
from safetensors.torch import load_file

SCRIPT = str(Path(together.__file__))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "run"
    finished(started(1, SCRIPT, str(out), "2"))
    return out


def test_two_processes_end_where_one_does(alone, tmp_path):
    said = finished(torchrun(2, SCRIPT, str(tmp_path / "run"), "2"))
    assert_alike(alone, tmp_path / "run")
    assert said.count("done: ") == 1
    assert "processes       2            6 samples of each batch per process" in said


def test_sharded_weights_end_where_whole_ones_do(alone, tmp_path):
    out = tmp_path / "run"
    said = finished(started(2, SCRIPT, str(out), "2", "--shard-model"))
    assert_alike(alone, out)
    # Rows of an uneven number of each matrix: the first process has the larger half.
    total = 15 * (192 + 1) + 2 * (2 * 15 + 31 * (15 + 1) + 15 * (31 + 1)) + 128 * (15 + 1)
    own = 8 * (192 + 1) + 2 * (2 * 8 + 16 * (15 + 1) + 8 * (31 + 1)) + 64 * (15 + 1)
    line = f"weights         sharded      {own:,} of {total:,} parameters in each of 2 processes"
    assert line in said
    assert "Warning" not in said
    for file in ("encoder.safetensors", "initial.safetensors"):
        expected, found = (load_file(run / file) for run in (alone, out))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)
    expected, scores = (
        [row.get("knn") for row in checkpoint(run)["monitor"]["rows"]] for run in (alone, out)
    )
    assert any(expected)
    assert scores == expected


def test_a_checkpoint_of_sharded_weights_is_whole(alone, tmp_path, monkeypatch):
    out = tmp_path / "run"
    together.main(monkeypatch, out, 2, stop_after=3)
    options = ["--resume", "--shard-model", "--stop-after", "6"]
    assert "going on from step 3" in finished(started(2, SCRIPT, str(out), "2", *options))
    assert checkpoint(out)["step"] == 6
    together.main(monkeypatch, out, 2, resume=True)
    assert_alike(alone, out)


@pytest.mark.slow
def test_processes_save_together_however_long_one_writes(tmp_path):
    options = ["--shard-model", "--checkpoint-seconds", "0.5", "--write-seconds", "0.6"]
    said = finished(started(2, SCRIPT, str(tmp_path / "run"), "8", *options))
    assert said.count("done: ") == 1


def test_weights_are_not_sharded_where_that_cannot_be(capsys, tmp_path, monkeypatch):
    arguments = ["pretrain", "digits", "--out", tmp_path / "run", "--shard-model"]
    assert "shard-model: there is one process" in refused(capsys, *arguments)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "moco's second encoder" in refused(capsys, *arguments, "--method", "moco")


def test_a_batch_is_refused_that_is_too_small_to_be_shared(tmp_path):
    arguments = ["-m", "sogclr", "pretrain", "digits", "--batch-size", "3"]
    process = started(2, *arguments, "--out", str(tmp_path / "run"))
    said = finished(process, code=2)
    for rank in (0, 1):
        line = f"sogclr: process {rank} of 2: --batch-size: 3 is shared by 2 processes"
        assert said.count(line) == 1


@pytest.mark.slow
@pytest.mark.parametrize("who", ["one of them", "all of them"])
def test_what_is_killed_loses_only_what_came_after_the_checkpoint(who, alone, tmp_path):
    epochs, out = "60", tmp_path / "run"
    whole = tmp_path / "whole"
    finished(started(2, SCRIPT, str(whole), epochs))
    process = torchrun(2, SCRIPT, str(out), epochs, restarts=1 if who == "one of them" else 0)
    while not (out / "checkpoint.pt").exists() or checkpoint(out)["step"] < 20:
        time.sleep(0.2)
    if who == "one of them":  # torchrun starts both again
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        assert "going on from step" in finished(process)
    else:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        for count in (2, 1):
            finished(started(count, SCRIPT, str(out), epochs, "--resume"))
    assert_alike(whole, out)
