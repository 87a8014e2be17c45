"""Read the members of tar archives at URLs, from start to end, across lost connections."""

import tarfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ...common.errors import UserError
from .headers import TarHeaders, compression_of, describe_excess, require_zeros
from .remote import Patience, RemoteFile, UnreachableError
from .urls import without_secrets

__all__ = ["Member", "read_members"]

ATTEMPTS = 5  # to read on from the same place in an archive
SLOW_ATTEMPTS = 2  # that wait in vain for an answer
PAUSE = 0.5  # seconds, doubled before each attempt: a server that is away is given up after 15 s


class Member(NamedTuple):
    """A member of an archive.

    Attributes:
        name: path of the member.
        content: its bytes.
        problem: why the content is not read, such as "a link"; else None.
    """

    name: str
    content: bytes
    problem: str | None = None


def read_members(url: str, largest: Callable[[str], int], patience: Patience) -> Iterator[Member]:
    """Yield the members of a tar archive but folders, in order.

    A lost connection is opened again, and members that were read already are skipped. That is on
    top of what the file system retries by itself.

    Args:
        url: address of the archive.
        largest: the most bytes of a member of this name that are read; 0 if it is not wanted.
        patience: checked before each wait.

    Raises:
        UserError: the archive cannot be read, even after several attempts.
        tarfile.TarError: the archive is damaged. The members before the damage were yielded.
    """
    done = failures = timeouts = 0
    while True:
        try:
            for number, member in enumerate(_members(url, largest, patience)):
                if number >= done:
                    done, failures, timeouts = number + 1, 0, 0
                    yield member
            return
        except UnreachableError as error:
            failures, timeouts = failures + 1, timeouts + error.is_timeout
            if error.is_final or failures == ATTEMPTS or timeouts == SLOW_ATTEMPTS:
                # The cause may quote the URL with its secrets.
                raise UserError(
                    f"data: cannot read {without_secrets(url)} ({error.reason}); check that it "
                    "can be reached; continue a started run from its checkpoint with --resume"
                ) from None
        time.sleep(PAUSE * 2**failures)


def _members(url: str, largest: Callable[[str], int], patience: Patience) -> Iterator[Member]:
    file = RemoteFile(url, patience)
    try:
        if kind := compression_of(file.peek()[:8]):
            raise tarfile.ReadError(f"compressed with {kind}, unpack it")
        headers = TarHeaders(file)
        for header in headers:
            most = largest(header.name)
            problem = header.problem or describe_excess(header, most)
            if not most:
                problem = "not wanted"
            if problem is not None:
                yield Member(header.name, b"", problem)
                continue
            file.seek(header.offset)
            content = file.read(header.size)
            if len(content) < header.size:
                raise tarfile.ReadError("truncated")
            yield Member(header.name, content)
        # tarfile takes the first unreadable header for the end of the archive.
        if len(headers.latest) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("truncated, the mark of its end is missing")
        if headers.latest.strip(b"\0"):
            raise tarfile.ReadError("a damaged header")
        require_zeros(file)
    finally:
        file.close()
