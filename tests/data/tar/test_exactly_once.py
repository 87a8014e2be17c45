"""Every sample of a hundred shards once an epoch, whoever reads it and wherever it is stopped."""

from pathlib import Path

import numpy as np
import pytest
from helpers.bits import checkpoint
from helpers.launching import finished, started, torchrun
from helpers.packing import encoded, pack

SHARDS, SAMPLES, BATCH, EPOCHS = 100, 301, 16, 2
STEPS = -(-SAMPLES // BATCH)  # an epoch
STOPPING = str(Path(__file__).parents[2] / "helpers" / "stopping.py")


@pytest.fixture
def pattern(tmp_path):
    (tmp_path / "shards").mkdir()
    for shard, numbers in enumerate(np.array_split(np.arange(SAMPLES), SHARDS)):
        members = [(f"{n:04d}.png", encoded(n, size=(8, 8))) for n in numbers.tolist()]
        pack(tmp_path / "shards" / f"{shard:03d}.tar", members)
    return str(tmp_path / "shards" / f"{{000..{SHARDS - 1:03d}}}.tar")


def _visits(run):
    visits = checkpoint(run)["loss"]["normalizer.table"][:, 1]
    assert visits[-1] == 0  # of nobody
    return visits[:-1].numpy()


@pytest.mark.slow
def test_two_processes_with_two_workers_each_stopped_in_the_midst_of_an_epoch(pattern, tmp_path):
    run = str(tmp_path / "run")
    command = ["pretrain", pattern, "--out", run, "--workers", "2", "--device", "cpu"]
    start = ["--encoder", "small", "--batch-size", str(BATCH), "--epochs", str(EPOCHS)]
    # torchrun itself exits with 1 if a process exits with 75.
    first = finished(torchrun(2, STOPPING, str(STEPS + 7), *command, *start), code=1)
    assert f"stopped at step {STEPS + 7}; go on with --resume" in first
    seen = sum(map(len, np.array_split(np.arange(SAMPLES), STEPS)[:7]))
    visits = _visits(run)
    assert sorted(visits) == [1] * (SAMPLES - seen) + [2] * seen

    finished(torchrun(2, STOPPING, str(STEPS + 11), *command, "--resume"), code=1)
    assert (_visits(run) >= visits).all()
    finished(started(2, "-m", "sogclr", *command, "--resume"))
    assert _visits(run).tolist() == [EPOCHS] * SAMPLES
