"""Read the headers of tar archives, damaged and hostile ones too, in bounded time and memory.

Python's tarfile goes back in the archive at a negative size, and reads extended headers and maps of
sparse files into memory, however long they are. All its reads therefore pass through `TarHeaders`.
"""

import errno
import os
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, Protocol

from ...common.errors import UserError

__all__ = [
    "LARGEST_IMAGE",
    "LARGEST_TEXT",
    "ForwardFile",
    "Header",
    "TarHeaders",
    "compression_of",
    "describe_excess",
    "read_headers",
    "require_zeros",
]

# Pillow refuses more than 179 million pixels, which are 0.5 GB as uncompressed RGB.
LARGEST_IMAGE = 1 << 30
LARGEST_TEXT = 1 << 24
# Bytes of one member's headers: long names, extended attributes, maps of sparse files.
_LARGEST_HEADER = 1 << 20
# Zeros that are read behind the end of an archive. Holes, which the disk tells of, do not count.
_MOST_ZEROS = 1 << 30

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
}


class ForwardFile(Protocol):
    """The methods of a file that reading headers needs; `seek` is only called to go forward."""

    def read(self, size: int, /) -> bytes: ...

    def seek(self, position: int, /) -> object: ...

    def tell(self) -> int: ...


class Header(NamedTuple):
    """A member of an archive that is not a folder.

    Attributes:
        name: path of the member.
        offset: first byte of its content.
        size: bytes of its content.
        problem: what the member is if its content does not stand in the archive as one piece, such
            as "a link"; else None.
    """

    name: str
    offset: int
    size: int
    problem: str | None


class TarHeaders:
    """Iterate over the headers of all members but folders.

    Args:
        file: the archive, at its start.

    Attributes:
        end: position behind the last header that was read and its content.
        latest: bytes that were read last.

    Raises:
        tarfile.TarError: while iterating, if the archive is damaged. tarfile takes the first
            unreadable header for the end, so compare `latest` or what stands at `end` with zeros.
    """

    def __init__(self, file: ForwardFile) -> None:
        self._file, self._left = file, _LARGEST_HEADER
        self.end, self.latest = 0, b""

    def __iter__(self) -> Iterator[Header]:
        try:
            # The type stubs ask for more methods than tarfile uses.
            with tarfile.open(fileobj=self, mode="r:") as archive:  # type: ignore[call-overload]
                while (member := archive.next()) is not None:
                    self.end, self._left = archive.offset, _LARGEST_HEADER
                    # tarfile would keep all members, a kilobyte each.
                    archive.members.clear()
                    if self.end < member.offset_data:
                        raise tarfile.ReadError("a header with a negative size")
                    if not member.isdir():
                        problem = _problem_of(member, self.end)
                        yield Header(member.name, member.offset_data, member.size, problem)
                self.end = archive.offset
        except (tarfile.TarError, OSError, UserError, MemoryError):
            raise
        except Exception as error:  # tarfile checks few of the numbers that it computes with
            raise tarfile.ReadError(f"a damaged header ({type(error).__name__})") from error

    def read(self, size: int) -> bytes:
        """Read a part of a header for tarfile."""
        self._left -= size
        if size < 0 or self._left < 0:
            raise tarfile.ReadError(
                f"a header with a negative size or more than {_LARGEST_HEADER:,} bytes"
            )
        self.latest = self._file.read(size)
        return self.latest

    def seek(self, position: int) -> None:
        """Go forward for tarfile."""
        self._file.seek(position)

    def tell(self) -> int:
        """Return the position for tarfile."""
        return self._file.tell()


def read_headers(file: BinaryIO, size: int) -> Iterator[Header]:
    """Yield the headers of all members of an archive on disk but folders.

    Args:
        file: the archive; its position may be changed between two headers.
        size: bytes of the file.

    Raises:
        tarfile.TarError: the file is not an archive, is truncated, or has data after its end.
    """
    file.seek(0)
    headers = TarHeaders(file)
    for header in headers:
        if header.problem is None and header.offset + header.size > size:
            raise tarfile.ReadError("truncated")
        yield header
    _require_empty(file, headers.end)


def _require_empty(file: BinaryIO, end: int) -> None:
    """Refuse a file that has other bytes than zeros from `end` on, or not the mark of the end."""
    file.seek(end)
    zeros = file.read(tarfile.BLOCKSIZE)
    if len(zeros) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("truncated, the mark of its end is missing")
    left = _MOST_ZEROS
    while zeros:
        if zeros.strip(b"\0"):
            raise tarfile.ReadError(f"no header of a member at byte {end:,}")
        left -= len(zeros)
        if left < 0:
            raise tarfile.ReadError(f"more than {_MOST_ZEROS:,} zeros behind its end")
        end = _skip_hole(file, end + len(zeros))
        zeros = file.read(1 << 20)


def require_zeros(file: ForwardFile) -> None:
    """Refuse other bytes than zeros from the position to the end of a file.

    A zero block in the midst of an archive, or a second archive behind it, would else hide all
    members behind.

    Raises:
        tarfile.TarError: there are other bytes than zeros, or too many zeros.
    """
    left = _MOST_ZEROS
    while zeros := file.read(1 << 16):
        if zeros.strip(b"\0"):
            raise tarfile.ReadError("data behind the mark of its end")
        left -= len(zeros)
        if left < 0:
            raise tarfile.ReadError(f"more than {_MOST_ZEROS:,} zeros behind its end")


def _skip_hole(file: BinaryIO, position: int) -> int:
    """Go to the next position that the disk stores: a hole has any length and is read as zeros."""
    try:
        position = os.lseek(file.fileno(), position, os.SEEK_DATA)
    except AttributeError:  # Windows
        pass
    except OSError as error:
        if error.errno == errno.ENXIO:  # nothing but a hole follows
            return file.seek(0, os.SEEK_END)
    return file.seek(position)


def _problem_of(member: tarfile.TarInfo, end: int) -> str | None:
    if member.issym() or member.islnk():
        return "a link"
    if not member.isfile():
        return "neither a file nor a link"
    blocks = -(-member.size // tarfile.BLOCKSIZE)
    if member.issparse() or member.offset_data + blocks * tarfile.BLOCKSIZE != end:
        return "sparse"
    return None


def compression_of(start: bytes) -> str | None:
    """Name the compression of a file by its first bytes; None if they are of no known one."""
    return next((name for mark, name in _COMPRESSED.items() if start.startswith(mark)), None)


def describe_excess(header: Header, largest: int) -> str | None:
    """Say how large a member is if it has more than `largest` bytes."""
    if header.size <= largest:
        return None
    return f"{header.size:,} bytes long, more than the {largest:,} that are read"
