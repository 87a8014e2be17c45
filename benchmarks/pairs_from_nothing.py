"""Translations without pretrained weights: each estimator of the normalizer, against batch size.

    python benchmarks/pairs_from_nothing.py --jobs 2
    python benchmarks/pairs_from_nothing.py --show

5,000 German and English captions of Multi30k, as hashed bags of words; a linear tower a side, 20
epochs of AdamW. The steps from CLIP to SogCLR under a level each have a row of their own:

    clip      in-batch, with the positive in the normalizer
    dcl       without the positive
    table     SogCLR: a moving average per sample
    level     the table under a level
    255       the table with 255 effective negatives, as many as CLIP has at batch 256

At two batch sizes also what is no part of the package (`tried_losses.py`), and `scalar`, SACLR's
one normalizer for all samples.

Every method gets the same tuning at every batch size: all temperatures at the usual learning rate,
then half and twice that rate at the best temperature. Each score is the mean over three seeds of
the sum of six recalls on the validation captions. The chosen setting is tested with three other
seeds on the 1,000 test captions. `results/pairs_from_nothing.jsonl` gets one line a run, so an
interrupted command goes on. The data must be in `../shared/data` or $SOGCLR_DATA (multi30k).
"""

import argparse
import gzip
import json
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, astuple
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import torch
from machine import machine
from sklearn.feature_extraction.text import HashingVectorizer
from torch import Tensor, nn
from torch.nn.functional import normalize
from tried_losses import TRIED
from tuned_runs import SEEDS, Cell, final_cells, missing_cells, read_results

import sogclr
from sogclr.evaluation.retrieval import DEPTHS, rank_first_match
from sogclr.losses.normalizer_scalar import ScalarNormalizer

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "pairs_from_nothing.jsonl"
PAIRS, WORDS, WIDTH, EPOCHS = 5_000, 4_096, 128, 20
METHODS = ("clip", "dcl", "table", "level", "255")
BATCHES = (8, 16, 64, 256, 1024)
MORE_METHODS, MORE_BATCHES = ("scalar", *TRIED), (16, 64)
TEMPERATURES = (0.03, 0.05, 0.1, 0.2)


@cache
def captions(split: str, count: int | None) -> tuple[Tensor, Tensor]:
    """Return hashed bags of words of both languages, `(n, WORDS)` dense."""
    folder = Path(os.environ.get("SOGCLR_DATA", HERE.parent.parent / "shared" / "data"))
    hashed = HashingVectorizer(n_features=WORDS, alternate_sign=False)
    sides = []
    for language in ("de", "en"):
        with gzip.open(folder / "multi30k" / f"{split}.{language}.gz", "rt") as lines:
            texts = lines.read().splitlines()[:count]
        sides.append(torch.from_numpy(hashed.transform(texts).toarray()).float())
    return sides[0], sides[1]


def build_loss(cell: Cell) -> nn.Module:
    """Build the loss of a method, on the scale of `align`."""
    tau = cell.temperature
    if cell.method == "clip":
        return sogclr.ClipLoss(tau, scale="temperature")
    if cell.method == "dcl":
        return sogclr.DecoupledClipLoss(tau, scale="temperature")
    if cell.method in TRIED:
        return TRIED[cell.method](PAIRS, tau, pairs=True)
    return sogclr.GlobalClipLoss(
        PAIRS,
        temperature=tau,
        normalizer=ScalarNormalizer if cell.method == "scalar" else None,
        level=cell.method == "level",
        effective_negatives=255 if cell.method == "255" else None,
        scale="temperature",
    )


def run(cell: Cell) -> dict[str, float | int | str]:
    """Train, and return the settings with the sum of six recalls."""
    started = time.monotonic()
    torch.manual_seed(cell.seed)
    a, b = captions("train", PAIRS)
    towers = nn.ModuleList(nn.Linear(WORDS, WIDTH, bias=False) for _ in range(2))
    loss, steps = build_loss(cell), EPOCHS * (PAIRS // cell.batch)
    rate = cell.learning_rate
    trained = [*towers.parameters(), *loss.parameters()]
    optimizer = torch.optim.AdamW(trained, rate, weight_decay=0.1, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
    for _ in range(EPOCHS):
        order = torch.randperm(PAIRS)
        for rows in order[: PAIRS // cell.batch * cell.batch].split(cell.batch):
            value = loss(towers[0](a[rows]), towers[1](b[rows]), rows)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
    return {
        **asdict(cell),
        "recalls": round(
            sum_of_recalls(towers, *captions("val" if cell.tuning else "test_2016_flickr", None)), 2
        ),
        "seconds": round(time.monotonic() - started, 1),
    }


@torch.no_grad()
def sum_of_recalls(towers: nn.ModuleList, a: Tensor, b: Tensor) -> float:
    """Return the sum of R@1, R@5 and R@10 in both directions, in percent, at most 600."""
    x, y = (normalize(tower(side), dim=1) for tower, side in zip(towers, (a, b), strict=True))
    own = torch.arange(len(x))
    ranks = [rank_first_match(x, y, own, own), rank_first_match(y, x, own, own)]
    return 100 * sum(float((each <= k).double().mean()) for each in ranks for k in DEPTHS)


def fill(jobs: int) -> None:
    """Run what is missing, a line of the results for each run as it ends."""
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,))
    with pool:
        for batch in sorted(BATCHES, reverse=True):
            while True:
                results = read_results(RESULTS)
                more = MORE_METHODS if batch in MORE_BATCHES else ()
                missing = [
                    cell
                    for method in (*METHODS, *more)
                    for cell in missing_cells(method, batch, TEMPERATURES, "recalls", results)
                ]
                if not missing:
                    break
                for row in pool.map(run, missing):
                    with open(RESULTS, "a") as file:
                        file.write(json.dumps({**row, **machine()}) + "\n")
                print(f"batch {batch}: {len(missing)} runs", flush=True)


def show() -> None:
    """Print mean and standard deviation over seeds of the test results, and the settings."""
    results = read_results(RESULTS)
    print(f"{'':<8}" + "".join(f"{f'B {batch}':>28}" for batch in BATCHES))
    for method in (*METHODS, *MORE_METHODS):
        line = f"{method:<8}"
        for batch in BATCHES:
            own = final_cells(method, batch, "recalls", results)
            values = [results[cell]["recalls"] for cell in own]
            text = "-"
            if len(values) == len(SEEDS):
                setting = astuple(own[0])[2:4]
                text = f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f} {setting}"
            line += f"{text:>28}"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=1, help="number of runs at the same time")
    parser.add_argument("--show", action="store_true", help="only print the results that exist")
    options = parser.parse_args()
    if not options.show:
        fill(options.jobs)
    show()


if __name__ == "__main__":
    main()
