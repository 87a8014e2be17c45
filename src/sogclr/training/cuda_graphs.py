"""Steps as CUDA graphs: the host starts one thing a step instead of a thousand.

A step of a small network at a small batch is a thousand kernels of some microseconds. Python
takes three times as long to launch them as a GPU to run them; a graph of them is launched whole.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..common.console import say

__all__ = ["CapturedWork"]

Work: TypeAlias = Callable[..., tuple[Tensor, ...]]
Replay: TypeAlias = Callable[[], tuple[Tensor, ...]]

# Libraries choose their kernels in the first calls, and graphs must not hold such a search.
WARM = 3
# An epoch has batches of two sizes; others are rare, left by files that could not be read.
GRAPHS = 4


@dataclass(frozen=True)
class _Recording:
    inputs: tuple[Tensor, ...]
    replay: Replay


class CapturedWork:
    """Work on tensors, whose kernels are recorded once for each shape of its inputs.

    What it does besides, to gradients, running statistics or tables, it does to the same memory
    each time. It must not depend on anything that the host knows and changes: of numbers, only
    its inputs are new at every call. Work that cannot be recorded is done as it stands.

    Args:
        work: given tensors on the device, returns tensors.
        device: a CUDA device.
    """

    def __init__(self, work: Work, device: torch.device) -> None:
        self.work, self.device = work, device
        self.possible = True
        self._seen: Counter[Any] = Counter()
        self._recordings: dict[Any, _Recording] = {}
        self._recorder = Recorder()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Do it.

        Args:
            inputs: on the host.

        Returns:
            Its results, not overwritten by later calls.
        """
        kind = tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        inputs = self._recorder.pinned(inputs)
        if kind not in self._recordings:
            self._seen[kind] += 1
            inputs = tuple(tensor.to(self.device, non_blocking=True) for tensor in inputs)
            full = len(self._recordings) == GRAPHS or not self.possible
            if full or self._seen[kind] <= WARM or not self._record(kind, inputs):
                return self._recorder.aside(self.work, inputs)
        else:
            for kept, new in zip(self._recordings[kind].inputs, inputs, strict=True):
                kept.copy_(new, non_blocking=True)
        return tuple(tensor.clone() for tensor in self._recordings[kind].replay())

    def _record(self, kind: Any, inputs: tuple[Tensor, ...]) -> bool:
        """Whether it could be recorded."""
        try:
            self._recordings[kind] = _Recording(inputs, self._recorder.record(self.work, inputs))
        except RuntimeError as error:
            self.possible = False
            say(f"steps are not captured as CUDA graphs: {str(error).splitlines()[0]}")
        return kind in self._recordings


class Recorder:
    """Records work on a stream of its own, where it has been done before: autograd remembers."""

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None

    def pinned(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Where the device can fetch them by itself."""
        return tuple(each if each.is_pinned() else each.pin_memory() for each in inputs)

    def aside(self, work: Work, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Do the work now."""
        if self._stream is None:
            self._stream, self._pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            outputs = work(*inputs)
        current.wait_stream(self._stream)
        for tensor in outputs:
            tensor.record_stream(current)
        return outputs

    def record(self, work: Work, inputs: tuple[Tensor, ...]) -> Replay:
        """What does the work, on what the inputs hold by then, always with the same outputs.

        Raises:
            RuntimeError: it waits for the device, or does what else no graph can hold.
        """
        graph = torch.cuda.CUDAGraph()
        # Graphs share memory: none is replayed while another is, and outputs are copied at once.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            outputs = work(*inputs)

        def replay() -> tuple[Tensor, ...]:
            graph.replay()
            return outputs

        return replay
