"""What starting, resuming and ending a run have in common, whatever it learns."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from ..commands import api
from ..common.console import say
from ..common.environment import restarts
from ..common.errors import UserError
from ..common.options import Augmentation
from ..distributed.launch import finish
from ..training.loop import Trainer
from .folder import Run

__all__ = ["Result", "checkpoint_bytes", "claim", "conduct", "request_of", "usual_settings"]

R = TypeVar("R")


@dataclass(frozen=True)
class Result:
    """What came of a run.

    Attributes:
        folder: the run.
        complete: False if it was stopped on request and can be resumed.
        metrics: the last row of metrics.jsonl.
    """

    folder: Path
    complete: bool
    metrics: dict[str, Any]


def claim(run: Run, asked: R, verb: str, resume: bool) -> R:
    """The request to go by: what is asked, or what the run that is resumed was started with.

    The latter has nothing left open (a folder that grew or another device would derive other
    values), and what is asked now must not contradict it.

    Raises:
        UserError: a run is there and is not to be resumed; or it is to be, and is not a run of
            this verb, or something else is asked.
    """
    if not resume:
        if run.exists() and not restarts():
            raise UserError(
                f"out: {run.folder} holds a run already; add --resume or name another --out"
            )
        return asked
    settings = run.read_settings()
    if settings.get("kind", "images") != ("images" if verb == "pretrain" else "pairs"):
        raise UserError(f"run: {run.folder} was not started with sogclr {verb}")
    before = request_of(settings, type(asked))
    usual = usual_settings(verb)
    for name, value in vars(asked).items():
        was = getattr(before, name)
        if value not in (was, usual[name]):
            raise UserError(
                f"{name.replace('_', '-')}: {run.folder} was started with {was}, not {value}; "
                "leave it out to go on, or name another --out"
            )
    return before


def usual_settings(verb: str) -> dict[str, Any]:
    """What a verb takes for each of its arguments that is not given."""
    parameters = inspect.signature(getattr(api, verb)).parameters
    return {name: parameter.default for name, parameter in parameters.items()}


def request_of(settings: dict[str, Any], kind: type[R]) -> R:
    """The request of a run, with nothing left open, out of its settings."""
    stored = settings["resolved"]
    return kind(**{**stored, "views": Augmentation(**stored["views"])})


def conduct(trainer: Trainer, hint: str) -> Result:
    """Train to the end, or until asked to stop; `hint` says what one can do then."""
    if trainer.step:
        say(f"going on from step {trainer.step:,} of {trainer.batches.total_steps:,}")
    complete = trainer.train()
    finish(trainer.fabric)
    folder = trainer.run.folder
    if complete:
        say(f"done: {folder} ({hint})")
    else:
        say(f"stopped at step {trainer.step:,}; go on with --resume")
    return Result(folder, complete, trainer.monitor.rows[-1] if trainer.monitor.rows else {})


def checkpoint_bytes(model: nn.Module, samples: int, kept: int = 0) -> int:
    """What a run needs on disk: old and new checkpoint side by side, two optimizer moments, two
    models, the table, and `kept` further bytes in a checkpoint."""
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    return 2 * (3 * weights + 24 * samples + kept) + 2 * weights + 10_000_000
