"""Image files by their paths: headers are checked before training and cached."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ...common.cache import cache_folder
from ...common.console import track
from ...common.regular_files import require_regular
from ...common.whole_files import replace_file
from ..decode import (
    DECODING_ERRORS,
    UnreadableImageError,
    decode_image,
    read_header,
    reason_of,
    training_size,
)
from ..image_source import ImageSource
from ..randomness import stable_id

__all__ = ["FileHeader", "ImageFiles", "read_headers"]

# Part of the cache's file name. Increase it whenever other files become readable, or `FileHeader`
# changes, so that an old cache is not read.
_EDITION = 2


class FileHeader(NamedTuple):
    """What is known of a file before its image is decoded. The cache holds the fields in order.

    Attributes:
        bytes, changed: size of the file, and its time of change in nanoseconds.
        width, height: sides of its image in pixels.
        own: whether this package wrote the image.
        reason: why the file cannot be read, or None.
    """

    bytes: int
    changed: int
    width: int
    height: int
    own: bool
    reason: str | None


class ImageFiles(ImageSource):
    """Image files below a folder, by their relative paths.

    A sample's id is a hash of its relative path, so that the folder may move and grow. A header is
    read again only if the file's size or time of change differs from the cache. Files with an
    unreadable header are left out and listed in `left_out`.

    Args:
        root: the folder.
        names: distinct paths with forward slashes, relative to `root` (or absolute).
        headers: the files' headers, if they were read already.
    """

    def __init__(
        self, root: Path, names: Sequence[str], headers: Mapping[str, FileHeader] | None = None
    ) -> None:
        headers = read_headers(root, names) if headers is None else headers
        self._root = root
        self.names = [name for name in names if headers[name].reason is None]
        reasons = [(name, headers[name].reason) for name in names]
        self.left_out = [(name, reason) for name, reason in reasons if reason is not None]
        self.damaged: list[str] = [f"{name}: {reason}" for name, reason in self.left_out]
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

    def file(self, row: int) -> Path:
        return self._root / self.names[row]

    def describe(self) -> str:
        return f"{self._root}: {len(self):,} images" + self._describe_left_out()

    def _describe_left_out(self) -> str:
        if not self.left_out:
            return ""
        first = "; ".join(f"{name}: {reason}" for name, reason in self.left_out[:5])
        return f"; {len(self.left_out):,} unreadable files left out ({first})"


def read_headers(root: Path, names: Sequence[str]) -> dict[str, FileHeader]:
    """Return the header of each name, from the cache where the file is unchanged."""
    cache = _cache_file(root)
    cached = _read_cache(cache)
    headers = {}
    read = 0
    for name in track(names, "checking image headers"):
        path = root / name
        try:
            status = path.stat()
            require_regular(status, path)
        except (OSError, ValueError) as error:  # ValueError: the name has a null character
            headers[name] = FileHeader(0, 0, 0, 0, False, reason_of(error))
            continue
        before = cached.get(name)
        # Try unreadable files again: permissions and network shares may be restored.
        if before and before[-1] is None and before[:2] == [status.st_size, status.st_mtime_ns]:
            headers[name] = FileHeader(*before)
        else:
            headers[name] = _read_header(path, status)
            read += 1
    if read:
        _write_cache(headers, cache)
    return headers


def _read_header(path: Path, status: os.stat_result) -> FileHeader:
    stamp = (status.st_size, status.st_mtime_ns)
    try:
        image = read_header(path)
        return FileHeader(*stamp, image.width, image.height, image.own, None)
    except DECODING_ERRORS as error:
        return FileHeader(*stamp, 0, 0, False, reason_of(error))


def _read_cache(cache: Path) -> dict[str, list]:
    """Return the cached headers of all names; none if the file is missing or damaged."""
    try:
        cached = json.loads(cache.read_text())
        fields = len(FileHeader._fields)
        return {name: list(header) for name, header in cached.items() if len(header) == fields}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _write_cache(headers: dict[str, FileHeader], cache: Path) -> None:
    # The cache is optional: ignore a read-only home folder.
    with suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(headers)
        replace_file(cache, lambda path: path.write_text(text, encoding="utf-8"))


def _cache_file(root: Path) -> Path:
    name = f"{_EDITION} ".encode() + os.fsencode(root.resolve())
    key = blake2b(name, digest_size=8).hexdigest()
    return cache_folder() / "headers" / f"{key}.json"
