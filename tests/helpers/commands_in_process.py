"""Run commands in this process, and judge how they end."""

import io
import resource
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from sogclr.commands.cli import main
from sogclr.training.loop import Trainer

MEMORY = 4 << 30  # bytes that a command may take; what needs more is refused by the system
# How a command may end, by its exit code; 1 would be a bug.
ENDS = {0: "done", 2: "refused", 130: "training"}


@contextmanager
def short_training():
    """End training by Ctrl-C after two steps, and take no more than `MEMORY`."""
    original, steps = Trainer.update_weights, []

    def step_and_stop(self, step):
        original(self, step)
        steps.append(step)
        if len(steps) % 2 == 0:
            raise KeyboardInterrupt

    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "update_weights", step_and_stop)
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)


def end_of(words: list[str]) -> str:
    """Run a command, and name its end; an error must be one line at the end of stderr."""
    errors, code = io.StringIO(), 0
    with redirect_stderr(errors), redirect_stdout(io.StringIO()):
        try:
            main(words)
        except SystemExit as error:
            code = error.code or 0
    told = errors.getvalue()
    assert code in ENDS, told
    assert "Traceback" not in told, told
    if code == 2:
        assert told.strip(), words
    return ENDS[code]
