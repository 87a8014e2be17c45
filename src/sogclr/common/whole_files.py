"""Write files whole or not at all, and remove what a killed process left of them."""

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .system import create_file, flush_file, flush_folder, process_is_gone

__all__ = ["remove_leftovers", "replace_file"]

# `replace_file` writes to `.NAME.PROCESS`, safetensors within that to `.tmpXXXXXX`.
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<process>\d+)")
_SAFETENSORS = re.compile(r"\.tmp\w{6}")
_SECONDS_PER_DAY = 86_400


def replace_file(target: Path, write: Callable[[Path], object]) -> None:
    """Write a temporary file, flush it to the disk and rename it: no file is ever half-written.

    A link of this name is replaced, not followed. The file has the permissions of the umask.

    Args:
        target: the path of the file.
        write: writes the content to the path that it is given.

    Raises:
        OSError: the disk is full or fails; a previous file stays intact. Whatever `write` raises
            is passed on.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)  # of an earlier process with the same number
    try:
        permissions = create_file(temporary)
        write(temporary)
        # safetensors replaces the file by one that only the owner can read.
        temporary.chmod(permissions)
        flush_file(temporary)
        temporary.replace(target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    flush_folder(target.parent)


def remove_leftovers(folder: Path, of: Callable[[str], bool], *, ours: bool = False) -> None:
    """Remove the temporary files of killed processes; what cannot be removed stays.

    Args:
        folder: the folder that `replace_file` wrote to; need not exist.
        of: tells whether the temporary files of a file of this name are removed.
        ours: whether no other process writes these files now, because this one holds a lock.
            Temporary files are then removed even if another process has got their number.
    """
    with suppress(OSError):
        for path in list(folder.iterdir()):
            if _is_leftover(path, of, ours) and (path.is_symlink() or path.is_file()):
                path.unlink()


def _is_leftover(path: Path, of: Callable[[str], bool], ours: bool) -> bool:
    found = _TEMPORARY.fullmatch(path.name)
    if found is None:
        return ours and _SAFETENSORS.fullmatch(path.name) is not None
    return of(found["name"]) and (ours or _is_abandoned(path, found["process"]))


def _is_abandoned(path: Path, process: str) -> bool:
    """Tell whether the writer of a temporary file is gone, or has not written for a day."""
    if process_is_gone(int(process)):
        return True
    with suppress(OSError):
        return time.time() - path.lstat().st_mtime > _SECONDS_PER_DAY
    return False
