"""What the estimator is worth: only the number of negatives differs between these runs.

    python benchmarks/negatives.py --size cpu
    python benchmarks/negatives.py --size gpu --minutes 12
    python benchmarks/negatives.py --size gpu --show

A step has 256 images in all runs, so batch normalization, learning rate, number of steps and
throughput are equal. The loss is the mean of the losses of groups of b = 8, 32 or 256 images, so an
anchor meets 2 (b - 1) negatives. It is also the case of many devices, each with its own loss.

Methods: SimCLR, DCL (SimCLR without the positive in the normalizer), SogCLR's table, and the table
under a level. Runs of one b and one seed share initial weights, order and views.

    --size cpu   40 classes x 125 images, the small encoder, 12 epochs, three seeds. Before, each
                 method gets one run at each of three temperatures and each b; R@1 of features on
                 other images chooses. At most two hours of two cores.
    --size gpu   100 classes x 250 images, a ResNet-18 of half width, bfloat16, 40 epochs, two
                 seeds, the temperatures of the CPU size. A quarter of an hour of one H100.

Both sizes train on Tiny-ImageNet at 32 px and test on the validation images of its classes. Scores:
R@1 between two views, by features of the encoder and by projections; the exact F and F2 of the
projections at temperature 0.1 for all methods; kNN and a linear probe on features.

Each group of runs is filed in `results/negatives_SIZE.jsonl` when it ends, one line a run. The same
command continues. With `--minutes`, groups whose training would end later are left for
the next time; the scores of the last group take about a minute more.
"""

import argparse
import math
import time
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from lockstep import Learner, Views, build_model, encode, train
from machine import machine
from negatives_results import METHODS, SIZES, TEMPERATURE, Cell, Results, groups_of_runs, show
from threadpoolctl import threadpool_limits
from tiny_imagenet import Split, tiny_imagenet

from sogclr import DecoupledContrastiveLoss, GlobalContrastiveLoss, NTXentLoss
from sogclr.evaluation.knn import knn_accuracy
from sogclr.evaluation.linear import linear_accuracy
from sogclr.evaluation.view_scores import view_scores
from sogclr.losses.base import ContrastiveLoss, Scale

SCALE: Scale = "temperature"  # as in `pretrain`
PROBE_IMAGES = 5_000  # training images of a linear probe, which takes minutes on more
CHECKED_EVERY = 100  # steps between two looks at the clock, which wait for the device


def load(name: str) -> tuple[Split, Split, Split]:
    """Return training images, the images that tuning is tested on, and test images."""
    size = SIZES[name]
    if name != "tiny":
        return tiny_imagenet(size.classes, size.per_class)
    generator = torch.Generator().manual_seed(0)
    labels = np.repeat(np.arange(size.classes), size.per_class)
    shade = torch.from_numpy(64 * labels)[:, None, None, None]
    pixels = torch.randint(128, (3, len(labels), 3, 16, 16), generator=generator) + shade
    train, other, test = pixels.to(torch.uint8).unbind()
    return (train, labels), (other, labels), (test, labels)


def build_loss(cell: Cell, samples: int) -> ContrastiveLoss:
    """Build the loss of a run, with the package's defaults."""
    if cell.method == "simclr":
        return NTXentLoss(cell.temperature, scale=SCALE)
    if cell.method == "dcl":
        return DecoupledContrastiveLoss(cell.temperature, scale=SCALE)
    return GlobalContrastiveLoss(
        samples, temperature=cell.temperature, level=cell.method == "level", scale=SCALE
    )


class Clock:
    """Tells whether training will end in time.

    Args:
        deadline: by `time.monotonic`; infinite for none.
    """

    def __init__(self, deadline: float) -> None:
        self.deadline, self.started = deadline, math.nan

    def may_continue(self, step: int, total: int) -> bool:
        """Return whether training ends in time at the pace of the steps so far."""
        if step % CHECKED_EVERY or self.deadline == math.inf:
            return True
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.monotonic()
        if step <= CHECKED_EVERY:  # the first steps compile kernels and record graphs
            self.started = now
            return now < self.deadline
        pace = (now - self.started) / (step - CHECKED_EVERY)
        return now + pace * (total - step) < self.deadline


