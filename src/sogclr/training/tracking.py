"""Send the metrics of a run to its trackers. One that fails is left out, and training goes on.

trackers.json has, for each tracker, the id of the run there and the last step that it received.
So a resumed run continues the same curves, without gaps and without steps drawn twice.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any, TypedDict, TypeVar

from ..common.console import say
from ..common.errors import UserError, one_line
from ..common.options import TrackerName
from ..common.stored_fields import require_type
from ..runs.folder import Run
from ..runs.stored import read_json, write_json
from .trackers import TRACKERS, End, Tracker

__all__ = ["Tracking"]

T = TypeVar("T")
Row = Mapping[str, Any]


class _Stored(TypedDict):
    """The entry of a tracker in trackers.json.

    id: the id of the run there; None if it could not be opened.
    sent: the last step that it received; None if it has all steps in metrics.jsonl.
    """

    id: str | None
    sent: int | None


class Tracking:
    """The trackers of a run, as the first process uses them.

    Args:
        run: the run's folder.
        names: names of trackers besides TensorBoard; None for those that the run had.
    """

    def __init__(self, run: Run, names: tuple[str, ...] | None) -> None:
        self.run, self.names = run, names
        self._open: dict[str, Tracker] = {}
        self._sent: dict[str, int] = {}
        self._stored: dict[str, _Stored] = {}

    def open(self, rows: Sequence[Row], logged: int) -> None:
        """Open the trackers, and send them the lines of metrics that they have not received.

        Args:
            rows: all lines of metrics until now.
            logged: the last step in metrics.jsonl, before steps that will be computed again were
                removed from it.

        Raises:
            UserError: trackers.json is damaged.
        """
        self._stored = self._read()
        names = tuple(self._stored) if self.names is None else self.names
        for name, stored in self._stored.items():  # One that is not named now misses steps.
            if name not in names and stored["sent"] is None:
                stored["sent"] = logged
        settings = _flatten(self.run.read_settings().get("resolved", {}))
        for name in dict.fromkeys(("tensorboard", *names)):
            self._open_one(name, settings, logged)
        if self._stored:
            self._write()
        for row in rows:
            self.send(row)

    def _open_one(self, name: str, settings: Mapping[str, Any], logged: int) -> None:
        stored = self._stored.get(name, _Stored(id=None, sent=0))
        last = logged if stored["sent"] is None else stored["sent"]
        self._sent[name] = last
        tracker = self._attempt(name, lambda: TRACKERS[name](self.run, settings, stored["id"]))
        if tracker is not None:
            self._open[name] = tracker
        if name != "tensorboard":  # which starts anew each time
            id = stored["id"] if tracker is None else tracker.id
            self._stored[name] = _Stored(id=id, sent=last if tracker is None else None)

    def send(self, row: Row) -> None:
        """Send a line of metrics to each tracker that has not received its step."""
        values = {k: v for k, v in row.items() if k != "step" and v is not None}
        for name, tracker in list(self._open.items()):
            if row["step"] > self._sent[name]:
                if self._attempt(name, lambda: _log(tracker, row["step"], values)):  # noqa: B023 (called at once)
                    self._sent[name] = row["step"]
                else:
                    self._leave_out(name)

    def close(self, end: End) -> None:
        """Close the trackers.

        Args:
            end: how the run has ended.
        """
        for name, tracker in self._open.items():
            self._attempt(name, lambda: tracker.close(end))  # noqa: B023 (called at once)
        self._open.clear()

    def _leave_out(self, name: str) -> None:
        """Send nothing more to a tracker, and note what it has received."""
        del self._open[name]
        if name in self._stored:
            self._stored[name]["sent"] = self._sent[name]
            self._write()

    def _attempt(self, name: str, act: Callable[[], T]) -> T | None:
        """Do something with a tracker; if it fails, say so and return None."""
        try:
            with redirect_stdout(sys.stderr):  # stdout is for results
                return act()
        except Exception as error:  # of any type: network, disk, account
            reason = f"{type(error).__name__}: {one_line(error)}"
            if isinstance(error, ImportError):
                reason = f"{reason}; pip install 'sogclr[{name}]'"
            say(
                f"{name}: failed ({reason}); training goes on, metrics.jsonl has all metrics, "
                "and after --resume it gets what it missed"
            )
            return None

    def _read(self) -> dict[str, _Stored]:
        if not self.run.trackers.exists():
            return {}
        stored = read_json(self.run.trackers)
        require_type(stored, dict[TrackerName, _Stored], "run: trackers.json")
        return stored

    def _write(self) -> None:
        try:
            write_json(self.run.trackers, dict(self._stored))
        except UserError as error:
            say(f"{error} (training goes on)")


def _log(tracker: Tracker, step: int, values: Mapping[str, float]) -> bool:
    tracker.log(step, values)
    return True


def _flatten(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Name the values of settings within settings with a dot: views.flip."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        inner = value if isinstance(value, dict) else {}
        flat |= {f"{name}.{key}": each for key, each in inner.items()} or {name: value}
    return flat
