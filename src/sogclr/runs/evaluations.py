"""Keep the results of evaluations in the folder of a run, a line of JSON each."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from ..common.console import say
from ..common.errors import UserError
from ..common.regular_files import open_regular_file
from .data_address import data_address
from .folder import Run
from .stored import FORMAT, atomically

__all__ = ["append_evaluation", "read_evaluations"]

MOST_KEPT = 1_000  # lines, so that a loop over evaluations does not fill the folder
LARGEST = 1 << 26  # bytes that are read of a file that may come from a stranger


def append_evaluation(run: Run, report: Any, data: Any, test: Any = None) -> None:
    """Add a line with the result of `sogclr.evaluate`; a folder that cannot be written to is told.

    Args:
        run: the run.
        report: the result, a dataclass or a dictionary.
        data, test: what was measured, as it was given.
    """
    described = {
        "format": FORMAT,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": data_address(data),
        "test": data_address(test),
    }
    fields = report if isinstance(report, dict) else asdict(report)
    line = json.dumps(_without_none({**described, **fields}))
    target = run.evaluations
    try:
        lines = [*_read_lines(run), line][-MOST_KEPT:]
        text = "\n".join(lines) + "\n"
        advice = "the result above is complete"
        atomically(target, lambda path: path.write_text(text, encoding="utf-8"), advice)
    except UserError as error:
        say(str(error))
    else:
        say(f"added to {target}")


def read_evaluations(run: Run) -> list[dict[str, Any]]:
    """Return the kept results, the oldest first; lines that are damaged are left out."""
    found = []
    for line in _read_lines(run):
        try:
            parsed = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(parsed, dict):
            found.append(parsed)
    return found


def _read_lines(run: Run) -> list[str]:
    try:
        with open_regular_file(run.evaluations) as file:
            text = file.read(LARGEST).decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.split("\n") if line.strip()]


def _without_none(value: Any) -> Any:
    """Leave out what was not measured, at any depth."""
    if isinstance(value, dict):
        return {str(k): _without_none(v) for k, v in value.items() if v is not None}
    return value
