"""Write and read the head of a classifier and the names of its classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..common.errors import UserError
from ..common.stored_fields import require_type
from .folder import Run
from .kinds import kind_of
from .stored import read_json, write_json

__all__ = ["is_classifier", "read_head", "write_head"]


def is_classifier(run: str | Path) -> bool:
    """Tell whether a folder is a classifier of `sogclr.finetune`.

    Raises:
        UserError: the folder is not a run.
    """
    return kind_of(Run(run).read_settings()) == "classifier"


def write_head(run: Run, head: nn.Linear, classes: Sequence[str]) -> None:
    """Write the head and the names of its classes.

    Raises:
        UserError: the disk is full or fails.
    """
    run.write_weights(run.head, head.state_dict())
    write_json(run.classes, {"classes": list(classes)})


def read_head(run: Run) -> tuple[nn.Linear, list[str]]:
    """Read what `write_head` wrote.

    Raises:
        UserError: the training was not completed, or a file is missing or damaged.
    """
    if not run.classes.is_file():
        raise UserError(f"run: {run.folder} is not complete; go on with sogclr finetune --resume")
    classes: Any = read_json(run.classes).get("classes")
    require_type(classes, list[str], f"run: {run.classes}: classes")
    weights = run.read_weights(run.head)
    shape = weights["weight"].shape if "weight" in weights else ()
    if len(shape) != 2 or shape[0] != len(classes):
        raise UserError(f"run: {run.head} does not fit {run.classes}; put back copies of both")
    head = nn.Linear(shape[1], shape[0])
    try:
        head.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"run: {run.head} is damaged (it is no linear head)") from error
    return head, classes
