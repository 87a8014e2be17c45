"""Open files at URLs with fsspec and read them from start to end, with a bound on every wait."""

import time
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from ...common.errors import UserError, shorten
from ...common.regular_files import open_regular_file
from .urls import redact

__all__ = ["Patience", "RemoteFile", "UnreachableError"]

# A block must arrive within the timeout, as must the answer to a request: 35 kB/s at least. A
# server that sends a byte now and then is thereby as good as one that sends none.
BLOCK = 1 << 20  # bytes
TIMEOUT = 30.0  # seconds

_CLIENT_ERRORS = range(400, 500)  # the same request would fail again, except for these:
_RETRIED = (408, 425, 429)  # timeout, too early, too many requests
_FINAL = (
    FileNotFoundError,
    ImportError,
    IsADirectoryError,
    NotADirectoryError,
    NotImplementedError,
    PermissionError,
    TypeError,
    ValueError,
)

T = TypeVar("T")


class UnreachableError(ConnectionError):
    """A file that cannot be opened or read.

    Attributes:
        reason: why, without the secrets of the URL.
        is_final: another attempt would fail in the same way.
        is_timeout: the server did not answer, or too slowly.
    """

    def __init__(self, reason: str, *, is_final: bool = False, is_timeout: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.is_final, self.is_timeout = reason, is_final, is_timeout


class Patience:
    """Limit the time for which streams are read without finding a sample.

    Args:
        seconds: the limit.
        message: what the error says.
    """

    def __init__(self, seconds: float, message: str) -> None:
        self._seconds, self._message = seconds, message
        self.restart()

    def restart(self) -> None:
        """Start to count anew: a sample was found, and its user may have waited with the next."""
        self._start = time.monotonic()

    def check(self) -> None:
        """Refuse to read on.

        Raises:
            UserError: the time is over.
        """
        if time.monotonic() - self._start > self._seconds:
            raise UserError(self._message)


class RemoteFile:
    """A file at a URL, read from start to end.

    Args:
        url: the address, of any file system that fsspec knows.
        patience: checked before each wait.

    Raises:
        UnreachableError: the file cannot be opened; `read` and `seek`: it cannot be read.
    """

    def __init__(self, url: str, patience: Patience) -> None:
        self._url, self._patience = url, patience
        self._block, self._used, self._position = b"", 0, 0
        self._error: Exception | None = None
        self._file: Any = None
        self._is_late = False
        self._file = self._wait_for(lambda: _open(url), "no answer")

    def read(self, size: int, /) -> bytes:
        """Read `size` bytes, or fewer at the end of the file."""
        pieces, left = [], size
        while left and (piece := self._take(left)):
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def seek(self, position: int, /) -> None:
        """Go forward to a position, or to the end of the file."""
        while self._position < position and self._take(position - self._position):
            pass

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def peek(self) -> bytes:
        """Return the next bytes, at least one unless the file ends here, and stay before them."""
        if self._used == len(self._block):
            self._block, self._used = self._next_block(), 0
        return self._block[self._used :]

    def close(self) -> None:
        """Close the file."""
        if not self._is_late:
            _close(self._file)

    def _take(self, most: int) -> bytes:
        """Return the next bytes: at least one and at most `most`, or none at the end."""
        piece = self.peek()[:most]
        self._used += len(piece)
        self._position += len(piece)
        return piece

    def _next_block(self) -> bytes:
        if self._error is None:
            slow = f"less than {BLOCK:,} bytes"
            block, self._error = self._wait_for(lambda: _read_block(self._file), slow)
            if block or self._error is None:
                return block
        raise _explain(self._error, self._url, self._position) from None

    def _wait_for(self, function: Callable[[], T], missing: str) -> T:
        self._patience.check()
        try:
            return _run_within(TIMEOUT, function)
        except _LateError:
            self._is_late = True
            # Closing may wait for the read that is under way.
            Thread(target=_close, args=(self._file,), daemon=True).start()
            reason = f"{missing} within {TIMEOUT:.3g} s"
            raise UnreachableError(reason, is_timeout=True) from None
        except Exception as error:
            raise _explain(error, self._url) from None


class _LateError(Exception):
    """The time is over."""


def _run_within(seconds: float, function: Callable[[], T]) -> T:
    """Run a function that may block in a thread, which is left behind if it takes longer."""
    results: list[T] = []
    errors: list[BaseException] = []
    late = Event()

    def work() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)
        if late.is_set() and results:
            _close(results[0])

    thread = Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        late.set()
        raise _LateError
    if errors:
        raise errors[0]
    return results[0]


