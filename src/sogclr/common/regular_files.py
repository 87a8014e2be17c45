"""Open files that have an end; named pipes and devices are refused before they block."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

__all__ = ["open_regular_file", "require_regular"]

_KINDS = (
    (stat.S_ISDIR, "is a folder"),
    (stat.S_ISFIFO, "is a named pipe"),
    (stat.S_ISSOCK, "is a socket"),
    (stat.S_ISCHR, "is a device"),
    (stat.S_ISBLK, "is a device"),
)


def open_regular_file(path: str | Path, buffering: int = -1) -> BinaryIO:
    """Open a file for reading bytes.

    Args:
        path: the file; links are followed.
        buffering: as in `open`.

    Raises:
        OSError: the file is missing or unreadable, or is a folder, a pipe, a socket or a device.
    """
    # Opening some devices has effects, such as rewinding a tape. Look first.
    require_regular(os.stat(path), path)
    # The caller closes the file, so it is not opened by `with`.
    file = open(path, "rb", buffering, opener=_open_at_once)  # noqa: SIM115
    try:
        # A pipe may have taken the file's place in between.
        require_regular(os.fstat(file.fileno()), path)
    except OSError:
        file.close()
        raise
    return file


def require_regular(status: os.stat_result, path: str | Path) -> None:
    """Refuse what is no regular file.

    Args:
        status: what `os.stat` says about the path.
        path: the path, for the error.

    Raises:
        OSError: the path is a folder, a pipe, a socket or a device.
    """
    if not stat.S_ISREG(status.st_mode):
        kind = next((words for is_kind, words in _KINDS if is_kind(status.st_mode)), "is special")
        raise OSError(errno.EINVAL, f"{kind}, not a file", str(path))


def _open_at_once(path: str, flags: int) -> int:
    # Without O_NONBLOCK, opening a pipe waits for a writer. Windows has no such flag.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
