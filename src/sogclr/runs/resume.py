"""Choose the settings of a run: those that were given, or those of the run that is resumed."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..common.environment import restarts
from ..common.errors import UserError, flag
from ..planning.settings import TrainSettings
from ..planning.settings_base import Settings
from .kinds import NAMES, kind_of

if TYPE_CHECKING:
    from .folder import Run

__all__ = [
    "choose_settings",
    "finds_checkpoint",
    "read_resolved",
    "record_epochs",
    "require_new",
    "resumes",
]

S = TypeVar("S", bound=Settings)


def require_new(folder: str | Path) -> None:
    """Refuse a folder that holds a run, unless torchrun has restarted this process.

    Raises:
        UserError: The folder holds a run.
    """
    if (Path(folder) / "settings.json").is_file() and not restarts():
        raise UserError(f"--out: {folder} holds a run already; add --resume or name another --out")


def resumes(run: "Run", requested: bool) -> bool:
    """Return whether to resume a run: on request, or once torchrun has restarted its processes."""
    return requested or (restarts() > 0 and run.exists() and run.checkpoint.exists())


def finds_checkpoint(run: "Run", resume: bool) -> bool:
    """Return whether the run has a checkpoint; refuse a checkpoint that is not its own.

    Args:
        run: The run to start or to resume.
        resume: Whether to resume the run.

    Raises:
        UserError: The run to resume has lost its checkpoint; or the folder of a new run holds a
            checkpoint whose settings are lost.
    """
    if resume:
        # The encoder is written after a checkpoint, so a run without an encoder may have neither.
        if not run.checkpoint.exists() and run.encoder.exists():
            raise UserError(
                f"--resume: {run.checkpoint} is missing; put the file back, or name another --out"
            )
        return run.checkpoint.exists()
    # A run that was killed before its settings were written has a checkpoint of step 0.
    if run.checkpoint.exists() and run.read_checkpoint(mapped=True).get("step") != 0:
        raise UserError(
            f"--out: {run.folder} holds the checkpoint of a run that has lost its settings.json; "
            "put the file back and add --resume, or name another --out"
        )
    return False


def choose_settings(run: "Run", given: S, command: str, resume: bool) -> S:
    """Choose the settings of a run: the given ones, or the stored ones of a run that is resumed.

    Stored settings include derived values, which grown data or another device would change. The
    given settings must not contradict the stored ones, but for a larger number of epochs.

    Args:
        run: The run to start or to resume.
        given: The settings that this command was given.
        command: "pretrain", "align" or "finetune".
        resume: Whether to resume the run.

    Raises:
        UserError: The folder holds a run and `resume` is False; or the run to resume was started
            with another command or other settings.
    """
    if not resume:
        require_new(run.folder)
        return given
    stored = run.read_settings()
    if kind_of(stored) != given.kind:
        raise UserError(
            f"--resume: {run.folder} was not started with sogclr {command}; name another --out"
        )
    resolved = read_resolved(stored, type(given))
    old, defaults = resolved.as_dict(), type(given)().as_dict()
    for name, value in given.as_dict().items():
        if name == "epochs" and isinstance(given, TrainSettings):
            old[name] = _choose_epochs(value, old[name], defaults[name])
            changed: Any = {name: old[name]}
            resolved = replace(resolved, **changed)
        if value not in (old[name], defaults[name]):
            raise UserError(
                f"{flag(name)}: {run.folder} was started with {_format(old[name])}, "
                f"not {_format(value)}; leave it out to go on, or name another --out"
            )
    return resolved


def _choose_epochs(given: int, stored: int, usual: int) -> int:
    """Return the epochs of a resumed run: those it had, or more that were asked for."""
    return given if given > stored and given != usual else stored


def record_epochs(run: "Run", epochs: int) -> None:
    """Store that a run goes on to more epochs, so that it is resumed with these from now on.

    Args:
        run: The run that is resumed.
        epochs: Its number of epochs, at least the stored one.
    """
    stored = run.read_settings()
    before = stored["resolved"]["epochs"]
    if before != epochs:
        stored["resolved"]["epochs"] = epochs
        reasons = [*stored.get("reasons", []), ["epochs", f"{epochs:,}", f"{before:,} at first"]]
        run.write_settings({**stored, "reasons": reasons})


def _format(value: Any) -> str:
    """Format the value of an option as the command line takes it."""
    if value is None:
        return "nothing"
    return ",".join(value) if isinstance(value, tuple) else str(value)


def read_resolved(settings: dict[str, Any], kind: type[S]) -> S:
    """Read the settings of a run, with their derived values, from the content of settings.json.

    Raises:
        UserError: Another command made the run, or its settings are damaged.
    """
    if kind_of(settings) != kind.kind:
        raise UserError(f"run: is {NAMES[kind_of(settings)]}; give {NAMES[kind.kind]}")
    return kind.from_dict(settings.get("resolved"), "run: settings.json: resolved")
