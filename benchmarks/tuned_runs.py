"""The runs of a comparison: equal tuning for every method and batch size, then the test.

All temperatures are tried at the usual learning rate, then half and twice that rate at the best
temperature. A score is the mean over three seeds. The best setting is tested with three other
seeds.
"""

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["SEEDS", "TUNING_SEEDS", "Cell", "final_cells", "missing_cells", "read_results"]

SHARES = (0.5, 2.0)  # multiples of the usual learning rate that are tried as well
TUNING_SEEDS, SEEDS = (100, 101, 102), (0, 1, 2)

Results = dict["Cell", dict[str, Any]]


@dataclass(frozen=True, order=True)
class Cell:
    """The settings of a run; `share` multiplies the usual learning rate of the batch size."""

    method: str
    batch: int
    temperature: float
    share: float
    seed: int

    @property
    def tuning(self) -> bool:
        """Return whether the run is one of the tuning."""
        return self.seed in TUNING_SEEDS

    @property
    def learning_rate(self) -> float:
        """Return the learning rate of AdamW."""
        return self.share * 2.5e-4 * math.sqrt(self.batch)


def read_results(path: Path) -> Results:
    """Read a file with one line a run, which has the fields of its cell and its scores."""
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {Cell(**{name: row[name] for name in Cell.__dataclass_fields__}): row for row in rows}


def missing_cells(
    method: str,
    batch: int,
    temperatures: Iterable[float],
    score: str,
    results: Results,
    tuning_seeds: Sequence[int] = TUNING_SEEDS,
) -> list[Cell]:
    """Return the runs that are next: of the temperatures, then of the rates, then of the test.

    Args:
        method, batch: what is tuned.
        temperatures: the temperatures to try.
        score: name of the score by which settings are chosen; higher is better.
        results: the runs that exist.
        tuning_seeds: seeds of the tuning; fewer suffice where a score has little noise.
    """

    def cells(temperature: float, share: float, seeds: Iterable[int]) -> list[Cell]:
        return [Cell(method, batch, temperature, share, seed) for seed in seeds]

    def mean(setting: tuple[float, float]) -> float:
        return statistics.mean(results[cell][score] for cell in cells(*setting, tuning_seeds))

    def missing(settings: list[tuple[float, float]], seeds: Iterable[int]) -> list[Cell]:
        wanted = [cell for setting in settings for cell in cells(*setting, seeds)]
        return [cell for cell in wanted if cell not in results]

    settings = [(temperature, 1.0) for temperature in temperatures]
    if runs := missing(settings, tuning_seeds):
        return runs
    settings += [(max(settings, key=mean)[0], share) for share in SHARES]
    return missing(settings, tuning_seeds) or missing([max(settings, key=mean)], SEEDS)


def final_cells(method: str, batch: int, score: str, results: Results) -> list[Cell]:
    """Return the runs of the test at the best setting; several were tested if the grid has grown.

    Args:
        method, batch, score, results: see `missing_cells`.
    """
    own = [cell for cell in results if (cell.method, cell.batch) == (method, batch)]
    tuned: dict[tuple[float, float], list[float]] = {}
    for cell in own:
        if cell.tuning:
            setting = cell.temperature, cell.share
            tuned.setdefault(setting, []).append(results[cell][score])
    if not tuned:
        return []
    best = max(tuned, key=lambda setting: statistics.mean(tuned[setting]))
    return sorted(c for c in own if not c.tuning and (c.temperature, c.share) == best)
