"""Forecast the memory and the time of a run for `--dry-run`, and print both."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..common.console import say, setting_line
from ..common.environment import processes
from ..common.errors import UserError, one_line
from ..common.system import machine_bytes, resident_bytes
from ..data.batches.schedule import Schedule
from ..planning.gpus import GPUS, UTILISATION
from ..planning.images import Plan
from ..planning.pairs import PairPlan
from ..training.rehearse import Rehearsal, bytes_of, rehearse
from ..training.task import Task
from ..training.time_steps import Pace, time_steps

__all__ = ["Forecast", "forecast"]

FIRST = 4  # samples of the micro-batch that shows what the model receives


@dataclass(frozen=True)
class Forecast:
    """The expected memory and time of a run, for each of its processes.

    Attributes:
        memory: Most bytes at once: of the whole process on a CPU, of tensors on a GPU. None if the
            model reads values of tensors, so that its step cannot be rehearsed.
        table: Bytes of the state of the loss, a part of `memory`.
        operations: Floating-point operations of the whole run; None where `memory` is.
        hours: Hours of training by device: "cpu" as measured, or estimated for named GPUs.
    """

    memory: int | None
    table: int
    operations: int | None
    hours: dict[str, float]


def forecast(
    task: Task,
    plan: Plan | PairPlan,
    device: str,
    make_schedule: Callable[[int, int], Schedule],
    *,
    features: float = 0.0,
) -> Forecast:
    """Forecast a run and print the forecast. The task is of no use afterwards.

    Args:
        task: The task of the run on the CPU, newly built, which loads samples itself.
        plan: The plan of the run.
        device: The type of the device that is planned.
        make_schedule: Makes a schedule from the size of its micro-batches and the number of
            micro-batches in a step.
        features: Seconds that the features of frozen towers take on this CPU before training.

    Raises:
        UserError: No sample can be read.
    """
    say("  rehearsing a step; nothing is started")
    schedule = make_schedule(plan.batch_size, plan.request.accumulate)
    largest = -(-max(schedule.sizes) // processes())
    share = sum(schedule.sizes) * schedule.epochs // processes()
    table, base = bytes_of(task.loss), resident_bytes()
    if base is not None:
        base -= bytes_of(task.model) + table
    hours: dict[str, float] = {}
    first = _first_batch(task, make_schedule(FIRST, 1))
    if device == "cpu":
        pace = time_steps(
            task, lambda size: make_schedule(size, 1), largest, plan.precision, plan.recipe
        )
        seconds = features + pace.seconds(share, schedule.total_steps, plan.workers)
        hours["cpu"] = seconds / 3600
    keeps_gradients = plan.request.accumulate > 1 or device == "cuda"
    try:
        rehearsal = rehearse(
            task, first, largest, plan.precision, plan.recipe, keeps_gradients=keeps_gradients
        )
    except Exception as error:  # of any type: a model may do anything
        say(setting_line("memory", "unknown", f"this model needs real data ({one_line(error)})"))
        rehearsal = None
    memory = operations = None
    if rehearsal is not None:
        memory = _print_memory(rehearsal, device, base)
        operations = rehearsal.operations * share // largest
        if device == "cuda":
            hours = {gpu.name: gpu.hours(operations, plan.precision) for gpu in GPUS}
            _print_gpus(hours, memory, plan.precision)
    if device == "cpu":
        _print_pace(pace, hours["cpu"], features)
    elif device == "mps":
        say(setting_line("time", "unknown", "not estimated on an Apple GPU"))
    say("nothing was started; leave out --dry-run to train")
    return Forecast(memory, table, operations, hours)


def _first_batch(task: Task, schedule: Schedule) -> Any:
    """Load the first micro-batch of which two samples can be read."""
    for batch in task.loader(schedule, pin_memory=False):
        if len(batch.micro_batch.rows) > 1:
            return batch
    raise UserError("data: none of the samples can be read")


def _print_memory(rehearsal: Rehearsal, device: str, base: int | None) -> int:
    """Print the peak of the memory by its parts, and return it in bytes."""
    parts = {
        "weights": rehearsal.weights,
        "optimizer": rehearsal.optimizer,
        "activations": rehearsal.activations,
        "table": rehearsal.tables,
    }
    where = "in each process" if processes() > 1 else "at the peak of a step"
    if device == "cpu" and base is not None:
        parts |= {"gaps of the allocator": rehearsal.gaps, "Python, libraries and data": base}
    elif device == "cuda":
        where += ", beside half a gigabyte of CUDA itself"
    total = sum(parts.values())
    texts = ", ".join(f"{name} {_size(part)}" for name, part in parts.items())
    say(setting_line("memory", _size(total), f"{where}: {texts}"))
    here = machine_bytes()
    if device == "cpu" and here is not None and total * processes() > here:
        say(
            f"  this machine has {_size(here)}: give less --batch-size, or see docs/small_memory.md"
        )
    return total


def _print_gpus(hours: dict[str, float], memory: int, precision: str) -> None:
    """Print the hours on named GPUs, and whether their memory is enough."""
    for gpu in GPUS:
        enough = "are enough" if memory < gpu.gigabytes * 1e9 else "are too little"
        pace = f"at {UTILISATION:.0%} of its {gpu.peak(precision):g} TFLOP/s"
        say(setting_line(gpu.name, _hours(hours[gpu.name]), f"{pace}; {gpu.gigabytes} GB {enough}"))


def _print_pace(pace: Pace, hours: float, features: float) -> None:
    """Print the time on this CPU, and what it was derived from."""
    loading, each = 1000 * pace.loading, 1000 * (pace.loading + pace.computing)
    text = (
        f"{each:.3g} ms a sample, {loading:.2g} to load it, timed here in batches of {pace.batch}"
    )
    if features:
        text += f"; {_hours(features / 3600)} for features of frozen towers"
    say(setting_line("time", _hours(hours), f"{text}; evaluations come on top"))


def _size(count: int) -> str:
    """Format a number of bytes."""
    if count < 1e6:
        return f"{count / 1e3:.1f} kB"
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def _hours(hours: float) -> str:
    """Format a time."""
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    return f"{60 * hours:.0f} min" if hours < 2 else f"{hours:,.3g} h"
