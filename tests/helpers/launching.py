"""Commands that torchrun starts as several processes, and whether two runs are alike."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from .bits import checkpoint


def started(count, *arguments, restarts=0):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(count), "--max-restarts", str(restarts), *arguments]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    # Scripts among the helpers import others as `helpers.name`, as the tests do.
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    return subprocess.Popen(command, env=environment, **quiet)


def finished(process, code=0):
    said, _ = process.communicate(timeout=300)
    assert process.returncode == code, said
    return said


def assert_alike(one, other):
    """But for the order in which float32 sums are taken."""
    one, other = checkpoint(one), checkpoint(other)
    assert one["step"] == other["step"] == one["total_steps"]
    for part in ("model", "loss"):
        torch.testing.assert_close(one[part], other[part], rtol=1e-4, atol=2e-5)
    moments, others = one["optimizer"]["state"], other["optimizer"]["state"]
    torch.testing.assert_close(moments, others, rtol=1e-3, atol=1e-5)
