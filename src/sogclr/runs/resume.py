"""Starting a run anew or going on with one: which settings it takes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..common.environment import restarts
from ..common.errors import UserError, flag
from ..planning.settings import TrainSettings

if TYPE_CHECKING:
    from .folder import Run

__all__ = ["claim", "request_of", "require_new"]

S = TypeVar("S", bound=TrainSettings)


def require_new(folder: str | Path) -> None:
    """Refuse a folder that holds a run, unless torchrun has restarted this process.

    Raises:
        UserError: The folder holds a run.
    """
    if (Path(folder) / "settings.json").is_file() and not restarts():
        raise UserError(f"--out: {folder} holds a run already; add --resume or name another --out")


def claim(run: "Run", given: S, command: str, resume: bool) -> S:
    """Choose the settings of a run: those given, or those that the resumed run was started with.

    The latter have nothing left open, because a folder that grew or another device would derive
    other values. Settings that are given must not contradict them.

    Args:
        run: The run to start or to resume.
        given: The settings that were given now.
        command: "pretrain" or "align".
        resume: Whether to resume the run.

    Raises:
        UserError: The run exists and is not to be resumed; or it is to be resumed, but was started
            with another command or other settings.
    """
    if not resume:
        require_new(run.folder)
        return given
    stored = run.read_settings()
    if stored.get("kind", "images") != ("images" if command == "pretrain" else "pairs"):
        raise UserError(f"--resume: {run.folder} was not started with sogclr {command}")
    before = request_of(stored, type(given))
    old, defaults = before.as_dict(), type(given)().as_dict()
    for name, value in given.as_dict().items():
        if value not in (old[name], defaults[name]):
            raise UserError(
                f"{flag(name)}: {run.folder} was started with {_shown(old[name])}, "
                f"not {_shown(value)}; leave it out to go on, or name another --out"
            )
    return before


def _shown(value: Any) -> str:
    """Format the value of an option as the command line takes it."""
    if value is None:
        return "nothing"
    return ",".join(value) if isinstance(value, tuple) else str(value)


def request_of(settings: dict[str, Any], kind: type[S]) -> S:
    """Read the settings of a run, with nothing left open, out of its settings.json."""
    return kind.from_dict(settings["resolved"])