def _open(url: str) -> Any:
    scheme = url.partition("://")[0].lower()
    if scheme == "file":
        return open_regular_file(url2pathname(urlsplit(url).path))
    from fsspec import get_filesystem_class

    kind = get_filesystem_class(scheme)
    if scheme not in ("http", "https"):
        system = kind(**kind._get_kwargs_from_urls(url))
        return system.open(kind._strip_protocol(url), "rb", block_size=BLOCK)
    from aiohttp import ClientTimeout

    # fsspec's defaults end every request after 5 minutes, ignore proxies, and rewrite escapes,
    # which breaks signed URLs. Escape here what is not escaped yet, and nothing else.
    timeout = ClientTimeout(total=None, sock_connect=TIMEOUT, sock_read=TIMEOUT)
    settings = {"timeout": timeout, "trust_env": True, "requote_redirect_url": False}
    escaped = quote(url, safe="%/:=&?~#+!$,;'@()*[]|")
    system = kind(encoded=True, client_kwargs=settings)
    # Size 0 of blocks is one request for all, because many servers cannot send parts. With any
    # size of the file, fsspec does not ask for it first, which servers refuse for signed URLs,
    # and which hides why a request failed.
    return system.open(escaped, "rb", block_size=0, size=1)


def _read_block(file: Any) -> tuple[bytes, Exception | None]:
    """Read a block, or what precedes an error.

    aiohttp drops what it has received but not handed out when a connection is lost, at most
    some 100 kB. The next attempt reads these bytes again.
    """
    pieces, left = [], BLOCK
    try:
        while left and (piece := file.read(left)):
            pieces.append(piece)
            left -= len(piece)
    except Exception as error:
        return b"".join(pieces), error
    return b"".join(pieces), None


def _close(file: Any) -> None:
    with suppress(Exception):
        file.close()


def _explain(error: Exception, url: str, position: int = 0) -> UnreachableError:
    """Convert any error of a file system; `position` is where reading stopped."""
    if isinstance(error, UnreachableError):
        return error
    if isinstance(error, TimeoutError):
        return UnreachableError(f"no answer within {TIMEOUT:.3g} s", is_timeout=True)
    scheme, status = url.partition("://")[0].lower(), _status_of(error)
    if isinstance(error, ImportError):
        package = "pip install 'sogclr[remote]'"
        return UnreachableError(f"{scheme}:// needs a package: {package}", is_final=True)
    if type(error).__name__ == "ClientPayloadError":  # of aiohttp; its text is about encodings
        reason = "connection lost"
    elif isinstance(error, FileNotFoundError) and not error.strerror:
        reason = "404 Not Found" if scheme.startswith("http") else "not found"
    elif status is not None and hasattr(error, "message"):
        reason = f"{status} {error.message}"
    else:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    is_final = isinstance(error, _FINAL) or scheme == "file"
    if status is not None:
        is_final = status in _CLIENT_ERRORS and status not in _RETRIED
    where = f", at byte {position:,}" if position else ""
    return UnreachableError(shorten(redact(reason, url)) + where, is_final=is_final)


def _status_of(error: Exception) -> int | None:
    """Find the status of the server's answer in an error of aiohttp, gcsfs or huggingface_hub."""
    if hasattr(error, "status"):
        status = error.status
    elif hasattr(error, "response"):
        status = getattr(error.response, "status_code", None)
    else:
        status = getattr(error, "code", None)
    return int(status) if str(status).isdecimal() else None
