"""A table for a hundred million samples: what it costs a step, a checkpoint and the memory.

    python benchmarks/table_scale.py

Synthetic features, batch 1,024, on a CPU: SogCLR's loss on two views with a table of 10^4 rows and
one of 10^8 take turns, forward, backward and update, and the table alone beside them; each step has
other rows, drawn from all. Then the large one is written as a checkpoint is, to the temporary
folder, and read back. Medians and quartiles; writes `results/table_scale.json`. Two minutes, and
4 GB of memory and disk.
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


def draws(rows: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(rows, (2 * BATCH,), generator=generator).unique()[:BATCH]
        for _ in range(STEPS)
    ]


def step_of(loss: GlobalContrastiveLoss, views: torch.Tensor, index: torch.Tensor) -> None:
    loss(*views, index).backward()


def microseconds(losses: dict[int, GlobalContrastiveLoss]) -> list[dict[str, Any]]:
    """Of a step and of the table in it, in turns."""
    ids = {rows: draws(rows) for rows in losses}
    seconds: dict[tuple[int, str], list[float]] = {}
    for step in range(STEPS):
        for rows, loss in losses.items():
            index = ids[rows][step]
            views = torch.randn(2, len(index), WIDTH, requires_grad=True)
            log_g = torch.randn(len(index))
            for name, work in (
                ("step", partial(step_of, loss, views, index)),
                ("table", partial(loss.normalizer, index, log_g)),
            ):
                started = time.perf_counter()
                work()
                seconds.setdefault((rows, name), []).append(time.perf_counter() - started)
    return [
        {
            "rows": rows,
            "what": name,
            "microseconds": round(1e6 * statistics.median(found), 1),
            "quartiles": [round(1e6 * q, 1) for q in statistics.quantiles(found, n=4)[::2]],
        }
        for (rows, name), found in seconds.items()
    ]


def written(loss: GlobalContrastiveLoss) -> dict[str, float]:
    """Seconds until the table is on the disk, and until it is read; the file's size."""
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
    rows = microseconds(losses)
    stored: dict[str, Any] = {"batch": BATCH, "width": WIDTH, "rows": rows}
    stored["checkpoint"] = written(losses[ROWS[-1]])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    stored["peak_gigabytes"] = round(peak, 2)
    RESULTS.write_text(json.dumps({**stored, **machine()}, indent=1) + "\n")
    for row in rows:
        print(f"{row['rows']:>12,} {row['what']:<6} {row['microseconds']:>9.1f} {row['quartiles']}")
    print(stored["checkpoint"], f"peak {peak:.2f} GB")


if __name__ == "__main__":
    main()
