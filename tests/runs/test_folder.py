"""Files of a run are written whole or not at all, and read without trust."""

import resource
import subprocess
import sys

import pytest
import torch

from sogclr import UserError
from sogclr.runs.folder import Run


def test_a_failing_write_keeps_the_last_checkpoint(tmp_path):
    run = Run(tmp_path)
    run.write_checkpoint({"step": 1, "weights": torch.zeros(10)})
    # A limit on file size fails the write midway, in a process of its own, like a full disk.
    script = (
        "import resource, torch; from sogclr.runs.folder import Run; "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, {resource.RLIM_INFINITY})); "
        f"Run({str(tmp_path)!r}).write_checkpoint({{'step': 2, 'weights': torch.zeros(10**6)}})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "the last checkpoint.pt is intact" in done.stderr
    assert run.read_checkpoint()["step"] == 1
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["checkpoint.pt", "digests.json"]


class Surprise:
    pass


def test_checkpoints_hold_plain_data_only(tmp_path):
    run = Run(tmp_path)
    run.write_checkpoint({"anything": Surprise()})
    with pytest.raises(UserError, match="cannot be read"):
        run.read_checkpoint()


def test_too_little_space_is_found_before_training(tmp_path):
    with pytest.raises(UserError, match="MB are free"):
        Run(tmp_path).require_space(10**18)


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    run = Run(tmp_path / "file" / "run")
    with pytest.raises(UserError, match="cannot write to"), run.claim():
        pass
