"""Time a few real steps on a CPU, from loading samples to updated weights."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..common.options import ConcretePrecision
from ..data.batches.schedule import Schedule
from ..planning.recipe import Recipe
from .optimizer import build_optimizer
from .rehearse import InPrecision
from .task import Task

__all__ = ["Pace", "time_steps"]

SMALLEST = 4  # samples in the first timed batch
ENOUGH = 1.0  # seconds of steps at one size of batch that give its pace
MOST_BATCHES = 10


@dataclass(frozen=True)
class Pace:
    """The time of each part of a step.

    Attributes:
        loading: Seconds to load a sample in one process.
        computing: Seconds for the views, the forward and the backward pass of a sample.
        updating: Seconds of an optimizer step.
        batch: Number of samples in the timed micro-batches.
    """

    loading: float
    computing: float
    updating: float
    batch: int

    def seconds(self, samples: int, updates: int, workers: int) -> float:
        """Return the seconds of a run; `workers` processes load while others compute, if any.

        Args:
            samples: Number of samples of the whole run, in this process.
            updates: Number of optimizer steps of the whole run.
            workers: Number of loader processes.
        """
        each = self.loading + self.computing
        if workers:
            each = max(self.loading / workers, self.computing)
        return samples * each + updates * self.updating


def time_steps(
    task: Task,
    schedule: Callable[[int], Schedule],
    largest: int,
    precision: ConcretePrecision,
    recipe: Recipe,
) -> Pace:
    """Time steps with batches that grow fourfold until they take seconds, or are as planned.

    The weights of the task change.

    Args:
        task: a task on the CPU.
        schedule: returns a schedule of micro-batches of a given size.
        largest: number of samples of a micro-batch in the run.
        precision: the precision of the run.
        recipe: the optimizer.
    """
    task.model.train().to(memory_format=torch.channels_last)
    model = InPrecision(task.model, precision)
    optimizer = build_optimizer(task.model, task.loss, recipe)
    size = min(SMALLEST, largest)
    while True:
        pace = _time_batches(task, model, optimizer, schedule(size))
        following = min(4 * size, largest)
        if size == largest or pace.seconds(following, 1, workers=0) > ENOUGH:
            return pace
        size = following


def _time_batches(task: Task, model: Any, optimizer: Any, schedule: Schedule) -> Pace:
    """Time micro-batches. The first, which also prepares kernels, counts only if it is alone."""
    cpu = torch.device("cpu")
    times: list[tuple[int, float, float, float]] = []
    batches = iter(task.loader(schedule, pin_memory=False))
    begun = time.perf_counter()
    while len(times) < MOST_BATCHES:
        started = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            break
        count = len(batch.micro_batch.rows)
        if count < 2:  # Its other images cannot be read.
            continue
        loaded = time.perf_counter()
        task.forward(model, task.prepare(batch), cpu).loss.backward()
        computed = time.perf_counter()
        optimizer.step()
        optimizer.zero_grad()
        task.after_step()
        ended = time.perf_counter()
        times.append((count, loaded - started, computed - loaded, ended - computed))
        if len(times) > 1 and ended - begun > ENOUGH:
            break
    times = times[1:] or times
    samples, loading, computing, updating = (sum(part) for part in zip(*times, strict=True))
    return Pace(loading / samples, computing / samples, updating / len(times), times[0][0])
