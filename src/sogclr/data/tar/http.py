"""Tar shards that are read once, from start to end, by URL."""

import re
import tarfile
import time
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from ...common.errors import UserError
from .images import expanded

__all__ = ["is_url", "members", "require_readable_anywhere", "shown", "urls_of"]

SCHEMES = ("https", "http", "file")
# How often a place in a shard is asked for, seconds before it is again, and to wait for an answer.
ATTEMPTS, PAUSE, TIMEOUT = 5, 1.0, 60.0

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_LOST = (OSError, HTTPException)
_FINAL = range(400, 500)  # what a server says of the request; but for these:
_LATER = (408, 425, 429)


def is_url(data: object) -> bool:
    """Whether it is one, or a pattern of such."""
    return isinstance(data, str) and _URL.match(data) is not None


def require_readable_anywhere(data: object) -> None:
    """Refuse a stream where samples are read in any order.

    Raises:
        UserError: it is one.
    """
    if isinstance(data, str) and is_url(data):
        raise UserError(
            f"data: {shown(data)} is a stream, which only sogclr pretrain and align train on; "
            "here samples are read in any order: give a folder or shards on this machine"
        )


def urls_of(pattern: str) -> list[str]:
    """Every URL that a pattern with braces stands for, see `sogclr.data.tar.images.find_shards`.

    Raises:
        UserError: of a kind that is not read here.
    """
    scheme = pattern.partition("://")[0].lower()
    if scheme not in SCHEMES:
        raise UserError(
            f"data: {scheme}:// is not read here; give shards by https:// (as object stores offer "
            "them), http:// or file://, or on a mounted file system"
        )
    return expanded(pattern)


def shown(url: str) -> str:
    """For messages: without what grants access."""
    return url.partition("?")[0]


def members(url: str) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files in a tar, in order.

    Where the connection is lost it is made anew, and what was there already is passed over.

    Raises:
        UserError: it cannot be read, now or at all.
        tarfile.TarError: it is damaged; what lies before the damage has been there.
    """
    done = failures = 0
    while True:
        try:
            for number, member in enumerate(_members(url)):
                if number >= done:
                    done, failures = number + 1, 0
                    yield member
            return
        except _LOST as error:
            if isinstance(error, HTTPError):
                error.close()  # it has the response
            failures += 1
            if failures == ATTEMPTS or _is_final(url, error):
                raise UserError(
                    f"data: cannot read {shown(url)} ({_reason(error)}); see that it can be "
                    "reached; a run that has begun goes on from its checkpoint with --resume"
                ) from error
        time.sleep(PAUSE * 2**failures)


def _members(url: str) -> Iterator[tuple[str, bytes]]:
    with urlopen(url, timeout=TIMEOUT) as response:
        file = _Forward(response)
        # To the types it needs to be more of a file than the library makes use of.
        with tarfile.open(fileobj=file, mode="r:") as archive:  # type: ignore[call-overload]
            while (member := archive.next()) is not None:
                # It would keep them all, a kilobyte each.
                archive.members.clear()
                if member.isfile():
                    file.seek(member.offset_data)
                    content = file.read(member.size)
                    if len(content) < member.size:
                        raise tarfile.ReadError("it breaks off")
                    yield member.name, content
        # The library takes the first header that it cannot read for the end.
        if len(file.latest) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it breaks off, its end is not marked")
        if file.latest.strip(b"\0"):
            raise tarfile.ReadError("a header in it is damaged")


class _Forward:
    """What the library wants of a file, over a response that can only be read on.

    Attributes:
        latest: what was read last.
    """

    def __init__(self, response: Any) -> None:
        self.response, self.position, self.latest = response, 0, b""
        length = response.headers.get("Content-Length")
        self.length = None if length is None else int(length)

    def read(self, size: int) -> bytes:
        """So many bytes, or what there is before the end.

        Raises:
            ConnectionError: the response ends before its end.
        """
        parts, left = [], size
        while left and (part := self.response.read(left)):
            parts.append(part)
            left -= len(part)
        self.latest = b"".join(parts)
        self.position += len(self.latest)
        if left and self.length is not None and self.position < self.length:
            raise ConnectionError(f"it broke off at byte {self.position:,} of {self.length:,}")
        return self.latest

    def seek(self, position: int) -> None:
        while self.position < position and self.read(min(position - self.position, 1 << 20)):
            pass

    def tell(self) -> int:
        return self.position


def _is_final(url: str, error: BaseException) -> bool:
    """Whether it would be the same a second later."""
    if isinstance(error, HTTPError):
        return error.code in _FINAL and error.code not in _LATER
    return url.lower().startswith("file:")


def _reason(error: BaseException) -> str:
    if isinstance(error, HTTPError):
        return f"{error.code} {error.reason}"
    reason = getattr(error, "reason", error)
    return getattr(reason, "strerror", None) or str(reason) or type(error).__name__
