"""Read what a run has written about itself, also while it is training."""

import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ...common.regular_files import open_regular_file
from ...planning.settings_images import ImageSettings
from ...planning.settings_pairs import PairSettings
from ...runs.folder import Run
from ...runs.resume import read_resolved

__all__ = ["RunRecord"]

LARGEST_METRICS = 1 << 26  # bytes; a line has about 400


@dataclass(frozen=True)
class RunRecord:
    """The settings and the curves of a run.

    Attributes:
        run: its folder.
        stored: the content of settings.json.
    """

    run: Run
    stored: dict[str, Any]

    @classmethod
    def read(cls, run: Run) -> "RunRecord":
        """Read the record.

        Raises:
            UserError: the folder is not a run, or its settings are damaged.
        """
        record = cls(run, run.read_settings())
        _ = record.settings  # refuses damaged settings
        return record

    @property
    def is_pairs(self) -> bool:
        """Tell whether `align` trained the run."""
        return self.stored.get("kind") == "pairs"

    @cached_property
    def settings(self) -> ImageSettings | PairSettings:
        """Return the settings with derived values."""
        if self.is_pairs:
            return read_resolved(self.stored, PairSettings)
        return read_resolved(self.stored, ImageSettings)

    @property
    def asked(self) -> dict[str, Any]:
        """Return the settings as they were given."""
        asked = self.stored.get("asked")
        return asked if isinstance(asked, dict) else {}

    @property
    def reasons(self) -> list[list[str]]:
        """Return setting, value and reason of each derived setting; [] of older runs."""
        stored = self.stored.get("reasons")
        lines = stored if isinstance(stored, list) else []
        return [
            [str(part) for part in line]
            for line in lines
            if isinstance(line, list) and len(line) == 3
        ]

    @property
    def data(self) -> str | None:
        """Return where the data was; None for data in memory and in older runs."""
        data = self.stored.get("data")
        return data if isinstance(data, str) else None

    @cached_property
    def metrics(self) -> list[dict[str, float]]:
        """Return the lines of metrics.jsonl, without values that are no finite numbers.

        The last line may be half-written while the run trains; what is no line is left out.
        """
        try:
            with open_regular_file(self.run.metrics) as file:
                content = file.read(LARGEST_METRICS)
        except OSError:
            return []
        rows = []
        for line in content.splitlines():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            numbers = _finite_numbers(row)
            if {"step", "epoch"} <= numbers.keys():
                rows.append(numbers)
        return rows

    def curve(self, name: str) -> tuple[list[float], list[float]]:
        """Return epochs and values of a number that was logged."""
        rows = [row for row in self.metrics if name in row]
        return [row["epoch"] for row in rows], [row[name] for row in rows]

    @property
    def epochs_done(self) -> float:
        """Return the number of epochs that were trained."""
        return self.metrics[-1]["epoch"] if self.metrics else 0.0

    @property
    def is_complete(self) -> bool:
        """Tell whether all epochs were trained."""
        return self.epochs_done >= self.settings.epochs

    @property
    def is_training(self) -> bool:
        """Tell whether a process trains in the folder."""
        return self.run.lock.exists() and not self.is_complete


def _finite_numbers(row: Any) -> dict[str, float]:
    if not isinstance(row, dict):
        return {}
    numbers = {k: v for k, v in row.items() if isinstance(v, int | float) and abs(v) < 1e300}
    return {k: float(v) for k, v in numbers.items() if math.isfinite(v)}
