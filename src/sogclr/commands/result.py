"""Train to the end, return what `pretrain` and `align` return, and say what comes next."""

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from ..common.console import say

if TYPE_CHECKING:
    from torch import nn

    from ..data.batches.schedule import Schedule
    from ..planning.recipe import Recipe
    from ..planning.settings_images import PretrainArguments
    from ..planning.settings_pairs import AlignArguments
    from ..runs.folder import Run
    from ..training.loop import Trainer
    from ..training.task import Task
    from .forecast import Forecast

__all__ = ["Result", "build_trainer", "checkpoint_bytes", "suggest_next", "train_to_end"]


@dataclass(frozen=True)
class Result:
    """The outcome of `pretrain` or `align`.

    Attributes:
        folder: Folder of the run.
        complete: False if the run was stopped on request and can be resumed, or was not started.
        metrics: Last line of metrics.jsonl.
        forecast: What `dry_run` expects of the run; None if it was started.
    """

    folder: Path
    complete: bool
    metrics: dict[str, Any]
    forecast: "Forecast | None" = None


def build_trainer(
    fabric: Any,
    task: "Task",
    schedule: "Schedule",
    recipe: "Recipe",
    run: "Run",
    arguments: "PretrainArguments | AlignArguments",
    resume: bool,
) -> "Trainer":
    """Build the training loop, at its first step or at that of the checkpoint.

    Args:
        fabric: Device and processes.
        task: What is trained.
        schedule: The micro-batches of the run.
        recipe: Optimizer, learning rate and weight decay.
        run: The claimed folder.
        arguments: All arguments, of which those on storage, trackers and callbacks are used.
        resume: Whether to go on from the checkpoint in the folder.
    """
    from ..runs.resume import record_epochs
    from ..training.loop import Trainer

    trainer = Trainer(
        fabric,
        task,
        schedule,
        recipe,
        run,
        arguments.checkpoint_seconds,
        trackers=arguments.trackers(),
        callbacks=arguments.callbacks,
    )
    if resume:
        trainer.restore()
        if fabric.is_global_zero:
            record_epochs(run, schedule.epochs)
    else:
        trainer.monitor.start()
    return trainer


def train_to_end(trainer: "Trainer") -> Result:
    """Train to the end, or until a signal asks to stop.

    Args:
        trainer: The training loop, at its first step or at the one to resume from.
    """
    from ..distributed.launch import finish

    if trainer.step:
        say(f"going on from step {trainer.step:,} of {trainer.schedule.total_steps:,}")
    complete = trainer.train()
    finish(trainer.fabric)
    folder = trainer.run.folder
    if complete:
        say(f"done: {folder}")
    else:
        say(f"stopped at step {trainer.step:,}; go on with --resume")
    return Result(folder, complete, trainer.monitor.rows[-1] if trainer.monitor.rows else {})


def suggest_next(folder: Path, data: Any, commands: tuple[str, ...]) -> None:
    """Print what the user can type next.

    Args:
        folder: Folder of a run that is complete.
        data: What the run was trained on.
        commands: Commands, with {run} and {data} in the place of their arguments.
    """
    run, given = (quote(str(part)) for part in (folder, data))
    shown = given if isinstance(data, str | Path) else "DATA"  # data in memory has no name
    say("next:")
    for command in commands:
        say(f"  {command.format(run=run, data=shown)}")


def checkpoint_bytes(model: "nn.Module", samples: int, extra: int = 0) -> int:
    """Estimate the bytes that a run writes to disk.

    An old and a new checkpoint exist at once, each with the weights, two moments of the optimizer
    and, for each sample, its row of the table, id and mark. Two files of weights come on top.

    Args:
        model: The model that is trained.
        samples: Number of rows of the table.
        extra: Further bytes in a checkpoint.
    """
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    return 2 * (3 * weights + 24 * samples + extra) + 2 * weights + 10_000_000
