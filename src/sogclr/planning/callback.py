"""The class that a user's own callbacks subclass. Importing this module imports nothing heavy."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Callback", "TrainingState"]


@dataclass
class TrainingState:
    """The state of a run, as a callback sees it.

    Attributes:
        folder: Folder of the run.
        model: The model that is trained: of `pretrain` with `model.encoder` (with MoCo
            `model.query.encoder`), of `align` with both towers.
        total_steps: Number of steps of the whole run.
        epochs: Number of epochs of the whole run.
        step: Number of steps done.
        epoch: Number of epochs done, a fraction within an epoch.
        metrics: Latest line of metrics.jsonl; empty before the first one.
        stopping: Whether `stop` was called.
    """

    folder: Path
    model: "nn.Module"
    total_steps: int
    epochs: int
    step: int = 0
    epoch: float = 0.0
    metrics: dict[str, Any] = field(default_factory=dict)
    stopping: bool = False

    def stop(self) -> None:
        """Stop the run after this step, with a checkpoint, as Ctrl-C does."""
        self.stopping = True


class Callback:
    """Is called at four moments of a run; override what you need.

    Of several processes the first one calls. A callback should look and change nothing. Torch's
    random numbers and the train and eval modes are restored after each call. If a callback raises
    an error, the run saves a checkpoint and ends with a `UserError`; it can be resumed.
    """

    def on_train_start(self, state: TrainingState) -> None:
        """Is called before the first step, also of a run that is resumed."""

    def on_log(self, state: TrainingState) -> None:
        """Is called after each line of metrics.jsonl, which is `state.metrics`."""

    def on_epoch_end(self, state: TrainingState) -> None:
        """Is called at the end of each epoch, after `on_log`."""

    def on_train_end(self, state: TrainingState) -> None:
        """Is called after the last checkpoint, also of a run that was asked to stop."""
