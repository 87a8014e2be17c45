"""Measure time, memory and rounding error of losses: sogclr, LibAUC, open_clip, lightly and others.

    pip install libauc open_clip_torch lightly pytorch-metric-learning inf-cl
    python benchmarks/loss_speed.py
    python benchmarks/loss_speed.py --size 64
    python benchmarks/loss_speed.py --largest
    python benchmarks/loss_speed.py --compiled

A step is forward, backward and, for losses with a table, its update, from features as a projector
returns them. The losses take turns in one process. The ratio is the time of a loss divided by that
of sogclr's loss in the same round: median and quartiles over rounds. Further columns:

    limit    time divided by the time of 8 B²d (pairs) or 16 B²d (two views) floating point
             operations, at the speed of a matrix product of the features in the same rounds
    extra    peak memory beyond features and their gradients, measured in a separate process
    error    relative error of the gradient against float64, after scaling it by the best factor,
             since LibAUC's gradient is B - 1 times as large and more

`--size` measures one batch size again, and keeps the results of the others. `--largest` measures
sogclr's loss once, on a CPU, with two views of 65,536 samples. `--compiled`
measures all losses under `torch.compile`, and sogclr's without it too (two minutes; needs a C++
compiler). Results are written to `results/loss_speed.json`. Libraries that are not installed are
left out. On a GPU, `loss_speed_cuda.py` measures bfloat16 features instead and writes
`results/loss_speed_cuda.json`.
"""

import argparse
import contextlib
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from compared_losses import FAMILIES, batch, error, installed, step
from loss_speed_cuda import measured_on_gpu
from machine import machine

RESULTS = Path(__file__).parent / "results"
SIZES = [(64, 512), (256, 512), (512, 512), (1024, 128), (1024, 512), (1024, 1024), (4096, 512)]
PEERS = ("libauc", "open_clip_torch", "lightly", "pytorch-metric-learning", "inf_cl")


def time_calls(work: Callable[[], object], repeats: int) -> float:
    """Return the mean seconds of a call."""
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - started) / repeats


def time_steps(family: str, size: int, width: int) -> dict[str, list[float]]:
    """Return the seconds of a step of each loss, and of the limit, in every round."""
    a, b, index = batch(size, width)
    x, y = a.detach(), b.detach()
    operations = 4 if family == "pairs" else 8  # of 2 B²d each
    works: dict[str, Callable[[], object]] = {"limit": lambda: x @ y.T}
    for name, loss in installed(family):
        works[name] = partial(step, loss, a, b, index)
    times = time_in_turns(works, 15 if size <= 1024 else 7)
    times["limit"] = [operations * seconds for seconds in times["limit"]]
    return times


def time_in_turns(works: dict[str, Callable[[], object]], number: int) -> dict[str, list[float]]:
    """Let all take turns for a number of rounds; return the seconds of each in every round."""
    repeats = {name: max(1, round(0.1 / time_calls(work, 2))) for name, work in works.items()}
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(number):
        for name, work in works.items():
            times[name].append(time_calls(work, repeats[name]))
    return times


