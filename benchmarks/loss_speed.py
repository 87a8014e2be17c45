"""What a loss costs: time, memory and rounding, beside LibAUC, open_clip, lightly and others.

    pip install libauc open_clip_torch lightly pytorch-metric-learning inf-cl
    python benchmarks/loss_speed.py
    python benchmarks/loss_speed.py --largest
    python benchmarks/loss_speed.py --compiled

Forward, backward and, where there is one, the update of the table, from features as a projector
gives them. Losses take turns in one process, and what is reported is the ratio to ours within a
round: median, and the quartiles of the rounds. Beside it

    limit    time over that of 8 B²d (pairs) or 16 B²d (two views) floating point operations at the
             speed at which this machine multiplies the features, in the same rounds
    extra    peak memory on top of features and their gradients, in a process of its own
    error    of the gradient to one in float64, best scaled, since LibAUC's is off by B - 1 and more

`--largest` takes two views of 65,536 samples instead, ours alone, once, on a CPU. `--compiled` puts
all under `torch.compile`, beside ours as it stands (two minutes; it takes a C++ compiler). Results
are filed in `results/loss_speed.json`; a peer that is not installed is left out. Where there is a
GPU, `loss_speed_cuda.py` measures it instead, from bfloat16 features, and files
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


def timed(work: Callable[[], object], repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - started) / repeats


def rounds(family: str, size: int, width: int) -> dict[str, list[float]]:
    """Seconds of a step of each loss, and of the limit, in every round."""
    a, b, index = batch(size, width)
    x, y = a.detach(), b.detach()
    operations = 4 if family == "pairs" else 8  # of 2 B²d each
    works: dict[str, Callable[[], object]] = {"limit": lambda: x @ y.T}
    for name, loss in installed(family):
        works[name] = partial(step, loss, a, b, index)
    found = in_turns(works, 15 if size <= 1024 else 7)
    found["limit"] = [operations * seconds for seconds in found["limit"]]
    return found


def in_turns(works: dict[str, Callable[[], object]], number: int) -> dict[str, list[float]]:
    """Seconds of each in every round."""
    repeats = {name: max(1, round(0.1 / timed(work, 2))) for name, work in works.items()}
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(number):
        for name, work in works.items():
            found[name].append(timed(work, repeats[name]))
    return found


def extra_memory(family: str, name: str, size: int, width: int) -> float:
    """Peak MiB of a step on top of features and their gradients, in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", family, name, str(size), str(width)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def memory_of(family: str, name: str, size: int, width: int) -> None:
    loss = FAMILIES[family][name]()
    step(loss, *batch(8, width))  # what is only loaded once
    a, b, index = batch(size, width)
    a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
    forget_peak()
    before = peak()
    loss(a, b, index).backward()
    print(peak() - before)


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> float:
    """Of this process since it was forgotten, in MiB (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(family: str, size: int, width: int) -> list[dict[str, Any]]:
    found = rounds(family, size, width)
    mine, limit = found["sogclr"], statistics.median(found["limit"])
    rows = []
    for name, loss in installed(family):
        ratios = [other / own for other, own in zip(found[name], mine, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        seconds = statistics.median(found[name])
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


def compiled() -> Iterator[dict[str, Any]]:
    """Milliseconds of a step under torch.compile, and of ours as it stands."""
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
                except Exception as failure:  # whatever a compiler says of a peer
                    print(f"{name} does not compile: {failure!s:.200}", file=sys.stderr)
            for name, seconds in in_turns(works, 9).items():
                row = {"family": family, "size": size, "width": width, "loss": name}
                yield row | {"milliseconds": 1e3 * statistics.median(seconds)}


def largest() -> dict[str, Any]:
    """Two views of 65,536 samples, width 512: 131,072 anchors, 17 billion similarities."""
    loss = FAMILIES["two views"]["sogclr"]()
    a, b, index = batch(65_536, 512)
    a.grad, b.grad = torch.zeros_like(a), torch.zeros_like(b)
    forget_peak()
    before, started = peak(), time.perf_counter()
    loss(a, b, index).backward()
    seconds = time.perf_counter() - started
    found = {"size": 65_536, "width": 512, "seconds": round(seconds)}
    return found | {"extra": round(peak() - before)}


def peers() -> dict[str, str]:
    found = {}
    for name in PEERS:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--largest", action="store_true")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--memory-of", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    if options.largest and on_gpu:
        parser.error("--largest is measured on a CPU: set CUDA_VISIBLE_DEVICES= for it")
    if options.memory_of:
        family, name, size, width = options.memory_of
        memory_of(family, name, int(size), int(width))
        return
    path = RESULTS / ("loss_speed_cuda.json" if on_gpu else "loss_speed.json")
    stored = json.loads(path.read_text()) if path.exists() else {}
    if options.largest:
        stored["largest"] = {**largest(), **machine()}
        print(stored["largest"])
    elif options.compiled:
        stored["compiled"] = list(compiled())
        for row in stored["compiled"]:
            print(f"{row['size']:>6} {row['loss']:<28}{row['milliseconds']:>10.2f} ms")
    elif on_gpu:
        stored |= {"rows": measured_on_gpu(), "machine": {**machine(), **peers()}}
    else:
        rows = [row for family in FAMILIES for size in SIZES for row in measure(family, *size)]
        stored |= {"rows": rows, "machine": {**machine(), **peers()}}
        show(rows)
    path.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
