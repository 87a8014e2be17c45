"""`loss_speed.py` on a GPU: bfloat16 features, times by the device's own clock.

Losses take turns, and what is reported is each one's median. Beside the columns of a CPU's table

    extra     peak memory of a step on top of features and their gradients
    launches  of kernels, copies and fills, in a step
    device    milliseconds in which the device was at work: the rest is the host's, which a CUDA
              graph would save
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
ROUNDS, MILLISECONDS = 5, 15  # of each loss and size: rounds, and how long they last


def measured_on_gpu() -> list[dict[str, Any]]:
    """A row for each loss and size; prints them as a table."""
    families = ("pairs", "two views")
    rows = [row for family in families for size in SIZES for row in measure(family, *size)]
    show(rows)
    return rows


def measure(family: str, size: int, width: int) -> list[dict[str, Any]]:
    a, b, index = batch(size, width, torch.bfloat16)
    x, y = a.detach(), b.detach()
    operations = 4 if family == "pairs" else 8  # of 2 B²d each
    losses = dict(fitting(family, size, width))
    works: dict[str, Callable[[], object]] = {"limit": lambda: x @ y.T}
    works |= {name: partial(step, loss, a, b, index) for name, loss in losses.items()}
    repeats = {name: max(2, round(MILLISECONDS / timed(work, 2))) for name, work in works.items()}
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            found[name].append(timed(work, repeats[name]))
    middle = {name: statistics.median(times) for name, times in found.items()}
    rows = []
    for name, loss in losses.items():
        row = {"family": family, "size": size, "width": width, "loss": name}
        row |= {"milliseconds": middle[name], "ratio": middle[name] / middle["sogclr"]}
        row |= {"limit": middle[name] / (operations * middle["limit"])}
        row |= {"extra": extra_memory(loss, size, width), **launches(works[name])}
        if (size, width) == (1024, 512):
            row["error"] = error(family, name, loss, size, width, torch.bfloat16)
        rows.append(row)
    return rows


def fitting(family: str, size: int, width: int) -> list[tuple[str, Loss]]:
    """The losses that are installed and have room; compiles what they compile."""
    found = []
    for name, loss in installed(family):
        try:
            step(loss, *batch(size, width, torch.bfloat16))
        except Exception as failed:  # out of memory, or what a peer's kernels raise
            if name.startswith("sogclr"):
                raise
            print(f"{name} is left out at {size} x {width}: {failed}")
        else:
            found.append((name, loss))
    return found


def timed(work: Callable[[], object], repeats: int) -> float:
    """Milliseconds."""
    started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    started.record()
    for _ in range(repeats):
        work()
    ended.record()
    ended.synchronize()
    return started.elapsed_time(ended) / repeats


def extra_memory(loss: Loss, size: int, width: int) -> float:
    """Peak MiB of a step on top of features and their gradients."""
    a, b, index = batch(size, width, torch.bfloat16)
    a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss(a, b, index).backward()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def launches(work: Callable[[], object]) -> dict[str, float]:
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
