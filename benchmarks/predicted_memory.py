"""Compare the peak of memory that `--dry-run` expects with the peak of training.

    python benchmarks/predicted_memory.py

Encoders are pre-trained for one epoch of two steps, without the report at the end, on random images
in memory, on a CPU. Each forecast and each run has a process of its own; the peak of the run's
process (`ru_maxrss`) is compared with the forecast. Writes `results/predicted_memory.json`. The
same command continues an interrupted one.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "predicted_memory.json"
STEPS = 2
# Encoder, image size, batch size, precision, other settings.
CASES: tuple[tuple[str, int, int, str, dict[str, Any]], ...] = (
    ("resnet18", 32, 64, "32-true", {}),
    ("resnet50", 224, 4, "32-true", {}),
    ("small", 32, 256, "32-true", {}),
    ("vit_tiny_patch16_224", 224, 8, "32-true", {}),
    ("resnet18", 32, 192, "bf16-mixed", {}),
    ("small", 32, 1024, "32-true", {"optimizer": "lars"}),
    ("resnet50", 224, 8, "bf16-mixed", {"accumulate": 2}),
    ("resnet18", 96, 16, "32-true", {"method": "moco"}),
)


def run(case: tuple, dry_run: bool) -> None:
    """Forecast or train in this process, and print the bytes."""
    import resource

    import numpy as np
    from machine import machine

    import sogclr
    from sogclr.commands import report

    report.report_at_the_end = lambda *arguments: None
    encoder, size, batch, precision, others = case
    count = batch * others.get("accumulate", 1) * STEPS
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        result = sogclr.pretrain(
            images, out=f"{folder}/run", encoder=encoder, image_size=size, batch_size=batch,
            precision=precision, epochs=1, device="cpu", dry_run=dry_run, **others,
        )  # fmt: skip
    found: dict[str, Any] = {"machine": machine()}
    if result.forecast is None:
        found["peak"] = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    else:
        found |= {"expected": result.forecast.memory, "hours": result.forecast.hours["cpu"]}
    print(json.dumps(found))


def measure(case: tuple) -> dict[str, Any]:
    """Compare a forecast with a run, each in a new process."""
    found: dict[str, Any] = {}
    for flag in ("--dry-run", "--train"):
        words = [sys.executable, __file__, "--case", json.dumps(case), flag]
        output = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
        found |= json.loads(output.splitlines()[-1])
    encoder, size, batch, precision, others = case
    return {
        "encoder": encoder, "image_size": size, "batch_size": batch, "precision": precision,
        **others,
        "expected_mb": round(found["expected"] / 1e6), "peak_mb": round(found["peak"] / 1e6),
        "ratio": round(found["expected"] / found["peak"], 3),
        "machine": found["machine"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--dry-run", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case is not None:
        run(arguments.case, arguments.dry_run)
        return
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    for case in CASES:
        if not any(_is_of(row, case) for row in rows):
            rows.append(measure(case))
            print(rows[-1])
            RESULTS.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


def _is_of(row: dict[str, Any], case: tuple) -> bool:
    names = ("encoder", "image_size", "batch_size", "precision")
    others = {"accumulate", "optimizer", "method"}
    return case == (*(row[n] for n in names), {n: row[n] for n in others if n in row})


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
