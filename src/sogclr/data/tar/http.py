"""Read tar shards at URLs, from start to end, across lost connections."""

import re
import tarfile
import time
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from ...common.errors import UserError
from .patterns import expand_braces

__all__ = ["expand_urls", "is_url", "read_members", "require_random_access", "without_query"]

SCHEMES = ("https", "http", "file")
ATTEMPTS = 5  # to read on from the same place in a shard
PAUSE = 1.0  # seconds, doubled before each attempt
TIMEOUT = 60.0  # seconds to wait for an answer

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_CONNECTION_ERRORS = (OSError, HTTPException)
_CLIENT_ERRORS = range(400, 500)  # the same request would fail again, except for these:
_RETRIED = (408, 425, 429)  # timeout, too early, too many requests


def is_url(data: object) -> bool:
    """Tell whether `data` is a URL, or a pattern of URLs."""
    return isinstance(data, str) and _URL.match(data) is not None


def require_random_access(data: object) -> None:
    """Refuse a stream, for callers that read samples in random order.

    Raises:
        UserError: `data` is a URL.
    """
    if isinstance(data, str) and is_url(data):
        raise UserError(
            f"data: {without_query(data)} is a stream, which only sogclr pretrain and align train "
            "on; here samples are read in random order: give a folder or shards on this machine"
        )


def expand_urls(pattern: str) -> list[str]:
    """List every URL that a pattern with braces stands for.

    Args:
        pattern: see `sogclr.data.tar.patterns.expand_braces`.

    Raises:
        UserError: the scheme is not https, http or file.
    """
    scheme = pattern.partition("://")[0].lower()
    if scheme not in SCHEMES:
        raise UserError(
            f"data: {scheme}:// is not read here; give shards by https:// (as object stores offer "
            "them), http:// or file://, or on a mounted file system"
        )
    return expand_braces(pattern)


def without_query(url: str) -> str:
    """Remove the query, which may hold an access token, from a URL for messages."""
    return url.partition("?")[0]


def read_members(url: str) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each file in a tar archive, in order.

    A lost connection is opened again, and members that were read already are skipped.

    Args:
        url: address of the archive.

    Raises:
        UserError: the archive cannot be read, even after several attempts.
        tarfile.TarError: the archive is damaged. The members before the damage were yielded.
    """
    done = failures = 0
    while True:
        try:
            for number, member in enumerate(_members(url)):
                if number >= done:
                    done, failures = number + 1, 0
                    yield member
            return
        except _CONNECTION_ERRORS as error:
            if isinstance(error, HTTPError):
                error.close()  # the error holds the open response
            failures += 1
            if failures == ATTEMPTS or _is_final(url, error):
                raise UserError(
                    f"data: cannot read {without_query(url)} ({_reason(error)}); check that it can "
                    "be reached; continue a started run from its checkpoint with --resume"
                ) from error
        time.sleep(PAUSE * 2**failures)


def _members(url: str) -> Iterator[tuple[str, bytes]]:
    with urlopen(url, timeout=TIMEOUT) as response:
        file = _ForwardFile(response)
        # The type stubs ask for more methods than tarfile uses.
        with tarfile.open(fileobj=file, mode="r:") as archive:  # type: ignore[call-overload]
            while (member := archive.next()) is not None:
                # tarfile would keep all members, a kilobyte each.
                archive.members.clear()
                if member.isfile():
                    file.seek(member.offset_data)
                    content = file.read(member.size)
                    if len(content) < member.size:
                        raise tarfile.ReadError("truncated")
                    yield member.name, content
        # tarfile treats the first unreadable header as the end of the archive.
        if len(file.latest) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("truncated, the mark of its end is missing")
        if file.latest.strip(b"\0"):
            raise tarfile.ReadError("a damaged header")


class _ForwardFile:
    """The file methods that tarfile calls, on a response that cannot seek back.

    Args:
        response: an open response of `urlopen`.

    Attributes:
        latest: the bytes of the last read.
    """

    def __init__(self, response: Any) -> None:
        self.response, self.position, self.latest = response, 0, b""
        length = response.headers.get("Content-Length")
        self.length = None if length is None else int(length)

    def read(self, size: int) -> bytes:
        """Read `size` bytes, or fewer at the end.

        Raises:
            ConnectionError: the response ended before its announced length.
        """
        parts, left = [], size
        while left and (part := self.response.read(left)):
            parts.append(part)
            left -= len(part)
        self.latest = b"".join(parts)
        self.position += len(self.latest)
        if left and self.length is not None and self.position < self.length:
            raise ConnectionError(f"connection lost at byte {self.position:,} of {self.length:,}")
        return self.latest

    def seek(self, position: int) -> None:
        while self.position < position and self.read(min(position - self.position, 1 << 20)):
            pass

    def tell(self) -> int:
        return self.position


def _is_final(url: str, error: BaseException) -> bool:
    """Tell whether another attempt would fail in the same way."""
    if isinstance(error, HTTPError):
        return error.code in _CLIENT_ERRORS and error.code not in _RETRIED
    return url.lower().startswith("file:")


def _reason(error: BaseException) -> str:
    if isinstance(error, HTTPError):
        return f"{error.code} {error.reason}"
    reason = getattr(error, "reason", error)
    return getattr(reason, "strerror", None) or str(reason) or type(error).__name__
