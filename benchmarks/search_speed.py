"""Measure a query over a million vectors of width 256, as `sogclr serve` answers it.

    python benchmarks/search_speed.py

On a CPU, with vectors in clusters (a mixture of Gaussians, normalized), and with vectors that have
none, which are the worst case of an index. For each: seconds to make the index and to open it again
from the cache, milliseconds of a query by the index, by comparison with all vectors, and with a
filter that leaves a hundredth; and which share of the 48 nearest the index finds. Queries are
vectors of the data with noise. Writes medians and 95th percentiles to `results/search_speed.json`.
Takes five minutes on two cores, 2 GB of memory and 2 GB of disk below the temporary folder.
"""

import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine

from sogclr.evaluation.searching.approximate_index import ApproximateIndex
from sogclr.evaluation.searching.exact_index import ExactIndex, Hits

RESULTS = Path(__file__).parent / "results" / "search_speed.json"
VECTORS, WIDTH, COUNT, QUERIES = 1_000_000, 256, 48, 50
CLUSTERS, SPREAD = 2_000, 0.5  # SPREAD: of a cluster, beside that of the centres
BLOCK = 50_000


def write_vectors(target: Path, clusters: int) -> None:
    """Write unit vectors; `clusters` is 0 for none."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((max(1, clusters), WIDTH), dtype=np.float32)
    shape = (VECTORS, WIDTH)
    written = np.lib.format.open_memmap(target, mode="w+", dtype=np.float32, shape=shape)
    for start in range(0, VECTORS, BLOCK):
        block = rng.standard_normal((BLOCK, WIDTH), dtype=np.float32)
        if clusters:
            block = SPREAD * block + centres[rng.integers(0, clusters, BLOCK)]
        written[start : start + BLOCK] = block / np.linalg.norm(block, axis=1, keepdims=True)
    written.flush()


def draw_queries(vectors: np.ndarray) -> list[np.ndarray]:
    """Draw vectors of the data, and add noise of a third of their length."""
    rng = np.random.default_rng(1)
    queries = []
    for row in rng.integers(0, VECTORS, QUERIES):
        noise = rng.standard_normal(WIDTH, dtype=np.float32)
        query = vectors[row] + noise / (3 * WIDTH**0.5)
        queries.append(query / np.linalg.norm(query))
    return queries


def time_queries(
    find: Callable[[np.ndarray], Hits], queries: list[np.ndarray]
) -> tuple[dict[str, float], list[Hits]]:
    """Return median and 95th percentile of a query in milliseconds, and what was found."""
    times, found = [], []
    for query in [queries[0], *queries]:  # the first one warms up
        started = time.perf_counter()
        found.append(find(query))
        times.append(1_000 * (time.perf_counter() - started))
    del times[0], found[0]
    summary = {
        "median_ms": statistics.median(times),
        "p95_ms": statistics.quantiles(times, n=20)[-1],
    }
    return {name: round(value, 2) for name, value in summary.items()}, found


def time_call(call: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    return call(), round(time.perf_counter() - started, 2)


def measure(path: Path) -> dict[str, Any]:
    vectors = np.load(path, mmap_mode="r")
    queries = draw_queries(vectors)
    _, made = time_call(lambda: ApproximateIndex(vectors))
    index, opened = time_call(lambda: ApproximateIndex(vectors))
    exact = ExactIndex(vectors)
    filtered = np.arange(0, VECTORS, 100)
    by_index, found = time_queries(lambda query: index.nearest(query, COUNT), queries)
    by_all, nearest = time_queries(lambda query: exact.nearest(query, COUNT), queries)
    by_filter, _ = time_queries(lambda query: index.nearest(query, COUNT, filtered), queries)
    shares = [
        len(np.intersect1d(one.rows, other.rows)) / COUNT
        for one, other in zip(found, nearest, strict=True)
    ]
    first = [one.rows[0] == other.rows[0] for one, other in zip(found, nearest, strict=True)]
    return {
        "make_seconds": made,
        "open_seconds": opened,
        "index": by_index,
        "all_vectors": by_all,
        "filter": by_filter,
        "found_of_nearest_48": round(float(np.mean(shares)), 3),
        "found_nearest": round(float(np.mean(first)), 3),
    }


def main() -> None:
    results: dict[str, Any] = {"vectors": VECTORS, "width": WIDTH, "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SOGCLR_CACHE"] = folder
        for name, clusters in (("clusters", CLUSTERS), ("no clusters", 0)):
            path = Path(folder) / "vectors.npy"
            write_vectors(path, clusters)
            results[name] = measure(path)
            print(name, json.dumps(results[name]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    results["peak_gigabytes"] = round(peak, 2)
    results["load"] = round(os.getloadavg()[0], 1)
    RESULTS.write_text(json.dumps({**results, **machine()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
