"""Run steps as CUDA graphs: the host launches one graph a step instead of a thousand kernels.

A step of a small network on a small batch is a thousand kernels of some microseconds. Python needs
three times as long to launch them as a GPU needs to run them.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from lightning_fabric import Fabric
from torch import Tensor

from ..common.console import say
from .task import Outcome, Task

__all__ = ["GraphStep", "GraphedFunction", "can_use_graphs"]

Function: TypeAlias = Callable[..., tuple[Tensor, ...]]
Replay: TypeAlias = Callable[[], tuple[Tensor, ...]]

# Libraries choose their kernels in the first calls, and a graph must not contain that search.
WARM_UP_CALLS = 3
# An epoch has batches of two sizes. Other sizes are rare: some samples could not be read.
MOST_GRAPHS = 4


def can_use_graphs(fabric: Fabric) -> bool:
    """Tell whether steps can be CUDA graphs.

    They cannot with several processes, since DDP exchanges gradients in hooks of its own.
    """
    return fabric.device.type == "cuda" and fabric.world_size == 1


class GraphStep:
    """Runs forward and backward passes of a task with `fixed_work` as CUDA graphs.

    Args:
        fabric: device and precision; one process.
        task: the task that is trained.
        model: the task's model as Fabric wraps it.
    """

    # A graph adds to the gradients at the addresses that they had when it was recorded.
    frees_gradients = False

    def __init__(self, fabric: Fabric, task: Task, model: Any) -> None:
        self.fabric, self.task, self.model = fabric, task, model
        self.forward_backward = GraphedFunction(self._forward_backward, fabric.device)

    def __call__(self, batch: Any) -> Outcome:
        inputs = *self.task.prepare(batch), torch.tensor(batch.micro_batch.weight)
        return Outcome.from_tensors(self.forward_backward(*inputs))

    def _forward_backward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        *inputs_of_task, weight = inputs
        outcome = self.task.forward(self.model, tuple(inputs_of_task), self.fabric.device)
        self.fabric.backward(outcome.loss * weight)
        return outcome.tensors()


@dataclass(frozen=True)
class _Recording:
    """A recorded graph: the tensors that hold its inputs, and the function that replays it."""

    inputs: tuple[Tensor, ...]
    replay: Replay


class GraphedFunction:
    """A function of tensors, whose kernels are recorded once for each shape of its inputs.

    Side effects, on gradients, running statistics or tables, must go to the same memory in every
    call. The function must not depend on Python values that change: only its inputs are new in
    every call. A function that cannot be recorded is called as it is.

    Args:
        function: takes tensors on the device and returns a tuple of tensors.
        device: a CUDA device.
    """

    def __init__(self, function: Function, device: torch.device) -> None:
        self.function, self.device = function, device
        self._can_record = True
        self._calls: Counter[Any] = Counter()
        self._recordings: dict[Any, _Recording] = {}
        self._recorder = Recorder()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Call the function.

        Args:
            inputs: the arguments, on the host.

        Returns:
            The results, on the device. Later calls do not overwrite them.
        """
        shapes = tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        inputs = self._recorder.pin(inputs)
        if shapes in self._recordings:
            for recorded, new in zip(self._recordings[shapes].inputs, inputs, strict=True):
                recorded.copy_(new, non_blocking=True)
        else:
            self._calls[shapes] += 1
            inputs = tuple(tensor.to(self.device, non_blocking=True) for tensor in inputs)
            full = len(self._recordings) == MOST_GRAPHS or not self._can_record
            warm = self._calls[shapes] > WARM_UP_CALLS
            if full or not warm or not self._record(shapes, inputs):
                return self._recorder.call(self.function, inputs)
        return tuple(tensor.clone() for tensor in self._recordings[shapes].replay())

    def _record(self, shapes: Any, inputs: tuple[Tensor, ...]) -> bool:
        """Record the function for these shapes; returns whether that was possible."""
        try:
            replay = self._recorder.record(self.function, inputs)
        except RuntimeError as error:
            self._can_record = False
            say(f"steps do not run as CUDA graphs: {str(error).splitlines()[0]}")
            return False
        self._recordings[shapes] = _Recording(inputs, replay)
        return True


class Recorder:
    """Records functions as CUDA graphs.

    It calls and records on one stream of its own: autograd runs a backward pass on the stream
    of its forward pass.
    """

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None

    def pin(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Copy tensors to page-locked memory, from which the device copies without the host."""
        return tuple(each if each.is_pinned() else each.pin_memory() for each in inputs)

    def call(self, function: Function, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Call the function now, without a graph."""
        if self._stream is None:
            self._stream, self._pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            outputs = function(*inputs)
        current.wait_stream(self._stream)
        for tensor in outputs:
            tensor.record_stream(current)
        return outputs

    def record(self, function: Function, inputs: tuple[Tensor, ...]) -> Replay:
        """Record the function.

        Args:
            function: the function.
            inputs: the tensors that hold the arguments of every replay.

        Returns:
            A function that replays the graph on the present values of `inputs`. Every replay
            overwrites the results of the last one.

        Raises:
            RuntimeError: the function waits for the device, or does something else that a graph
                cannot contain.
        """
        graph = torch.cuda.CUDAGraph()
        # Graphs share one memory pool: they never run at the same time, and results are copied
        # before the next replay.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            outputs = function(*inputs)

        def replay() -> tuple[Tensor, ...]:
            graph.replay()
            return outputs

        return replay
