"""Images in tar shards, as webdataset writes them, read from any place in any order."""

import io
import os
import re
from pathlib import Path

import numpy as np
from PIL import Image

from ...common.errors import UserError
from ..image_source import ImageSource, UnreadableImageError, listed, to_rgb
from ..images.folder import DECODING_ERRORS, SUFFIXES, reason_of, training_size
from .index import IMAGE_PARTS, NO_LABEL, PACKED, ShardIndex, index_shards
from .packed_strings import Keys

__all__ = ["ShardFiles", "ShardSource", "expanded", "find_shards"]

MEASURED = 256  # images that the usual size is found from

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


class ShardFiles:
    """Shards as they were when they were indexed.

    Args:
        shards: the files.
        indexes: of each of them.
    """

    def __init__(self, shards: list[Path], indexes: list[ShardIndex]) -> None:
        self.paths = shards
        self._stamps = np.stack([index.stamp for index in indexes])

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """So many bytes from this place.

        The file is opened each time: a small part of what decoding takes, and nothing that
        forked or spawned loader processes have to share or thousands of shards could exhaust.

        Raises:
            OSError: the shard is gone.
            ValueError: it has changed.
        """
        with self.paths[shard].open("rb", buffering=0) as file:
            stat = os.fstat(file.fileno())
            if [stat.st_size, stat.st_mtime_ns] != self._stamps[shard].tolist():
                raise ValueError("the shard has changed since it was indexed")
            file.seek(offset)
            return file.read(size)


class ShardSource(ImageSource):
    """The samples of uncompressed tar files, one row each, shard after shard.

    A sample is what shares a key: the path of a member up to the first dot of its base name. Its
    image is its part jpg, jpeg, png, webp, bmp, tif or tiff; its label an integer from 0, in cls,
    cls.txt or as `label` in json. A sample's id is a hash of its key, so that it is the same
    whatever shard it lies in.

    Where the shards' images lie is remembered by path, size and time of change of each shard.
    A damaged shard counts as far as it can be read; it is listed in `left_out`, as are samples
    without an image.

    Args:
        shards: the files.
        name: for messages. Default: the first shard's.
        indexes: of the shards, where they are known.

    Raises:
        UserError: a compressed shard, a key that occurs twice, no image, or none that can be read.
    """

    names: Keys

    def __init__(
        self,
        shards: list[Path],
        name: str | None = None,
        indexes: list[ShardIndex] | None = None,
    ) -> None:
        self._name = name or str(shards[0])
        indexes = index_shards(shards) if indexes is None else indexes
        self._files = ShardFiles(shards, indexes)
        self.ids = np.concatenate([index.ids for index in indexes])
        self.names = Keys.joined([index.keys for index in indexes])
        self.marks = np.concatenate([index.sizes for index in indexes])
        self._offsets = np.concatenate([index.offsets for index in indexes])
        counts = [len(index.ids) for index in indexes]
        self._shard_of = np.repeat(np.arange(len(shards), dtype=np.int32), counts)
        damaged = _damaged(shards, indexes)
        self.damaged = [f"{shard}: {reason}" for shard, reason in damaged]
        # Shards first: of them, an unknown number of samples is lost.
        self.left_out = damaged + [sample for index in indexes for sample in index.left_out]
        if not len(self.ids):
            raise UserError(
                f"data: no sample of {self._name} has a part {', '.join(IMAGE_PARTS)}"
                + self._told_left_out()
            )
        self._require_distinct()
        self.image_size = training_size(self._usual_side())
        labels = np.concatenate([index.labels for index in indexes])
        self._unlabelled = int((labels == NO_LABEL).sum())
        numbers, places = np.unique(labels, return_inverse=True)
        if not self._unlabelled and 2 <= len(numbers) < len(labels):
            self.labels = places.astype(np.int64)
            self.classes = [str(number) for number in numbers]

    def image(self, row: int) -> Image.Image:
        try:
            with Image.open(io.BytesIO(self._content(row))) as image:
                image.load()
                return to_rgb(image)
        except DECODING_ERRORS as error:
            name = f"{self._files.paths[self._shard_of[row]].name}: {self.names[row]}"
            raise UnreadableImageError(name, reason_of(error)) from error

    def describe(self) -> str:
        count = len(self._files.paths)
        text = f"{self._name}: {len(self):,} images in {count:,} shard{'s' * (count > 1)}"
        if self.classes is not None:
            text += f", with labels of {len(self.classes):,} classes"
        elif 0 < self._unlabelled < len(self):
            text += f", without labels: {self._unlabelled:,} of them have none"
        return text + self._told_left_out()

    def _content(self, row: int) -> bytes:
        """The encoded image."""
        return self._files.read(self._shard_of[row], self._offsets[row], self.marks[row])

    def _usual_side(self) -> float:
        """The median of the shorter side over a random part, the same however it is sharded."""
        rows = np.argsort(self.ids, kind="stable")[:MEASURED]
        sides, failure = [], ""
        for row in np.sort(rows):
            try:
                with Image.open(io.BytesIO(self._content(row))) as image:
                    sides.append(min(image.size))
            except DECODING_ERRORS as error:
                failure = failure or f"{self.names[row]}: {reason_of(error)}"
        if not sides:
            raise UserError(
                f"data: none of {len(rows):,} samples of {self._name} can be read as an image "
                f"(the first, {failure})"
            )
        return float(np.median(sides))

    def _require_distinct(self) -> None:
        order = np.argsort(self.ids, kind="stable")
        same = np.flatnonzero(self.ids[order[1:]] == self.ids[order[:-1]])
        if len(same):
            rows = order[same[0] : same[0] + 2]
            first, second = (self._files.paths[shard] for shard in self._shard_of[rows])
            raise UserError(
                f"data: {first} and {second} both have a sample {self.names[rows[0]]} "
                f"({len(same):,} such); keys must be distinct over all shards"
            )

    def _told_left_out(self) -> str:
        told = listed([f"{name}: {reason}" for name, reason in self.left_out])
        return told and f"; left out: {told}"


