"""Report what a run measures while it trains: progress, metrics.jsonl, trackers.

Results stay on the device until a log point; only then does the host wait for them. The first
process reports. Every process raises an error if its own features are no longer finite.
"""

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..common.console import say
from ..common.environment import processes, rank
from ..common.errors import UserError
from ..common.regular_files import open_regular_file
from ..common.stored_fields import require_type
from ..common.system import append_to
from ..evaluation.geometry import alignment, uniformity
from ..runs.folder import Run
from ..runs.stored import atomically
from .normalizer_error import NormalizerError
from .progress import RunProgress, latest_scores
from .task import Outcome
from .trackers import End
from .tracking import Tracking

__all__ = ["Monitor"]

MOST_NAMES = 5  # samples named in a message


@dataclass(frozen=True)
class _Observed:
    """The results of one micro-batch that the host has not read yet."""

    step: int
    indices: Tensor  # (b,) int64 on the CPU
    not_finite: Tensor  # (b,) bool on the device
    loss: Tensor  # scalar on the device


class Monitor:
    """Observes every micro-batch and reports at log points.

    Args:
        run: the run's folder, for metrics.jsonl and the trackers.
        total_steps: the optimizer steps of the run.
        epochs: the epochs of the run.
        trackers: names of trackers besides TensorBoard; None for those that the run had.
    """

    def __init__(
        self, run: Run, total_steps: int, epochs: int, trackers: tuple[str, ...] | None
    ) -> None:
        self.run, self.is_first = run, rank() == 0
        self.tracking = Tracking(run, trackers)
        self._logged = 0  # the last step in metrics.jsonl when the run was started or resumed
        self.progress = RunProgress(total_steps, epochs)
        self.rows: list[dict[str, Any]] = []
        self._observed: list[_Observed] = []
        self._normalizer_error = NormalizerError()
        self._samples = 0
        self._last_log_at = time.monotonic()
        self._skipped: set[str] = set()

    def observe(self, step: int, indices: Tensor, outcome: Outcome) -> None:
        """Record a micro-batch; does not wait for the device.

        Args:
            step: the optimizer step that the micro-batch belongs to.
            indices: `(b,)` int64 on the CPU, to name the samples in messages.
            outcome: the results of its forward pass.
        """
        bad = _not_finite(outcome.features)
        # Look at features first: batch norm in a projector spreads one bad sample over the batch.
        bad = torch.where(bad.any(), bad, _not_finite(outcome.projections))
        self._observed.append(_Observed(step, indices, bad, outcome.loss.detach()))
        self._normalizer_error.observe(outcome)
        self._samples += len(indices) * processes()

    def report_skipped(self, name: str, reason: str) -> None:
        """Print that a sample could not be read; once for each name."""
        if name not in self._skipped:
            self._skipped.add(name)
            so_far = f"{len(self._skipped)} so far"
            say(f"skipped {name}: {reason} (training goes on, {so_far})", for_all=False)

    def exclude(self, seconds: float) -> None:
        """Exclude time that was not spent on training from the samples per second."""
        self._last_log_at += seconds

    def check_finite(self, names: Sequence[str] | Mapping[int, str]) -> None:
        """Raise UserError if features or the loss stopped being finite since the last log point.

        Args:
            names: names of samples by index.
        """
        if not self._observed:
            return
        bad = torch.stack([o.not_finite.any() | ~o.loss.isfinite() for o in self._observed])
        if not bool(bad.any()):
            return
        first = self._observed[int(bad.int().argmax())]
        culprits = first.indices[first.not_finite.cpu()].tolist()
        listed = ", ".join(f"{index} ({names[index]})" for index in culprits[:MOST_NAMES])
        more = f" and {len(culprits) - MOST_NAMES} more" if len(culprits) > MOST_NAMES else ""
        what = f"features of sample {listed}{more} are" if culprits else "the loss is"
        raise UserError(
            f"step {first.step + 1}: {what} not finite; "
            "the last checkpoint is from before this step; try a lower --learning-rate "
            "or --precision 32-true, or look at these samples"
        )

    def log(
        self,
        step: int,
        epoch: float,
        *,
        loss: Any,
        learning_rate: float,
        scores: dict[str, float],
        milestone: bool,
    ) -> dict[str, Any] | None:
        """Read the results since the last log point, write and show them.

        All processes call it, after `check_finite`.

        Args:
            step: number of optimizer steps done.
            epoch: number of epochs done.
            loss: the loss that is trained.
            learning_rate: the learning rate of the last step.
            scores: the scores of the task, by name.
            milestone: whether an epoch ends that is scored where the data allow it.

        Returns:
            The line of metrics; None in all processes but the first, and if there is nothing new.
        """
        if not self._observed:  # No sample could be read since the last log point.
            return None
        self._normalizer_error.gather()
        latest = self._normalizer_error.latest()
        errors = self._normalizer_error.read(loss)
        if not self.is_first:
            self._observed.clear()
            return None
        losses = torch.stack([observed.loss for observed in self._observed])
        view1, view2 = (side.cpu() for side in latest)
        now = time.monotonic()
        row: dict[str, Any] = {
            "step": step,
            "epoch": round(epoch, 4),
            "objective": float(losses.cpu().double().mean()),
            "alignment": float(alignment(view1, view2)),
            "uniformity": float(uniformity(view1)) if len(view1) > 1 else None,
            "learning_rate": learning_rate,
            "samples_per_second": round(self._samples / (now - self._last_log_at), 1),
        }
        row.update(errors)
        row.update(scores)
        self.rows.append(row)
        self._observed.clear()
        self._samples, self._last_log_at = 0, time.monotonic()
        self._write(row)
        self.progress.show(row, milestone)
        return row

    def start(self) -> None:
        """Start the curves of a new run; drop what an interrupted start of the run has logged."""
        self._rewrite_curves()

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs: all lines of metrics, and the results not read yet."""
        pending = [(o.step, o.indices, o.not_finite.cpu(), o.loss.cpu()) for o in self._observed]
        return {
            "rows": list(self.rows),
            "pending": pending,
            "normalizer_error": self._normalizer_error.state(),
        }

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        """Load what `state` returned, and drop what was logged after it from the run's curves."""
        require_type(state["rows"], list[dict[str, int | float | None]], "rows of metrics")
        self.rows = list(state["rows"])
        self._observed = [
            _Observed(step, indices, bad.to(device), loss.to(device))
            for step, indices, bad, loss in state["pending"]
        ]
        self._normalizer_error.restore(state["normalizer_error"], device)
        self._rewrite_curves()

    def _rewrite_curves(self) -> None:
        if not self.is_first:
            return
        self._logged = _last_step(self.run.metrics)
        text = "".join(json.dumps(row) + "\n" for row in self.rows)
        atomically(self.run.metrics, lambda path: path.write_text(text, encoding="utf-8"))

    @contextmanager
    def showing(self, step: int) -> Iterator[None]:
        """Keep the trackers open and the progress on screen while training.

        Args:
            step: number of optimizer steps done before.
        """
        if not self.is_first:
            yield
            return
        self.tracking.open(self.rows, self._logged)
        self._last_log_at = time.monotonic()
        end: End = "failed"
        try:
            with self.progress.showing(step, latest_scores(self.rows)):
                yield
            last = self.rows[-1]["step"] if self.rows else 0
            end = "finished" if last == self.progress.total_steps else "stopped"
        finally:
            self.tracking.close(end)

    def _write(self, row: dict[str, Any]) -> None:
        try:
            with append_to(self.run.metrics) as file:
                file.write(json.dumps(row).encode() + b"\n")
        except OSError as error:
            raise UserError(
                f"--out: could not write {self.run.metrics} ({error.strerror}); make room on the "
                "disk and go on with --resume"
            ) from error
        self.tracking.send(row)


def _last_step(metrics: Path) -> int:
    """Return the last step in metrics.jsonl; 0 if it has none. A killed run may have torn it."""
    try:
        with open_regular_file(metrics) as file:
            steps = re.findall(rb'^\{"step": (\d{1,18}),', file.read(), flags=re.MULTILINE)
    except OSError:
        return 0
    return int(steps[-1]) if steps else 0


def _not_finite(sides: tuple[Tensor, Tensor]) -> Tensor:
    """Tell which samples have a number that is not finite on any side, `(b,)` bool."""
    first, second = (~side.isfinite().all(dim=1) for side in sides)
    return first | second
