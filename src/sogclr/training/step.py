"""Run the forward and backward pass of a micro-batch, without a CUDA graph."""

from typing import Any, Protocol

from lightning_fabric import Fabric

from ..distributed.sharded_model import Weights
from .task import Outcome, Task, to_device

__all__ = ["EagerStep", "StepRunner"]


class StepRunner(Protocol):
    """Runs forward and backward passes, which add to the gradients of the weights.

    Attributes:
        frees_gradients: whether gradients may be freed between steps, instead of set to 0.
    """

    frees_gradients: bool

    def __call__(self, batch: Any) -> Outcome:
        """Add the gradient of a micro-batch, times its weight; does not wait for the device."""


class EagerStep:
    """Runs forward and backward passes as PyTorch does, operation by operation.

    Args:
        fabric: device, precision and processes.
        task: the task that is trained.
        model: the task's model as Fabric wraps it.
        weights: how processes hold the weights.
    """

    frees_gradients = True

    def __init__(self, fabric: Fabric, task: Task, model: Any, weights: Weights) -> None:
        self.fabric, self.task, self.model, self.weights = fabric, task, model, weights

    def __call__(self, batch: Any) -> Outcome:
        device = self.fabric.device
        inputs = to_device(self.task.prepare(batch), device)
        with self.weights.accumulate(self.model, last=batch.micro_batch.last):
            outcome = self.task.forward(self.model, inputs, device)
            self.fabric.backward(outcome.loss * batch.micro_batch.weight)
        return outcome
