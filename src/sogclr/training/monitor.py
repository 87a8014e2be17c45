"""What a run tells while it trains: a progress line, metrics.jsonl, TensorBoard, alarms.

Of several processes the first one tells it, the others raise alarms alone.

Results stay on the device until a log point; only then does the host wait for them.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from ..common.console import console, say
from ..common.environment import processes, rank
from ..common.errors import UserError
from ..evaluation.geometry import alignment, uniformity
from ..runs.folder import Run
from .normalizer_error import NormalizerGauge
from .task import Outcome

__all__ = ["NOTHING_YET", "Monitor"]

NAMED = 5  # samples or files listed in a message
OF_EVERY_RUN = {
    "step",
    "epoch",
    "objective",
    "alignment",
    "uniformity",
    "normalizer_error",
    "in_batch_error",
    "learning_rate",
    "samples_per_second",
}
NOTHING_YET: dict[str, Any] = {
    "rows": [],
    "pending": [],
    "gauge": [],
}  # the state at the start of a run


class Monitor:
    """Observes every micro-batch, reports at log points.

    Args:
        run: where curves go.
        total_steps: for the time left.
    """

    def __init__(self, run: Run, total_steps: int) -> None:
        self.run, self.first = run, rank() == 0
        self.total_steps = total_steps
        self.rows: list[dict[str, Any]] = []
        self._pending: list[tuple[int, Tensor, Tensor, Tensor]] = []
        self._gauge = NormalizerGauge()
        self._samples = 0
        self._started = time.monotonic()
        self._first_step = 0
        self._said_at = self._started
        self._read_at = self._started
        self._skipped: set[str] = set()
        self._progress: Progress | None = None

    def observe(self, step: int, rows: Tensor, outcome: Outcome) -> None:
        """Take note of a micro-batch; waits for nothing.

        Args:
            step: the optimizer step.
            rows: `(b,)` on the CPU.
            outcome: of its forward pass.
        """
        bad = _not_finite(outcome.features)
        # A projector's batch norm spreads one bad sample over all: ask it only if need be.
        bad = torch.where(bad.any(), bad, _not_finite(outcome.projections))
        self._pending.append((step, rows, bad, outcome.loss.detach()))
        self._gauge.observe(outcome)
        self._samples += len(rows) * processes()

    def skipped(self, name: str, reason: str) -> None:
        """A sample that could not be read; told once a file."""
        if name not in self._skipped:
            self._skipped.add(name)
            so_far = f"{len(self._skipped)} so far"
            say(f"skipped {name}: {reason} (training goes on, {so_far})", for_all=False)

    def check_finite(self, names: Sequence[str] | Mapping[int, str]) -> None:
        """Raise UserError if features or the loss stopped being finite since the last log point."""
        if not self._pending:
            return
        bad = torch.stack([b.any() | ~loss.isfinite() for _, _, b, loss in self._pending])
        if not bool(bad.any()):
            return
        step, rows, flags, _ = self._pending[int(bad.int().argmax())]
        culprits = rows[flags.cpu()].tolist()
        listed = ", ".join(f"{row} ({names[row]})" for row in culprits[:NAMED])
        more = f" and {len(culprits) - NAMED} more" if len(culprits) > NAMED else ""
        raise UserError(
            f"step {step + 1}: features are not finite, of sample {listed or 'none'}{more}; "
            "the last checkpoint is from before it; try a lower --learning-rate "
            "or --precision 32-true, or look at these samples"
        )

    def log(
        self, step: int, epoch: float, *, loss: Any, learning_rate: float, scores: dict[str, float]
    ) -> None:
        """Read results, write them down, show them. Call `check_finite` before."""
        if not self._pending:  # no image could be read since the last time
            return
        self._gauge.gather()
        if not self.first:
            self._pending.clear()
            self._gauge.clear()
            return
        losses = torch.stack([loss for _, _, _, loss in self._pending])
        view1, view2 = (side.cpu() for side in self._gauge.latest())
        now = time.monotonic()
        row: dict[str, Any] = {
            "step": step,
            "epoch": round(epoch, 4),
            "objective": float(losses.cpu().double().mean()),
            "alignment": float(alignment(view1, view2)),
            "uniformity": float(uniformity(view1)) if len(view1) > 1 else None,
            "learning_rate": learning_rate,
            "samples_per_second": round(self._samples / (now - self._read_at), 1),
        }
        row.update(self._gauge.read(loss))
        row.update(scores)
        self.rows.append(row)
        self._pending.clear()
        self._samples, self._read_at = 0, time.monotonic()
        self._write(row)
        self._show(row)

    def advance(self, step: int) -> None:
        """Move the bar on; needs nothing from the device."""
        if self._progress is not None:
            self._progress.update(self._task, completed=step)

    def state(self) -> dict[str, Any]:
        """What a resumed run has to know: the rows so far, and losses not yet averaged."""
        pending = [(step, rows, bad.cpu(), loss.cpu()) for step, rows, bad, loss in self._pending]
        return {"rows": list(self.rows), "pending": pending, "gauge": self._gauge.state()}

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        """Take over `state`, and drop from the run's curves what was logged after it."""
        self.rows = list(state["rows"])
        self._pending = [
            (step, rows, bad.to(device), loss.to(device))
            for step, rows, bad, loss in state["pending"]
        ]
        self._gauge.restore(state.get("gauge", []), device)
        if not self.first:
            return
        text = "".join(json.dumps(row) + "\n" for row in self.rows)
        self.run.metrics.write_text(text)
        with suppress(FileNotFoundError):
            for file in self.run.curves.iterdir():
                file.unlink()

    @contextmanager
    def showing(self, step: int) -> Iterator[None]:
        """Keep the curves open and the progress line on screen."""
        if not self.first:
            yield
            return
        from torch.utils.tensorboard import SummaryWriter

        self._started = self._read_at = self._said_at = time.monotonic()
        self._first_step = step
        self._curves = SummaryWriter(str(self.run.curves))
        for row in self.rows:
            self._draw(row)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[numbers]}"),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        with self._progress as bar:
            self._task = bar.add_task(
                "training", total=self.total_steps, completed=step, numbers=""
            )
            try:
                yield
            finally:
                self._curves.close()

    def _write(self, row: dict[str, Any]) -> None:
        try:
            with open(self.run.metrics, "a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise UserError(
                f"out: could not write {self.run.metrics} ({error.strerror}); make room on the "
                "disk and go on with --resume"
            ) from error
        self._draw(row)

    def _draw(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if name not in ("step", "epoch") and value is not None:
                self._curves.add_scalar(name, value, row["step"])

    def _show(self, row: dict[str, Any]) -> None:
        done = row["step"] - self._first_step
        left = (time.monotonic() - self._started) / done * (self.total_steps - row["step"])
        latest: dict[str, float] = next((s for r in reversed(self.rows) if (s := _scores(r))), {})
        numbers = (
            f"epoch {row['epoch']:.1f}  {row['samples_per_second']:,.0f} samples/s  "
            f"left {int(left) // 60}:{int(left) % 60:02d}  objective {row['objective']:+.3f}  "
            f"alignment {row['alignment']:.2f}  uniformity {row['uniformity'] or 0:.2f}"
        )
        if "normalizer_error" in row:
            numbers += (
                f"  log-normalizers off by {row['normalizer_error']:.2f}"
                f" (the batch's by {row['in_batch_error']:.2f})"
            )
        numbers += "".join(f"  {name} {value:.1%}" for name, value in latest.items())
        if self._progress is not None and console.is_terminal:
            self._progress.update(self._task, numbers=numbers)
        elif _scores(row) or row["step"] == self.total_steps or self._quiet_for() > 20:
            self._said_at = time.monotonic()
            say(numbers)

    def _quiet_for(self) -> float:
        return time.monotonic() - self._said_at


def _not_finite(sides: tuple[Tensor, Tensor]) -> Tensor:
    """Which samples have a number that is not finite on either side, `(b,)`."""
    first, second = (~side.isfinite().all(dim=1) for side in sides)
    return first | second


def _scores(row: dict[str, Any]) -> dict[str, float]:
    """What the task added to a row."""
    return {name: value for name, value in row.items() if name not in OF_EVERY_RUN}
