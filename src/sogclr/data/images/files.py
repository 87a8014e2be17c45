"""Image files by their paths: headers are checked before training and cached."""

import json
import os
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ...common.cache import cache_folder
from ...common.console import track
from ..decode import DECODING_ERRORS, UnreadableImageError, decode_image, reason_of, training_size
from ..image_source import ImageSource
from ..randomness import stable_id

__all__ = ["ImageFiles"]


class ImageFiles(ImageSource):
    """Image files below a folder, by their relative paths.

    A sample's id is a hash of its relative path, so that the folder may move and grow. A header is
    read again only if the file's size or time of change differs from the cache. Files with an
    unreadable header are left out and listed in `left_out`.

    Args:
        root: the folder.
        names: distinct paths with forward slashes, relative to `root` (or absolute).
    """

    def __init__(self, root: Path, names: list[str]) -> None:
        headers = _read_headers(root, names)
        self._root = root
        self.names = [name for name in names if headers[name].reason is None]
        self.left_out = [(n, h.reason) for n, h in headers.items() if h.reason is not None]
        self.damaged = [f"{name}: {reason}" for name, reason in self.left_out]
        self.ids = np.array([stable_id(name) for name in self.names], dtype=np.uint64)
        self.marks = np.array([headers[name].bytes for name in self.names], dtype=np.int64)
        sides = [min(headers[name].width, headers[name].height) for name in self.names]
        self.image_size = training_size(float(np.median(sides))) if sides else 0

    def image(self, row: int) -> Image.Image:
        name = self.names[row]
        try:
            return decode_image(self._root / name)
        except DECODING_ERRORS as error:
            raise UnreadableImageError(name, reason_of(error)) from error

    def describe(self) -> str:
        return f"{self._root}: {len(self):,} images" + self._describe_left_out()

    def _describe_left_out(self) -> str:
        if not self.left_out:
            return ""
        first = "; ".join(f"{name}: {reason}" for name, reason in self.left_out[:5])
        return f"; {len(self.left_out):,} unreadable files left out ({first})"


class _Header(NamedTuple):
    """Size and time of change of a file, size of its image, and why it cannot be read, if so.

    The cache holds the fields in this order.
    """

    bytes: int
    changed: int
    width: int
    height: int
    reason: str | None


def _read_headers(root: Path, names: list[str]) -> dict[str, _Header]:
    """Return the header of each name, from the cache where the file is unchanged."""
    cache = _cache_file(root)
    cached: dict[str, list] = {}
    with suppress(OSError, ValueError):
        cached = json.loads(cache.read_text())
    headers = {}
    read = 0
    for name in track(names, "checking image headers"):
        path = root / name
        try:
            stat = path.stat()
        except OSError as error:
            headers[name] = _Header(0, 0, 0, 0, reason_of(error))
            continue
        before = cached.get(name)
        # Failures are retried: permissions and network shares may be restored.
        if before and before[4] is None and before[:2] == [stat.st_size, stat.st_mtime_ns]:
            headers[name] = _Header(*before)
        else:
            headers[name] = _read_header(path, stat.st_size, stat.st_mtime_ns)
            read += 1
    if read:
        _write_cache(headers, cache)
    return headers


def _read_header(path: Path, bytes: int, changed: int) -> _Header:
    try:
        with Image.open(path) as image:
            return _Header(bytes, changed, *image.size, None)
    except DECODING_ERRORS as error:
        return _Header(bytes, changed, 0, 0, reason_of(error))


def _write_cache(headers: dict[str, _Header], cache: Path) -> None:
    # The cache is optional: ignore a read-only home folder.
    with suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        temporary = cache.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(headers))
        temporary.replace(cache)


def _cache_file(root: Path) -> Path:
    key = blake2b(os.fsencode(root.resolve()), digest_size=8).hexdigest()
    return cache_folder() / "headers" / f"{key}.json"
