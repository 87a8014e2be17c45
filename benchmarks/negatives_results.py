"""Plan, results file and tables of `negatives.py`."""

import json
import math
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from sogclr.common.whole_files import replace_file

__all__ = [
    "METHODS",
    "SCORES",
    "SIZES",
    "TEMPERATURE",
    "TEMPERATURES",
    "Cell",
    "Results",
    "Size",
    "groups_of_runs",
    "show",
]

RESULTS = Path(__file__).parent / "results"

Method = Literal["simclr", "dcl", "table", "level"]
METHODS: tuple[Method, ...] = ("simclr", "dcl", "table", "level")
TEMPERATURES = (0.05, 0.1, 0.2)
TEMPERATURE = 0.1  # of F and F2, and of methods that were not tuned
TUNING_SEED = 100
SCORES = {
    "recall": "R@1 of features %",
    "recall_projection": "R@1 of projections %",
    "objective": "F",
    "objective2": "F2",
    "knn": "kNN %",
    "linear": "linear %",
}
SMALLER_IS_BETTER = ("objective", "objective2")


@dataclass(frozen=True)
class Size:
    """The size of the experiment; `groups` in the order in which they are filled."""

    classes: int
    per_class: int
    encoder: str
    batch: int
    groups: tuple[int, ...]
    epochs: int
    seeds: tuple[int, ...]
    tunes: bool


SIZES = {
    "cpu": Size(40, 125, "small", 256, (8, 256, 32), 12, (0, 1, 2), True),
    "gpu": Size(100, 250, "half-resnet18", 256, (8, 256, 32), 40, (0, 1), False),
    "tiny": Size(2, 32, "small", 16, (4, 16, 8), 2, (0, 1), True),  # made images, for a test
}


@dataclass(frozen=True)
class Cell:
    """The settings of a run. Tuning runs are tested on other training images."""

    method: Method
    group: int
    temperature: float
    seed: int
    tuning: bool


class Results:
    """The results file of a size, which is written whole after each change.

    Attributes:
        rows: of the runs with the present `Size`.
        tuning: results of the tuning runs: the GPU size has the temperatures of the CPU size.
    """

    def __init__(self, name: str) -> None:
        self.size, self.file = SIZES[name], RESULTS / f"negatives_{name}.jsonl"
        self.setup = json.loads(json.dumps(asdict(self.size)))  # tuples become lists
        text = self.file.read_text() if self.file.exists() else ""
        rows = [json.loads(line) for line in text.splitlines()]
        self.rows = [row for row in rows if row["setup"] == self.setup]
        self.other_rows = [row for row in rows if row["setup"] != self.setup]
        self.tuning: Results = self if self.size.tunes else Results("cpu")

    def find(self, cell: Cell) -> dict[str, Any] | None:
        """Return the row of a run, or None."""
        wanted = asdict(cell).items()
        return next((row for row in self.rows if wanted <= row.items()), None)

    def write(self) -> None:
        """Write all rows."""
        self.file.parent.mkdir(exist_ok=True)
        text = "".join(json.dumps(row) + "\n" for row in self.other_rows + self.rows)
        replace_file(self.file, lambda path: path.write_text(text))


def methods_of(size: Size, group: int) -> list[Method]:
    """Return the methods at this b: the plain table at the smallest and the largest b only."""
    ends = min(size.groups), max(size.groups)
    return [method for method in METHODS if method != "table" or group in ends]


def tuned(results: Results, method: Method, group: int) -> float:
    """Return the temperature of the tuning run with the best R@1; `TEMPERATURE` if none ran."""
    rows = [
        row
        for temperature in TEMPERATURES
        if (row := results.tuning.find(Cell(method, group, temperature, TUNING_SEED, True)))
    ]
    return max(rows, key=lambda row: row["recall"])["temperature"] if rows else TEMPERATURE


def final_cells(results: Results, group: int, seed: int) -> list[Cell]:
    """Return the runs of the table at one b and one seed."""
    return [
        Cell(method, group, tuned(results, method, group), seed, False)
        for method in methods_of(results.size, group)
    ]


def groups_of_runs(results: Results) -> Iterator[list[Cell]]:
    """Yield runs that share their views; later groups need the results of earlier ones."""
    size = results.size
    for group in size.groups:
        for temperature in TEMPERATURES if size.tunes else ():
            methods = methods_of(size, group)
            yield [Cell(method, group, temperature, TUNING_SEED, True) for method in methods]
        for seed in size.seeds:
            yield final_cells(results, group, seed)


def show(results: Results) -> None:
    """Print mean and standard deviation over seeds of the results that exist."""
    groups = sorted(results.size.groups)
    for score, title in SCORES.items():
        print(f"{title:<22}" + "".join(f"{f'b {group}':>17}" for group in groups))
        for method in METHODS:
            cells = [format_mean(values_of(results, method, b, score), score) for b in groups]
            print(f"{method:<22}" + "".join(f"{cell:>17}" for cell in cells))
    for group in groups:
        for score in ("recall", "objective"):
            show_gain(results, group, score)


def values_of(results: Results, method: Method, group: int, score: str) -> list[float]:
    """Return a score of all seeds that exist."""
    rows = [
        results.find(cell)
        for seed in results.size.seeds
        for cell in final_cells(results, group, seed)
        if cell.method == method
    ]
    return [row[score] for row in rows if row is not None and row[score] is not None]


def format_mean(values: list[float], score: str) -> str:
    if not values:
        return "-"
    digits = 3 if score in SMALLER_IS_BETTER else 1
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def show_gain(results: Results, group: int, score: str) -> None:
    """Print by how much the level is better than the better of SimCLR and DCL."""
    values = [values_of(results, method, group, score) for method in ("level", "simclr", "dcl")]
    if min(map(len, values)) < 2:
        return
    sign = -1 if score in SMALLER_IS_BETTER else 1
    level, best = values[0], max(values[1:], key=lambda each: sign * statistics.mean(each))
    gain = sign * (statistics.mean(level) - statistics.mean(best))
    spread = math.sqrt((statistics.variance(level) + statistics.variance(best)) / 2)
    print(
        f"b {group}, {SCORES[score]}: level better than the better of SimCLR and DCL "
        f"by {gain:.3f}, pooled standard deviation {spread:.3f}"
    )