class Runs:
    """Trains and scores groups of runs, and files them.

    Args:
        name: of the size.
        results: of this size.
        deadline: see `Clock`.
        pool: computes linear probes while the next runs train.
    """

    def __init__(
        self, name: str, results: Results, deadline: float, pool: ProcessPoolExecutor
    ) -> None:
        self.size, self.results, self.deadline, self.pool = SIZES[name], results, deadline, pool
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.data = load(name)
        self.probes: list[tuple[dict[str, Any], Future[float]]] = []

    def fill(self) -> bool:
        """Run what is missing; return whether all is there now."""
        for cells in groups_of_runs(self.results):
            missing = [cell for cell in cells if self.results.find(cell) is None]
            if missing and not self.run(missing):
                return False
        return True

    def run(self, cells: list[Cell]) -> bool:
        """Train runs that share their views, and file them; return whether there was time."""
        size, pixels, started = self.size, self.data[0][0].to(self.device), time.monotonic()
        views = Views(pixels, cells[0].seed)
        steps = size.epochs * (len(pixels) // size.batch)
        learners = []
        for cell in cells:
            model = build_model(size.encoder, views.size, cell.seed).to(self.device)
            model.to(memory_format=torch.channels_last)
            loss = build_loss(cell, len(pixels))
            learners.append(Learner(model, loss, cell.group, size.batch, steps))
        clock = Clock(self.deadline)
        if not train(learners, views, size.batch, size.epochs, clock.may_continue):
            return False
        seconds = time.monotonic() - started
        for cell, learner in zip(cells, learners, strict=True):
            self.file(cell, learner, seconds / len(cells))
        print(
            f"b {cells[0].group}, seed {cells[0].seed}: {len(cells)} runs, {seconds:.0f} s",
            flush=True,
        )
        return True

    def file(self, cell: Cell, learner: Learner, seconds: float) -> None:
        """Score a trained model; its linear probe follows."""
        (train, labels), other, test = self.data
        held, held_labels = other if cell.tuning else test
        drawn = Views(held.to(self.device), 0).draw(np.arange(len(held)), 0)
        views = [encode(learner.model, view) for view in drawn.chunk(2)]
        by_features, by_projections = (
            view_scores(first, second, TEMPERATURE) for first, second in zip(*views, strict=True)
        )
        bank, queries = (
            encode(learner.model, images.to(self.device))[0] for images in (train, held)
        )
        truth = torch.from_numpy(labels), torch.from_numpy(held_labels)
        row = {
            **asdict(cell),
            "recall": round(100 * by_features.recall, 2),
            "recall_projection": round(100 * by_projections.recall, 2),
            "objective": round(by_projections.objective, 5),
            "objective2": round(by_projections.objective2, 5),
            "knn": round(100 * knn_accuracy(bank, truth[0], queries, truth[1]), 2),
            "linear": None,
            "seconds": round(seconds, 1),
            "setup": self.results.setup,
            "machine": machine(),
        }
        self.results.rows.append(row)
        some = np.random.default_rng(0).permutation(len(bank))[:PROBE_IMAGES]
        arrays = bank.numpy()[some], labels[some], queries.numpy(), held_labels
        self.probes.append((row, self.pool.submit(probe, *arrays)))
        self.collect(wait=False)

    def collect(self, wait: bool) -> None:
        """Write the results, with the linear probes that have ended; `wait` for the others."""
        for row, future in self.probes:
            if wait or future.done():
                row["linear"] = round(100 * future.result(), 2)
        self.probes = [(row, future) for row, future in self.probes if row["linear"] is None]
        self.results.write()


def probe(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray
) -> float:
    """Return the accuracy of a linear probe, computed on one core."""
    with threadpool_limits(1):
        return linear_accuracy(train, labels, test, test_labels)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="cpu")
    parser.add_argument("--minutes", type=float, default=math.inf, help="default: until all is run")
    parser.add_argument("--show", action="store_true", help="print the results, run nothing")
    options = parser.parse_args()
    deadline, results = time.monotonic() + 60 * options.minutes, Results(options.size)
    if not options.show:
        workers = len(METHODS) if torch.cuda.is_available() else 1
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            runs = Runs(options.size, results, deadline, pool)
            complete = runs.fill()
            runs.collect(wait=True)
        if not complete:
            print("Time is up. The same command runs what is missing.")
    show(results)


if __name__ == "__main__":
    main()