def find_shards(data: str | Path) -> list[Path] | None:
    """The shards that are meant, if any are.

    Args:
        data: a `.tar` file, a pattern of such with braces, as in `photos-{000..099}.tar` or
            `{train,val}-{0..9}.tar`, or a folder with such files that has neither sub-folders
            nor images.

    Returns:
        Files that exist, in the order of the pattern or of their names. None: something else.

    Raises:
        UserError: none of the pattern's shards is there, or some are not; or they are compressed.
    """
    pattern, path = str(data), Path(data)
    if os.path.isdir(path):  # where a pattern is too long to be a name, Path's would raise
        return _shards_in(path)
    if pattern.lower().endswith(PACKED):
        raise _packed(path)
    if path.suffix.lower() != ".tar":
        return None
    expected = [path] if os.path.exists(path) else [Path(name) for name in expanded(pattern)]
    missing = [shard for shard in expected if not shard.exists()]
    if len(missing) == len(expected):
        raise UserError(f"data: no shard matches {pattern}; give tar files on this machine")
    if missing:
        raise UserError(
            f"data: {len(missing):,} of the {len(expected):,} shards {pattern} are missing "
            f"(the first, {missing[0]}); complete them, or give a pattern of those that are there"
        )
    return expected


def _shards_in(folder: Path) -> list[Path] | None:
    shards, packed = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name.lower()
                if name.startswith("."):
                    continue
                if entry.is_dir() or name.endswith(SUFFIXES):
                    return None
                if name.endswith(".tar"):
                    shards.append(Path(entry.path))
                elif name.endswith(PACKED):
                    packed.append(Path(entry.path))
    except OSError:
        return None
    if packed:
        raise _packed(min(packed))
    return sorted(shards) or None


def _packed(path: Path) -> UserError:
    return UserError(
        f"data: {path} is compressed; unpack it: samples are read from any place in it"
    )


def expanded(pattern: str) -> list[str]:
    """Every name that a pattern stands for, the last braces varying fastest."""
    braces = _BRACES.search(pattern)
    if braces is None:
        return [pattern]
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    bounds = _RANGE.fullmatch(braces[1])
    choices = braces[1].split(",") if bounds is None else _numbers(*bounds.groups())
    return [name for choice in choices for name in expanded(before + choice + after)]


def _numbers(first: str, last: str) -> list[str]:
    padded = any(bound.startswith("0") and len(bound) > 1 for bound in (first, last))
    width = max(len(first), len(last)) if padded else 0
    return [f"{number:0{width}}" for number in range(int(first), int(last) + 1)]


def _damaged(shards: list[Path], indexes: list[ShardIndex]) -> list[tuple[str, str]]:
    return [
        (str(path), f"damaged ({index.damage}), only its first {len(index.ids):,} images are kept")
        for path, index in zip(shards, indexes, strict=True)
        if index.damage is not None
    ]
