"""What operating systems do differently: locks, signals, permissions, and how files reach the disk.

All other files leave these to this one. A system that lacks a feature gets the fallback that stands
beside it here.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

__all__ = [
    "STOP_SIGNALS",
    "append_to",
    "create_file",
    "flush_file",
    "flush_folder",
    "hold_lock",
    "machine_bytes",
    "process_is_gone",
    "resident_bytes",
]

# Windows has no SIGTERM from other processes, but sends SIGBREAK at Ctrl-Break.
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
)
# Absent on Windows, where only administrators make symbolic links.
NO_FOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
BINARY: int = getattr(os, "O_BINARY", 0)  # of Windows alone


@contextmanager
def hold_lock(path: Path) -> Iterator[bool]:
    """Hold a lock within this context. It vanishes with the process, however that ends.

    filelock uses the locks of the system. Where a disk has none, it writes the number of the
    process into the file, and takes over the file of a process that is gone.

    Args:
        path: the file of the lock; created, and removed at the end.

    Yields:
        Whether the lock is held; False if another process (or thread) holds it.

    Raises:
        OSError: the file cannot be created.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        # Remove before the release: afterwards the file may be another process's. Windows cannot.
        with suppress(OSError):
            path.unlink()
        lock.release()


def create_file(path: Path) -> int:
    """Create an empty file that did not exist, not even as a link.

    Returns:
        The permissions that the umask gives to it.
    """
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | NO_FOLLOW | BINARY, 0o666)
    try:
        return os.fstat(handle).st_mode & 0o777
    finally:
        os.close(handle)


def append_to(path: Path) -> BinaryIO:
    """Open a file to append to it; raise OSError if it is a link."""
    flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY | NO_FOLLOW | BINARY
    if not NO_FOLLOW and path.is_symlink():
        raise OSError(f"{path} is a link")
    return os.fdopen(os.open(path, flags, 0o666), "ab")


def flush_file(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    with open(path, "r+b") as file:  # Windows refuses to flush what is open for reading alone.
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can do that."""
    with suppress(OSError):  # Windows opens no folders, and some network disks flush none.
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def process_is_gone(number: int) -> bool:
    """Tell whether no process of this machine has this number. False where that is unknown."""
    if os.name == "nt":  # There, signal 0 would be Ctrl-C.
        return False
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # It exists, and belongs to another user.
        return False
    return False


def machine_bytes() -> int | None:
    """Return the memory of this machine; None where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf.
        return None


def resident_bytes() -> int | None:
    """Return the memory that this process holds now; None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # Linux alone has this file.
        return None
