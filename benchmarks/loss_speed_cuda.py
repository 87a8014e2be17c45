"""Measure losses on a GPU for `loss_speed.py`: bfloat16 features, times by the device's clock.

The losses take turns, and the time is the median over rounds. Columns that the table of a CPU does
not have, or has in another sense:

    extra     peak memory of a step beyond features and their gradients
    launches  number of kernels, copies and fills in a step
    device    milliseconds in which the device computed; a CUDA graph would save the rest
"""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from compared_losses import Loss, batch, error, installed, step
from torch.profiler import ProfilerActivity, profile

__all__ = ["measured_on_gpu"]

SIZES = [(64, 128), *((size, 512) for size in (64, 256, 1024, 4096, 16_384))]
ROUNDS, MILLISECONDS = 5, 15  # rounds for each loss and size, and their length


def measured_on_gpu() -> list[dict[str, Any]]:
    """Measure and print each loss at each size, and return the lines of the results file."""
    families = ("pairs", "two views")
    rows = [row for family in families for size in SIZES for row in measure(family, *size)]
    show(rows)
    return rows


def measure(family: str, size: int, width: int) -> list[dict[str, Any]]:
    """Measure all losses of a family at one size."""
    a, b, index = batch(size, width, torch.bfloat16)
    x, y = a.detach(), b.detach()
    operations = 4 if family == "pairs" else 8  # of 2 B²d each
    losses = dict(losses_that_fit(family, size, width))
    works: dict[str, Callable[[], object]] = {"limit": lambda: x @ y.T}
    works |= {name: partial(step, loss, a, b, index) for name, loss in losses.items()}
    repeats = {
        name: max(2, round(MILLISECONDS / time_calls(work, 2))) for name, work in works.items()
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            times[name].append(time_calls(work, repeats[name]))
    middle = {name: statistics.median(each) for name, each in times.items()}
    rows = []
    for name, loss in losses.items():
        row = {"family": family, "size": size, "width": width, "loss": name}
        row |= {"milliseconds": middle[name], "ratio": middle[name] / middle["sogclr"]}
        row |= {"limit": middle[name] / (operations * middle["limit"])}
        row |= {"extra": extra_memory(loss, size, width), **count_launches(works[name])}
        if (size, width) == (1024, 512):
            row["error"] = error(family, name, loss, size, width, torch.bfloat16)
        rows.append(row)
    return rows


def losses_that_fit(family: str, size: int, width: int) -> list[tuple[str, Loss]]:
    """Return the installed losses with enough memory, after a first step that compiles kernels."""
    losses = []
    for name, loss in installed(family):
        try:
            step(loss, *batch(size, width, torch.bfloat16))
        except Exception as failed:  # out of memory, or an error of a library's kernels
            if name.startswith("sogclr"):
                raise
            print(f"{name} is left out at {size} x {width}: {failed}")
        else:
            losses.append((name, loss))
    return losses


def time_calls(work: Callable[[], object], repeats: int) -> float:
    """Return the mean milliseconds of a call."""
    started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    started.record()
    for _ in range(repeats):
        work()
    ended.record()
    ended.synchronize()
    return started.elapsed_time(ended) / repeats


def extra_memory(loss: Loss, size: int, width: int) -> float:
    """Return a step's peak MiB beyond features and their gradients."""
    a, b, index = batch(size, width, torch.bfloat16)
    a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss(a, b, index).backward()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def count_launches(work: Callable[[], object]) -> dict[str, float]:
    """Profile a step: count its launches and sum the milliseconds of the device."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        work()
        torch.cuda.synchronize()
    on_device = [
        event
        for event in profiled.key_averages()
        if event.device_type == torch.autograd.DeviceType.CUDA
    ]
    busy = sum(event.self_device_time_total for event in on_device)
    return {"launches": sum(event.count for event in on_device), "device": busy / 1e3}


def show(rows: list[dict[str, Any]]) -> None:
    print(
        f"{'':<36}{'ms':>9}{'/ ours':>8}{'/ limit':>9}{'device':>9}{'launches':>10}"
        f"{'extra MiB':>11}{'error':>9}"
    )
    for row in rows:
        print(
            f"{row['size']:>6} x {row['width']:<4} {row['loss']:<23}{row['milliseconds']:>9.3f}"
            f"{row['ratio']:>8.2f}{row['limit']:>9.2f}{row['device']:>9.3f}{row['launches']:>10}"
            f"{row['extra']:>11.0f}" + (f"{row['error']:>9.0e}" if "error" in row else "")
        )
