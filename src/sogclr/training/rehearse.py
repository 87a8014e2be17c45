"""Rehearse steps of a run: the most memory that they hold at once, and their operations.

Fake tensors have shapes and no contents, so that a laptop rehearses a step of hundreds of gigabytes
in seconds. `LiveBytes` counts their bytes as a step makes and drops them. torch.distributed has a
`MemTracker` that agrees with it to the byte; but it is private, absent from builds of torch without
distributed, and takes four times as long.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from ..common.options import ConcretePrecision
from ..losses.normalizer_table import NormalizerTable
from ..planning.recipe import Recipe
from .optimizer import build_optimizer
from .task import Task

__all__ = ["InPrecision", "LiveBytes", "Rehearsal", "bytes_of", "rehearse"]

# glibc takes blocks below `HEAP` bytes from its heap, which keeps what is freed, with gaps between
# blocks. So the peaks of small and large blocks add up, although they come at different times. The
# gaps were 0.2 to 0.4 of the small blocks with four encoders.
HEAP = 2**25
GAPS = 0.3
Modes = Callable[[], AbstractContextManager]

# The loss of more samples is linear in their number, since it works tile by tile.
MOST_COMPARED = 4_096


@dataclass(frozen=True)
class Rehearsal:
    """The memory and operations of the steps of one process. All but the last are bytes.

    Attributes:
        weights: weights and statistics of the model.
        optimizer: optimizer state, and gradients if they exist during the forward pass.
        activations: all other tensors at the peak: activations, views, gradients, what the loss
            holds.
        tables: state of the loss: tables of normalizers and temperatures, memory or queue.
        gaps: what the C library of Linux holds beside tensors on a CPU.
        operations: floating-point operations of a micro-batch in the model, forward and backward.
    """

    weights: int
    optimizer: int
    activations: int
    tables: int
    gaps: int
    operations: int

    @property
    def peak(self) -> int:
        """Return the most bytes of tensors that exist at once."""
        return self.weights + self.optimizer + self.activations + self.tables


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, until they are freed.

    Attributes:
        now: bytes of those that exist.
        peak: the most bytes that existed at once.
        small_peak, large_peak: the same of tensors below and above `HEAP`, each at its own time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.small_peak = self.large_peak = self._large = 0
        self._seen: dict[int, weakref.ref] = {}

    def add(self, tensor: Tensor) -> None:
        """Count the memory of a tensor, unless it is counted already, as that of a view is."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key not in self._seen:
            self._seen[key] = weakref.ref(storage, lambda _: self._drop(key, size))
            self.hold(size)

    def hold(self, size: int) -> None:
        """Count the bytes of a tensor; a negative number frees them."""
        self.now += size
        self._large += size if abs(size) >= HEAP else 0
        self.peak = max(self.peak, self.now)
        self.large_peak = max(self.large_peak, self._large)
        self.small_peak = max(self.small_peak, self.now - self._large)

    def _drop(self, key: int, size: int) -> None:
        del self._seen[key]
        self.hold(-size)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return result


class InPrecision(nn.Module):
    """Runs a model in the precision of a run on a CPU, as Fabric does: its outputs are float32."""

    def __init__(self, model: nn.Module, precision: ConcretePrecision) -> None:
        super().__init__()
        self.model, self.mixed = model, precision == "bf16-mixed"

    def forward(self, *inputs: Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.mixed):
            outputs = self.model(*inputs)
        return tree_map_only(Tensor, lambda x: x.float() if x.is_floating_point() else x, outputs)


