"""Check whole runs on a GPU: alone, interrupted and resumed, under torchrun with NCCL, and pairs.

    python benchmarks/gpu_checks.py CIFAR10/train flickr8k/train.csv

Each check is a command as a user types it. `results/gpu_checks.json` holds the exit code and, of
the last log point, objective, kNN accuracy and samples per second. All image runs are one epoch of
the same run, so their numbers should nearly agree.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import machine

RESULTS = Path(__file__).parent / "results" / "gpu_checks.json"
PLAIN = [sys.executable, "-m", "sogclr"]
TORCHRUN = ["torchrun", "--standalone", "--nproc-per-node", "1", "-m", "sogclr"]
SETTINGS = ["--encoder", "resnet18", "--batch-size", "64", "--epochs", "1"]
PAIRS = ["--model", "ViT-B-32", "--epochs", "1", "--batch-size", "64"]


def run(command: list[str], out: Path) -> dict[str, Any]:
    """Run a command and return its last metrics and exit code."""
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
    seconds = round(time.monotonic() - started, 1)
    return last_metrics(out) | {"code": done.returncode, "seconds": seconds}


def last_metrics(out: Path) -> dict[str, Any]:
    """Return the metrics of a run's last log point."""
    file = out / "metrics.jsonl"
    row = json.loads(file.read_text().splitlines()[-1]) if file.exists() else {}
    return {name: row.get(name) for name in ("step", "objective", "knn", "samples_per_second")}


def run_interrupted(data: str, out: Path) -> dict[str, Any]:
    """Interrupt a run by Ctrl-C, then go on with `--resume`."""
    command = [*PLAIN, "pretrain", data, "--out", str(out), *SETTINGS]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while last_metrics(out)["step"] is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    process.communicate()
    stopped = last_metrics(out)["step"]
    resumed = run([*PLAIN, "pretrain", data, "--out", str(out), "--resume"], out)
    return {"stopped_at": stopped, "stopped_code": process.returncode, **resumed}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("images", help="a folder of images")
    parser.add_argument("pairs", help="a table of images and captions")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        outs = {name: Path(folder) / name for name in ("alone", "nccl", "stopped", "pairs", "tau")}
        images = ["pretrain", options.images, *SETTINGS, "--out"]
        pairs = ["align", options.pairs, *PAIRS, "--out"]
        individual = ["--temperature-mode", "individual", "--rho", "6"]
        checks: dict[str, Callable[[Path], dict[str, Any]]] = {
            "alone": lambda out: run([*PLAIN, *images, str(out)], out),
            "nccl": lambda out: run([*TORCHRUN, *images, str(out)], out),
            "stopped": lambda out: run_interrupted(options.images, out),
            "pairs": lambda out: run([*PLAIN, *pairs, str(out)], out),
            "tau": lambda out: run([*PLAIN, *pairs, str(out), *individual], out),
        }
        for name, check in checks.items():
            results[name] = check(outs[name])
            print(name, results[name], flush=True)
    RESULTS.write_text(json.dumps({**results, "machine": machine()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
