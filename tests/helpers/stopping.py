"""A command that is told to stop after some step, as a process of several that torchrun started.

`python tests/helpers/stopping.py STEP COMMAND ...`: the first process sends SIGTERM to its group,
loader workers too, as torchrun does to all of them when it is told to stop.
"""

import os
import signal
import sys
import time

from sogclr.commands.cli import main
from sogclr.training.loop import Trainer


def stop_after(last):
    """To be called before training."""
    step_of = Trainer.update_weights

    def step_and_stop(self, step):
        step_of(self, step)
        if step + 1 == last and self.fabric.is_global_zero:
            assert os.getpgid(0) == os.getpid(), "the group is others' as well"
            os.killpg(0, signal.SIGTERM)
            time.sleep(0.5)  # as steps do: long enough for a loader worker to die of it

    Trainer.update_weights = step_and_stop


if __name__ == "__main__":
    stop_after(int(sys.argv[1]))
    main(sys.argv[2:])
