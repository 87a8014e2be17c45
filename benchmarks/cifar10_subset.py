"""CIFAR-10 in minutes on a CPU: 5,000 training images, the small encoder, batch 64, 20 epochs.

    python benchmarks/cifar10_subset.py --seeds 0 1 2

Trains on 500 images a class and measures kNN and linear accuracy on 200 test images a class, for
each method and seed, beside raw pixels and the untrained encoder. `results/cifar10_subset.json` is
written after every run, so the command can be interrupted and continued, and several processes can
share the runs. The data must be in `../shared/data` or $SOGCLR_DATA (cifar10-jpeg.tar.zst).
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from machine import machine

import sogclr
from sogclr.common.options import Method

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "cifar10_subset.json"
ARCHIVE = "cifar10-jpeg.tar.zst"
PER_CLASS = {"train": 500, "test": 200}
SETTINGS: dict[str, Any] = {"encoder": "small", "batch_size": 64, "epochs": 20, "device": "cpu"}


def subset(folder: Path) -> tuple[Path, Path]:
    """Unpack the archive and keep the first images of each class, in the order of their names."""
    default = HERE.parents[1] / "shared" / "data"
    archive = Path(os.environ.get("SOGCLR_DATA", default)) / ARCHIVE
    if not archive.is_file():
        raise SystemExit(f"no {archive}; set SOGCLR_DATA to the folder that holds {ARCHIVE}")
    subprocess.run(["tar", "--zstd", "-xf", archive, "-C", folder], check=True)
    for split, count in PER_CLASS.items():
        for label in (folder / split).iterdir():
            for surplus in sorted(label.iterdir())[count:]:
                surplus.unlink()
    return folder / "train", folder / "test"


def one_run(method: Method, seed: int, train: Path, test: Path, out: Path) -> dict[str, Any]:
    """Pre-train and evaluate; the seconds are those of pre-training alone."""
    started, cpu = time.monotonic(), time.process_time()
    sogclr.pretrain(train, out, method=method, seed=seed, **SETTINGS)
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    report = asdict(sogclr.evaluate(out, train, test=test))
    return {
        "method": method,
        "seed": seed,
        "accuracy": {name.replace("_", " "): accuracy for name, accuracy in report.items()},
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
    }


def recorded() -> list[dict[str, Any]]:
    """Return the runs in the results file that have these settings."""
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return stored["runs"] if stored.get("settings") == SETTINGS else []


def show(runs: list[dict[str, Any]]) -> None:
    """Print mean and standard deviation over seeds for each kind of features."""
    print(f"{'features':<22} {'kNN %':>14} {'linear %':>14} {'s':>6}  seeds")
    for method in dict.fromkeys(run["method"] for run in runs):
        mine = [run for run in runs if run["method"] == method]
        seconds = statistics.mean(run["seconds"] for run in mine)
        for features in ("raw pixels", "untrained", "trained"):
            cells = []
            for protocol in ("knn", "linear"):
                values = [100 * run["accuracy"][features][protocol] for run in mine]
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                cells.append(f"{statistics.mean(values):6.2f} ± {spread:4.2f}")
            name = method if features == "trained" else f"  {features}"
            print(f"{name:<22} {cells[0]:>14} {cells[1]:>14} {seconds:6.0f}  {len(mine)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=["sogclr", "simclr"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        train, test = subset(Path(folder))
        for seed in options.seeds:
            for method in options.methods:
                if any((r["method"], r["seed"]) == (method, seed) for r in recorded()):
                    continue
                run = one_run(method, seed, train, test, Path(folder) / f"{method}-{seed}")
                # Read the file again: another process may have added runs to it.
                stored = {"settings": SETTINGS, "machine": machine(), "runs": [*recorded(), run]}
                RESULTS.parent.mkdir(exist_ok=True)
                RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
    show(recorded())


if __name__ == "__main__":
    main()
