"""What a loss costs: time, memory and rounding, beside LibAUC, open_clip, lightly and others.

    pip install libauc open_clip_torch lightly pytorch-metric-learning
    python benchmarks/loss_speed.py
    python benchmarks/loss_speed.py --largest

Forward, backward and, where there is one, the update of the table, from features as a projector
gives them. Losses take turns in one process, and what is reported is the ratio to ours within a
round: median, and the quartiles of the rounds. Beside it

    limit    time over that of 8 B²d (pairs) or 16 B²d (two views) floating point operations at the
             speed at which this machine multiplies the features, in the same rounds
    extra    peak memory on top of features and their gradients, in a process of its own
    error    of the gradient to one in float64, best scaled, since LibAUC's is off by B - 1 and more

`--largest` takes two views of 65,536 samples instead, ours alone, once. Results are filed in
`results/loss_speed.json`; a peer that is not installed is left out.
"""

import argparse
import contextlib
import io
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
from machine import machine
from torch import Tensor
from torch.nn.functional import normalize

import sogclr

RESULTS = Path(__file__).parent / "results" / "loss_speed.json"
SAMPLES, TAU = 100_000, 0.1
SIZES = [(64, 512), (256, 512), (512, 512), (1024, 128), (1024, 512), (1024, 1024), (4096, 512)]
PEERS = ("libauc", "open_clip_torch", "lightly", "pytorch-metric-learning")

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def libauc(mode: str) -> Loss:
    from libauc.losses import GCLoss

    with contextlib.redirect_stdout(io.StringIO()):
        loss = GCLoss(mode, N=SAMPLES, tau=TAU, device="cpu")
    # In that mode it returns temperatures as well.
    return (lambda a, b, index: loss(a, b, index)[0]) if mode == "bimodal" else loss


def open_clip() -> Loss:
    from open_clip import ClipLoss

    loss, scale = ClipLoss(), torch.tensor(1 / TAU)
    return lambda a, b, index: loss(normalize(a, dim=-1), normalize(b, dim=-1), scale)


def lightly() -> Loss:
    from lightly.loss import NTXentLoss

    loss = NTXentLoss(TAU)
    return lambda a, b, index: loss(a, b)


def metric_learning() -> Loss:
    from pytorch_metric_learning.losses import SupConLoss

    loss = SupConLoss(TAU)
    return lambda a, b, index: loss(torch.cat([a, b]), index.repeat(2))


# Ours first: the others are told relative to it.
FAMILIES: dict[str, dict[str, Callable[[], Loss]]] = {
    "pairs": {
        "sogclr": lambda: sogclr.TwoWayGlobalContrastiveLoss(SAMPLES, temperature=TAU),
        "sogclr, CLIP's": lambda: sogclr.ClipLoss(TAU),
        "LibAUC": lambda: libauc("bimodal"),
        "open_clip": open_clip,
    },
    "two views": {
        "sogclr": lambda: sogclr.GlobalContrastiveLoss(SAMPLES, temperature=TAU),
        "sogclr, SimCLR's": lambda: sogclr.NTXentLoss(TAU),
        "LibAUC": lambda: libauc("unimodal"),
        "lightly": lightly,
        "pytorch-metric-learning": metric_learning,
    },
}
IN_BATCH = {"sogclr, CLIP's", "open_clip", "sogclr, SimCLR's", "lightly", "pytorch-metric-learning"}


def installed(family: str) -> Iterator[tuple[str, Loss]]:
    for name, make in FAMILIES[family].items():
        try:
            yield name, make()
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)


def batch(size: int, width: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Features whose partners resemble each other, and ids."""
    generator = torch.Generator().manual_seed(size)
    a, b = torch.randn(2, size, width, generator=generator)
    index = torch.randperm(SAMPLES, generator=generator)[:size]
    b += a
    return a.to(dtype).requires_grad_(), b.to(dtype).requires_grad_(), index


def step(loss: Loss, a: Tensor, b: Tensor, index: Tensor) -> None:
    a.grad = b.grad = None
    loss(a, b, index).backward()


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
    repeats = {name: max(1, round(0.1 / timed(work, 2))) for name, work in works.items()}
    number = 15 if size <= 1024 else 7
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(number):
        for name, work in works.items():
            found[name].append(timed(work, repeats[name]))
    found["limit"] = [operations * seconds for seconds in found["limit"]]
    return found


def error(family: str, name: str, loss: Loss, size: int, width: int) -> float:
    """Of the gradient of a first step, in which u is the batch's own estimate."""
    a, b, index = batch(size, width)
    gradient = torch.cat(torch.autograd.grad(loss(a, b, index), (a, b))).double().flatten()
    a, b, index = batch(size, width, torch.float64)
    value = reference(family, a, b, name in IN_BATCH, name == "sogclr")
    exact = torch.cat(torch.autograd.grad(value, (a, b))).flatten()
    scaled = gradient * (gradient @ exact / gradient.square().sum())
    return float((scaled - exact).norm() / exact.norm())


def reference(
    family: str, a: Tensor, b: Tensor, positive_in_normalizer: bool, one_u_a_sample: bool
) -> Tensor:
    """The in-batch loss, dense and in the dtype of the features."""
    a, b = normalize(a, dim=1), normalize(b, dim=1)
    size = len(a)
    if family == "pairs":
        logits = [a @ b.T / TAU, b @ a.T / TAU]
        positive = torch.arange(size)[:, None]
    else:
        z = torch.cat([a, b])
        own = torch.eye(2 * size, dtype=torch.bool)
        logits = [(z @ z.T / TAU).masked_fill(own, -math.inf)]
        positive = torch.arange(2 * size).roll(size)[:, None]
    total = a.new_zeros(())
    for each in logits:
        rest = each if positive_in_normalizer else each.scatter(1, positive, -math.inf)
        log_g = rest.logsumexp(dim=1)
        if one_u_a_sample and family == "two views":
            views = log_g.detach().view(2, size)
            log_u = views.logsumexp(dim=0).repeat(2) - math.log(2)
            log_g = (log_g.detach() - log_u).exp() * log_g
        total = total + (log_g - each.gather(1, positive).squeeze(1)).mean()
    return total


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
    parser.add_argument("--memory-of", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        family, name, size, width = options.memory_of
        memory_of(family, name, int(size), int(width))
        return
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if options.largest:
        stored["largest"] = {**largest(), **machine()}
        print(stored["largest"])
    else:
        rows = [row for family in FAMILIES for size in SIZES for row in measure(family, *size)]
        stored |= {"rows": rows, "machine": {**machine(), **peers()}}
        show(rows)
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
