"""Show how a run goes: a line for each scored epoch, and below them a bar on a terminal."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn

from ..common.console import console, say

__all__ = ["RunProgress", "latest_scores"]

QUIET_SECONDS = 20  # between two lines where the output is no terminal
# Names in a line of metrics.jsonl. All other names are scores of the task.
COMMON_METRICS = {
    "step",
    "epoch",
    "loss",
    "objective",
    "alignment",
    "uniformity",
    "normalizer_error",
    "normalizer_lag",
    "normalizer_spread",
    "in_batch_error",
    "learning_rate",
    "samples_per_second",
}
# What is printed once, before the first line with these numbers.
EXPLANATIONS = {
    "objective": "objective, alignment (of positives), uniformity (of all features): lower is "
    "better",
    "normalizer_error": "log g off by: error of the log-normalizers in nats; in brackets, of the "
    "batch alone",
    "knn": "knn: accuracy of nearest neighbours among the other training images; test images have "
    "a lower one",
    "R@1": "R@1: how often the nearest is the right partner, the mean of both directions",
}


class RunProgress:
    """The lines and the bar of one run. Where the output is no terminal, there is no bar.

    Args:
        total_steps: the optimizer steps of the run.
        epochs: the epochs of the run.
        measures: formats the numbers of a line, apart from its scores. Default: those of a
            contrastive loss.
    """

    def __init__(
        self,
        total_steps: int,
        epochs: int,
        measures: Callable[[Mapping[str, Any]], Iterable[str]] | None = None,
    ) -> None:
        self.total_steps, self.epochs = total_steps, epochs
        self._measures = measures or _measures
        self._scores: dict[str, float] = {}
        self._explained: set[str] = set()
        self._first_step = 0
        self._started = self._last_line_at = time.monotonic()
        self._bar: Progress | None = None

    @contextmanager
    def showing(self, step: int, scores: dict[str, float]) -> Iterator[None]:
        """Show the bar within this context.

        Args:
            step: number of optimizer steps done before.
            scores: the latest scores, of an interrupted run.
        """
        self._first_step, self._scores = step, scores
        self._started = self._last_line_at = time.monotonic()
        columns = (
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[numbers]}", markup=False),
        )
        with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
            self._bar = bar
            self._task = bar.add_task("", total=self.total_steps, completed=step, numbers="")
            yield

    def advance(self, step: int) -> None:
        """Move the bar to `step`; does not wait for the device."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def show(self, row: Mapping[str, Any], milestone: bool) -> None:
        """Show a line of metrics.

        Args:
            row: the line.
            milestone: whether it stays on a terminal; other lines change the bar alone.
        """
        self._scores = latest_scores([row]) or self._scores
        state = "  ".join([self._state(row), *map(_percent, self._scores.items())])
        if console.is_terminal:
            if self._bar is not None:
                self._bar.update(self._task, numbers=state)
            if milestone:
                self._say(row, f"epoch {row['epoch']:<4.4g}", latest_scores([row]))
            return
        quiet = time.monotonic() - self._last_line_at
        if milestone or row["step"] == self.total_steps or quiet > QUIET_SECONDS:
            self._last_line_at = time.monotonic()
            self._say(row, self._state(row), self._scores)

    def _say(self, row: Mapping[str, Any], first: str, scores: Mapping[str, float]) -> None:
        """Print a line of metrics, below explanations of what it is the first to name."""
        for name in [*row, *scores]:
            if name in EXPLANATIONS and name not in self._explained:
                self._explained.add(name)
                say(f"  {EXPLANATIONS[name]}")
        say("  ".join([first, *self._measures(row), *map(_percent, scores.items())]))

    def _state(self, row: Mapping[str, Any]) -> str:
        done = row["step"] - self._first_step
        left = (time.monotonic() - self._started) / done * (self.total_steps - row["step"])
        return (
            f"epoch {row['epoch']:.1f} of {self.epochs:,}  "
            f"{row['samples_per_second']:,.0f} samples/s  left {_duration(left)}"
        )


def latest_scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the scores of the task in the latest line of metrics that has any."""
    scores = ({k: v for k, v in row.items() if k not in COMMON_METRICS} for row in reversed(rows))
    return next(filter(None, scores), {})


def _measures(row: Mapping[str, Any]) -> Iterator[str]:
    yield f"objective {row['objective']:+.3f}"
    yield f"alignment {row['alignment']:.2f}"
    if row["uniformity"] is not None:
        yield f"uniformity {row['uniformity']:.2f}"
    if "normalizer_error" in row:
        yield f"log g off by {row['normalizer_error']:.2f} ({row['in_batch_error']:.2f})"


def _percent(score: tuple[str, float]) -> str:
    return f"{score[0]} {score[1]:.1%}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
