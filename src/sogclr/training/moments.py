"""Call a user's callbacks, so that they change nothing and an error loses nothing."""

from collections.abc import Sequence
from typing import Any, Literal

import torch

from ..common.errors import UserError, one_line
from ..planning.callback import Callback, TrainingState

__all__ = ["Moment", "Moments"]

Moment = Literal["on_train_start", "on_log", "on_epoch_end", "on_train_end"]


class Moments:
    """Calls callbacks at the moments of a run.

    Args:
        callbacks: the callbacks, called in this order.
        state: what they see of the run.
        device: the device whose random state they must not change.
    """

    def __init__(
        self, callbacks: Sequence[Callback], state: TrainingState, device: torch.device
    ) -> None:
        self.callbacks, self.state = callbacks, state
        self._devices = [device] if device.type == "cuda" else []
        self._failure: tuple[str, Exception] | None = None

    def call(
        self, moment: Moment, step: int, epoch: float, metrics: dict[str, Any] | None = None
    ) -> None:
        """Call all callbacks. After an error none is called again, and the run is asked to stop.

        Args:
            moment: the method to call.
            step, epoch: number of steps and epochs done.
            metrics: the latest line of metrics; None if it is the one of the call before.
        """
        if not self.callbacks or self._failure is not None:
            return
        state = self.state
        state.step, state.epoch = step, epoch
        if metrics is not None:
            state.metrics = dict(metrics)
        modes = [(module, module.training) for module in state.model.modules()]
        try:
            with torch.random.fork_rng(self._devices):
                for callback in self.callbacks:
                    name = f"{type(callback).__name__}.{moment}"
                    getattr(callback, moment)(state)
        except Exception as error:  # of any type: it is the user's own code
            self._failure = name, error
            state.stop()
        finally:
            for module, training in modes:
                module.training = training

    def raise_failure(self) -> None:
        """Raise UserError if a callback has raised an error."""
        if self._failure is None:
            return
        name, error = self._failure
        raise UserError(
            f"callbacks: {name} raised {type(error).__name__} ({one_line(error)}) at step "
            f"{self.state.step:,}; correct it and go on with --resume"
        ) from error
