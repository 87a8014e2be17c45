"""Ctrl-C in the midst of a run."""

import os
import signal

from sogclr.training.loop import Trainer


def interrupt_after(monkeypatch, *steps):
    """Once after each of these steps."""
    original, stop_at = Trainer._step, set(steps)

    def step_and_interrupt(self, step):
        original(self, step)
        if step in stop_at:
            stop_at.remove(step)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Trainer, "_step", step_and_interrupt)
