"""Image files: headers checked; and folders of them: found, and labelled by sub-folder."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import numpy as np
from PIL import Image

from ...common.cache import cache_folder
from ...common.console import track
from ...common.errors import UserError
from ..image_source import ImageSource, UnreadableImageError, stable_id, to_rgb

__all__ = [
    "DECODING_ERRORS",
    "SUFFIXES",
    "FolderSource",
    "ImageFiles",
    "reason_of",
    "training_size",
]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")

# What Pillow raises for damaged files, by format and kind of damage.
DECODING_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class ImageFiles(ImageSource):
    """Image files below a folder, by their relative paths.

    A sample's id is a hash of its path, so that the folder may move and grow. Headers are read
    once and remembered by path, size and time of change; files whose header cannot be read are
    left out and listed in `left_out`.

    Args:
        root: the folder.
        names: paths relative to it (or absolute), with forward slashes, without repetition.
    """

    def __init__(self, root: Path, names: list[str]) -> None:
        headers = _check_headers(root, names)
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
            with Image.open(self._root / name) as image:
                image.load()
                return to_rgb(image)
        except DECODING_ERRORS as error:
            raise UnreadableImageError(name, reason_of(error)) from error

    def describe(self) -> str:
        return f"{self._root}: {len(self):,} images" + self._left_out()

    def _left_out(self) -> str:
        if not self.left_out:
            return ""
        listed = "; ".join(f"{name}: {reason}" for name, reason in self.left_out[:5])
        return f"; {len(self.left_out):,} unreadable files left out ({listed})"


class FolderSource(ImageFiles):
    """Every JPEG, PNG and WebP file below a folder, in the order of their relative paths.

    If all files lie in two or more sub-folders, the first level of them is the label.

    Args:
        root: the folder.

    Raises:
        UserError: no such folder, no images in it, or none that can be read.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            what = "is not a folder" if root.exists() else "does not exist"
            raise UserError(f"data: {root} {what}; give a folder of images, or the name digits")
        found = sorted(_image_files(root))
        if not found:
            raise UserError(f"data: no {', '.join(SUFFIXES)} files in {root} or its sub-folders")
        super().__init__(root, found)
        if not self.names:
            name, reason = self.left_out[0]
            raise UserError(
                f"data: none of the {len(found):,} files in {root} can be read as an image "
                f"(the first, {name}: {reason})"
            )
        self.labels, self.classes = _labels(self.names)

    def describe(self) -> str:
        text = f"{self._root}: {len(self):,} images"
        if self.classes is not None:
            shown = ", ".join(self.classes[:4]) + (", ..." if len(self.classes) > 4 else "")
            text += f" in {len(self.classes)} sub-folders, taken as labels ({shown})"
        return text + self._left_out()


class _Header:
    """What is known of a file without decoding it; `reason` says why it cannot be read."""

    __slots__ = ("bytes", "height", "reason", "time", "width")

    def __init__(self, bytes: int, time: int, width: int, height: int, reason: str | None) -> None:
        self.bytes, self.time, self.width, self.height = bytes, time, width, height
        self.reason = reason

    def as_list(self) -> list[int | str | None]:
        return [self.bytes, self.time, self.width, self.height, self.reason]


def _image_files(root: Path) -> Iterator[str]:
    """Relative paths, with forward slashes on every system; links to folders are followed."""
    seen = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        subfolders[:] = [s for s in subfolders if not s.startswith((".", "__MACOSX"))]
        if real in seen:  # a link that leads back up would never end
            subfolders.clear()
            continue
        seen.add(real)
        relative = os.path.relpath(folder, root).replace(os.sep, "/")
        prefix = "" if relative == "." else relative + "/"
        for file in files:
            if file.lower().endswith(SUFFIXES) and not file.startswith("."):
                yield prefix + file


def _check_headers(root: Path, names: list[str]) -> dict[str, _Header]:
    cache = _cache_file(root)
    known: dict[str, list] = {}
    with suppress(OSError, ValueError):
        known = json.loads(cache.read_text())
    headers = {}
    read = 0
    for name in track(names, "checking image headers"):
        path = root / name
        try:
            stat = path.stat()
        except OSError as error:
            headers[name] = _Header(0, 0, 0, 0, reason_of(error))
            continue
        before = known.get(name)
        # Failures are tried again: permissions and network shares come back.
        if before and before[4] is None and before[:2] == [stat.st_size, stat.st_mtime_ns]:
            headers[name] = _Header(*before)
        else:
            headers[name] = _read_header(path, stat.st_size, stat.st_mtime_ns)
            read += 1
    if read:
        # Only a convenience: a read-only home is no reason to stop.
        with suppress(OSError):
            cache.parent.mkdir(parents=True, exist_ok=True)
            temporary = cache.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps({n: h.as_list() for n, h in headers.items()}))
            temporary.replace(cache)
    return headers


def _read_header(path: Path, bytes: int, time: int) -> _Header:
    try:
        with Image.open(path) as image:
            return _Header(bytes, time, *image.size, None)
    except DECODING_ERRORS as error:
        return _Header(bytes, time, 0, 0, reason_of(error))


def _cache_file(root: Path) -> Path:
    key = blake2b(os.fsencode(root.resolve()), digest_size=8).hexdigest()
    return cache_folder() / "headers" / f"{key}.json"


def reason_of(error: BaseException) -> str:
    """Why an image cannot be read, in few words."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__


def _labels(names: Sequence[str]) -> tuple[np.ndarray | None, list[str] | None]:
    tops = [name.split("/", 1)[0] if "/" in name else None for name in names]
    classes = sorted({top for top in tops if top is not None})
    if None in tops or not 2 <= len(classes) < len(names):
        return None, None
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[top] for top in tops if top is not None], dtype=np.int64), classes


def training_size(side: float) -> int:
    """The usual shorter side, to a multiple of 8 above 32 (strides divide it), 224 at most."""
    size = min(int(side), 224)
    return size if size <= 32 else size // 8 * 8
