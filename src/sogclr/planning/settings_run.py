"""The options on the storage of a run and on what receives its metrics, for all that trains."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, get_args

from ..common.errors import require
from ..common.options import TrackerName, split_names

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .callback import Callback

    Names = str | Sequence[str]
    File = str | Path
    Callbacks = Sequence[Callback]
else:  # what the command line accepts, and how its help names the value
    from tyro.conf import Suppress

    Names = Annotated[str, "NAMES"]
    File = Annotated[str, "FILE"]
    Callbacks = Suppress[tuple[str, ...]]

__all__ = ["RunArguments"]


@dataclass(frozen=True, kw_only=True)
class RunArguments:
    """The storage of a run, whether to resume it, and what is called while it trains."""

    group: ClassVar[str] = "run"

    checkpoint_seconds: float = 120.0
    """Least number of seconds between two checkpoints."""

    resume: bool = False
    """Continue the run in `out`; the result is the same as without an interruption. With a larger
    number of `epochs`, also a run that is complete; the default number counts as not given."""

    dry_run: bool = False
    """Check what training would check, print the plan, the expected memory and time, and start
    nothing. On a CPU a few steps are timed, for some seconds. With `device` cuda, no GPU need be
    here: hours are estimated for three named ones."""

    logger: Names | None = None
    """Trackers that receive the metrics besides TensorBoard: one or more of wandb, mlflow and
    trackio, with commas between them. From Python also a sequence. Default: none; for `resume`
    those that the run had."""

    config: File | None = None
    """File with values for options that are not given here: a TOML file of names and values, or the
    settings.json of a run. Default: none."""

    callbacks: Callbacks = ()
    """Objects of subclasses of `sogclr.Callback`, which are called while the run trains."""

    def __post_init__(self) -> None:
        message = f"must not be negative, got {self.checkpoint_seconds:g}"
        require(self.checkpoint_seconds >= 0, "checkpoint_seconds", message)
        together = self.dry_run and self.resume
        message = "does not forecast a run that is resumed; leave out --resume"
        require(not together, "dry_run", message)
        self.trackers()

    def trackers(self) -> tuple[str, ...] | None:
        """Return the names of the trackers; None to use those that the run had.

        Raises:
            UserError: A name is unknown.
        """
        if self.logger is None:
            return None
        names, known = split_names(self.logger), get_args(TrackerName)
        for name in names:
            message = f"{name!r} is unknown; give one or more of {', '.join(known)}"
            require(name in known, "logger", message)
        return tuple(dict.fromkeys(names))