class _Recorded(nn.Module):
    """Calls a module, and records what it received."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.args, self.kwargs = args, kwargs
        return self.module(*args, **kwargs)


class _FakeModel(nn.Module):
    """Runs a model of fake weights on fake inputs, whatever inputs it is given."""

    def __init__(self, model: nn.Module, make_inputs: Callable[[], Any], modes: Modes) -> None:
        super().__init__()
        self.model, self.make_inputs, self.modes = model, make_inputs, modes

    def forward(self, *_: Tensor) -> Any:
        with self.modes():
            return self.model(*self.make_inputs())


class _FakeLoss(nn.Module):
    """Holds for a moment the bytes that the loss takes, and gives all features a gradient."""

    def __init__(self, live: LiveBytes, size: int, modes: Modes) -> None:
        super().__init__()
        self.live, self.size, self.modes = live, size, modes

    def forward(self, *sides: Any, **_: Any) -> Any:
        self.live.hold(self.size)
        self.live.hold(-self.size)
        with self.modes():
            return sum(x.sum() for x in sides if x.requires_grad)


def rehearse(
    task: Task,
    batch: Any,
    count: int,
    precision: ConcretePrecision,
    recipe: Recipe,
    *,
    keeps_gradients: bool,
) -> Rehearsal:
    """Rehearse steps with micro-batches of `count` samples. The task is of no use afterwards.

    Args:
        task: a task on the CPU, newly built; its weights are replaced by fake ones.
        batch: a small micro-batch, which shows what the model and the loss receive.
        count: number of samples of a micro-batch in this process.
        precision: the precision of the run.
        recipe: the optimizer.
        keeps_gradients: whether gradients exist during the forward pass: those of earlier
            micro-batches of a step, or those that a CUDA graph adds to.

    Raises:
        Exception: of many kinds, if the model reads values of tensors, which fake ones lack.
    """
    cpu, small = torch.device("cpu"), len(batch.micro_batch.rows)
    task.model.train().to(memory_format=torch.channels_last)
    model, loss = _Recorded(task.model), _Recorded(task.loss)
    inputs = task.prepare(batch)
    task.loss = loss
    task.forward(InPrecision(model, precision), inputs, cpu)
    tables, in_loss = bytes_of(loss.module), _bytes_in_loss(loss, small, count)
    # The crops or tokens of the batch exist beside the views that are made of them.
    loaded = [getattr(each, "tensor", each) for each in inputs]
    loaded_bytes = sum(each.nbytes for each in loaded if isinstance(each, Tensor)) * count // small

    fake, live = FakeTensorMode(), LiveBytes()

    @contextmanager
    def modes() -> Iterator[None]:
        with fake, live:
            yield

    with modes():
        _make_fake(task.model)
        weights = live.now
        optimizer = build_optimizer(task.model, nn.Identity(), recipe)
    in_precision = InPrecision(task.model, precision)
    fake_model = _FakeModel(in_precision, lambda: _resize(model.args, small, count), modes)
    task.loss = _FakeLoss(live, in_loss, modes)

    def run_micro_batch() -> None:
        outcome = task.forward(fake_model, inputs, cpu)
        with modes():
            outcome.loss.backward()

    def update() -> None:
        with modes():
            optimizer.step()
            task.after_step()
            optimizer.zero_grad(set_to_none=not keeps_gradients)

    with FlopCounterMode(display=False) as counter:
        run_micro_batch()
    update()  # the first update makes the state of the optimizer
    held = live.now - weights
    live.peak = live.now
    run_micro_batch()
    update()
    return Rehearsal(
        weights=weights,
        optimizer=held,
        activations=live.peak - weights - held + loaded_bytes,
        tables=tables,
        gaps=max(0, round((1 + GAPS) * live.small_peak) + live.large_peak - live.peak),
        operations=counter.get_total_flops(),
    )


def bytes_of(module: nn.Module) -> int:
    """Return the bytes of the state of a module: weights, buffers, tables."""
    return sum(each.nbytes for each in module.state_dict().values() if isinstance(each, Tensor))


def _make_fake(module: nn.Module) -> None:
    """Replace parameters and buffers by fake tensors; shared ones stay shared."""
    # By id of the real tensor, which is kept so that no other one gets its id.
    made: dict[int, tuple[Tensor, Tensor]] = {}

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
            if isinstance(tensor, nn.Parameter):
                empty = nn.Parameter(empty, tensor.requires_grad)
            made[id(tensor)] = tensor, empty
        return made[id(tensor)][1]

    for part in module.modules():
        own = [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]
        for name, tensor in own:
            setattr(part, name, fake(tensor))


def _resize(args: Any, small: int, count: int) -> Any:
    """Make tensors like those of `small` samples, for `count` samples."""

    def resize(tensor: Tensor) -> Tensor:
        shape = (len(tensor) // small * count, *tensor.shape[1:])
        last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        return torch.empty(shape, dtype=tensor.dtype, memory_format=layout)

    return tree_map_only(Tensor, resize, args)


def _bytes_in_loss(loss: _Recorded, small: int, count: int) -> int:
    """Measure the most bytes that the loss makes of `count` samples, by random features."""
    compared = min(count, MOST_COMPARED)
    tables = [m.num_rows for m in loss.modules() if isinstance(m, NormalizerTable)]
    rows = min([compared, *tables])

    def enlarge(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            return torch.randn(compared, *tensor.shape[1:], requires_grad=tensor.requires_grad)
        return torch.arange(compared) % rows

    args, kwargs = tree_map_only(Tensor, enlarge, (loss.args, loss.kwargs))
    with LiveBytes() as live:
        loss.module(*args, **kwargs).backward()
    return live.peak * count // compared
