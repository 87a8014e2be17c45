"""Read the results of evaluations that a run keeps."""

import json

from sogclr.runs.stored import FORMAT


def read_evaluations(run):
    """Return the kept results, the oldest first; lines that are damaged are left out."""
    found = []
    for line in run.evaluations.read_text(errors="replace").split("\n"):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and entry.get("format") == FORMAT:
            found.append(entry)
    return found
