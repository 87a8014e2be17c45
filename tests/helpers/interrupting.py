"""Ctrl-C in the midst of a run."""

import os
import signal

from sogclr.training.finetuning import ClassifierTrainer
from sogclr.training.loop import Trainer


def interrupt_after(monkeypatch, *steps, number=signal.SIGINT, times=1):
    """Once after each of these steps, by a signal."""
    original, stop_at = Trainer.update_weights, set(steps)

    def step_and_interrupt(self, step):
        original(self, step)
        if step in stop_at:
            stop_at.remove(step)
            for _ in range(times):
                os.kill(os.getpid(), number)

    monkeypatch.setattr(Trainer, "update_weights", step_and_interrupt)


def interrupt_classifier_after(monkeypatch, step, number=signal.SIGINT, times=1):
    """Once after this number of steps, by a signal."""
    original, left = ClassifierTrainer.take_step, [step]

    def step_and_interrupt(self, batch):
        original(self, batch)
        if left == [self.step]:
            left.clear()
            for _ in range(times):
                os.kill(os.getpid(), number)

    monkeypatch.setattr(ClassifierTrainer, "take_step", step_and_interrupt)
