"""Measure the cost of a table of a hundred million rows: step, checkpoint and memory.

    python benchmarks/table_scale.py

On a CPU, with synthetic features and batch 1,024, SogCLR's loss on two views takes turns with a
table of 10^4 rows and one of 10^8. A step is forward, backward and update; the update is also
measured alone. Each step draws other rows from the whole table. Then the large table is written as
in a checkpoint, to the temporary folder, and read again. Writes medians and quartiles to
`results/table_scale.json`. Takes two minutes and 4 GB of memory and disk.
"""

import json
import os
import resource
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from machine import machine

from sogclr import GlobalContrastiveLoss

RESULTS = Path(__file__).parent / "results" / "table_scale.json"
ROWS, BATCH, WIDTH, STEPS = (10_000, 100_000_000), 1024, 128, 100


def draw_rows(rows: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(rows, (2 * BATCH,), generator=generator).unique()[:BATCH]
        for _ in range(STEPS)
    ]


def run_step(loss: GlobalContrastiveLoss, views: torch.Tensor, index: torch.Tensor) -> None:
    loss(*views, index).backward()


def time_steps(losses: dict[int, GlobalContrastiveLoss]) -> list[dict[str, Any]]:
    """Time a step, and the update of the table alone, for each loss in turns."""
    ids = {rows: draw_rows(rows) for rows in losses}
    seconds: dict[tuple[int, str], list[float]] = {}
    for step in range(STEPS):
        for rows, loss in losses.items():
            index = ids[rows][step]
            views = torch.randn(2, len(index), WIDTH, requires_grad=True)
            log_g = torch.randn(len(index))
            for name, work in (
                ("step", partial(run_step, loss, views, index)),
                ("table", partial(loss.normalizer, index, log_g)),
            ):
                started = time.perf_counter()
                work()
                seconds.setdefault((rows, name), []).append(time.perf_counter() - started)
    return [
        {
            "rows": rows,
            "what": name,
            "microseconds": round(1e6 * statistics.median(times), 1),
            "quartiles": [round(1e6 * q, 1) for q in statistics.quantiles(times, n=4)[::2]],
        }
        for (rows, name), times in seconds.items()
    ]


def time_checkpoint(loss: GlobalContrastiveLoss) -> dict[str, float]:
    """Return the seconds to write and to read the table, and the size of the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pt"
        started = time.perf_counter()
        torch.save(loss.state_dict(), path)
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        saved = time.perf_counter()
        loss.load_state_dict(torch.load(path, mmap=True))
        done = time.perf_counter()
        size = path.stat().st_size
    seconds = {"write": saved - started, "read": done - saved, "gigabytes": size / 1e9}
    return {name: round(value, 2) for name, value in seconds.items()}


def main() -> None:
    losses = {rows: GlobalContrastiveLoss(rows) for rows in ROWS}
    rows = time_steps(losses)
    stored: dict[str, Any] = {"batch": BATCH, "width": WIDTH, "rows": rows}
    stored["checkpoint"] = time_checkpoint(losses[ROWS[-1]])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    stored["peak_gigabytes"] = round(peak, 2)
    RESULTS.write_text(json.dumps({**stored, **machine()}, indent=1) + "\n")
    for row in rows:
        print(f"{row['rows']:>12,} {row['what']:<6} {row['microseconds']:>9.1f} {row['quartiles']}")
    print(stored["checkpoint"], f"peak {peak:.2f} GB")


if __name__ == "__main__":
    main()