def extra_memory(family: str, name: str, size: int, width: int) -> float:
    """Measure a step's peak MiB beyond features and their gradients, in a separate process."""
    command = [sys.executable, __file__, "--memory-of", family, name, str(size), str(width)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def print_extra_memory(family: str, name: str, size: int, width: int) -> None:
    """Measure and print the extra memory of this process."""
    loss = FAMILIES[family][name]()
    step(loss, *batch(8, width))  # loads what is loaded only once
    a, b, index = batch(size, width)
    a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
    reset_peak_memory()
    before = peak_memory()
    loss(a, b, index).backward()
    print(peak_memory() - before)


def reset_peak_memory() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> float:
    """Return the peak memory of this process since the last reset, in MiB (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(family: str, size: int, width: int) -> list[dict[str, Any]]:
    """Measure all losses of a family, one line of the results for each."""
    times = time_steps(family, size, width)
    own, limit = times["sogclr"], statistics.median(times["limit"])
    rows = []
    for name, loss in installed(family):
        ratios = [a / b for a, b in zip(times[name], own, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        seconds = statistics.median(times[name])
        row = {"family": family, "size": size, "width": width, "loss": name}
        row |= {"ratio": middle, "quartiles": [low, high], "milliseconds": 1e3 * seconds}
        row |= {"limit": seconds / limit, "error": error(family, name, loss, size, width)}
        if size >= 1024:
            row["extra"] = extra_memory(family, name, size, width)
        rows.append(row)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    print(f"{'':<34}{'time / ours':>20}{'ms':>10}{'/ limit':>9}{'extra MiB':>11}{'error':>9}")
    for row in rows:
        low, high = row["quartiles"]
        print(
            f"{row['size']:>6} x {row['width']:<5}{row['loss']:<24}"
            f"{row['ratio']:>8.2f} ({low:.2f}-{high:.2f}){row['milliseconds']:>10.2f}"
            f"{row['limit']:>9.2f}{row.get('extra', math.nan):>11.0f}{row['error']:>9.0e}"
        )


def measure_compiled() -> Iterator[dict[str, Any]]:
    """Yield the milliseconds of a step under torch.compile, and of sogclr's loss without it."""
    for family, losses in FAMILIES.items():
        for size, width in ((64, 512), (1024, 512)):
            a, b, index = batch(size, width)
            works: dict[str, Callable[[], object]] = {
                "sogclr, as it stands": partial(step, losses["sogclr"](), a, b, index)
            }
            for name, loss in installed(family):
                work = partial(step, torch.compile(loss), a, b, index)
                try:
                    work()
                    works[name] = work
                except Exception as failure:  # compilers raise many kinds of errors
                    print(f"{name} does not compile: {failure!s:.200}", file=sys.stderr)
            for name, seconds in time_in_turns(works, 9).items():
                row = {"family": family, "size": size, "width": width, "loss": name}
                yield row | {"milliseconds": 1e3 * statistics.median(seconds)}


def measure_largest() -> dict[str, Any]:
    """Measure two views of 65,536 samples: 131,072 anchors, 17 billion similarities."""
    loss = FAMILIES["two views"]["sogclr"]()
    a, b, index = batch(65_536, 512)
    a.grad, b.grad = torch.zeros_like(a), torch.zeros_like(b)
    reset_peak_memory()
    before, started = peak_memory(), time.perf_counter()
    loss(a, b, index).backward()
    seconds = time.perf_counter() - started
    result = {"size": 65_536, "width": 512, "seconds": round(seconds)}
    return result | {"extra": round(peak_memory() - before)}


def peer_versions() -> dict[str, str]:
    """Return the versions of the other libraries that are installed."""
    versions = {}
    for name in PEERS:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", type=int, choices=sorted({size for size, _ in SIZES}))
    parser.add_argument("--largest", action="store_true")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--memory-of", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    if options.largest and on_gpu:
        parser.error("--largest is measured on a CPU: set CUDA_VISIBLE_DEVICES= for it")
    if options.memory_of:
        family, name, size, width = options.memory_of
        print_extra_memory(family, name, int(size), int(width))
        return
    path = RESULTS / ("loss_speed_cuda.json" if on_gpu else "loss_speed.json")
    stored = json.loads(path.read_text()) if path.exists() else {}
    if options.largest:
        stored["largest"] = {**measure_largest(), **machine()}
        print(stored["largest"])
    elif options.compiled:
        stored["compiled"] = list(measure_compiled())
        for row in stored["compiled"]:
            print(f"{row['size']:>6} {row['loss']:<28}{row['milliseconds']:>10.2f} ms")
    elif on_gpu:
        stored |= {"rows": measured_on_gpu(), "machine": {**machine(), **peer_versions()}}
    else:
        sizes = [each for each in SIZES if options.size in (None, each[0])]
        rows = [row for family in FAMILIES for each in sizes for row in measure(family, *each)]
        show(rows)
        kept = [row for row in stored.get("rows", []) if (row["size"], row["width"]) not in sizes]
        stored |= {"rows": kept + rows, "machine": {**machine(), **peer_versions()}}
    path.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
