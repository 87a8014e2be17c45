"""Images in tar shards in webdataset's layout, read in random order."""

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from ...common.errors import UserError
from ...common.regular_files import open_regular_file
from ..decode import (
    DECODING_ERRORS,
    UnreadableImageError,
    decode_image,
    read_header,
    reason_of,
    training_size,
)
from ..image_source import NO_LABEL, ImageSource, summarize
from .index import IMAGE_PARTS, ShardIndex, index_shards
from .packed_strings import Keys

__all__ = ["ShardFiles", "ShardSource"]

MEASURED = 256  # images that the median size is computed from


class ShardFiles:
    """Read bytes from shards that are unchanged since they were indexed.

    Args:
        shards: the files.
        indexes: the index of each file.
    """

    def __init__(self, shards: list[Path], indexes: list[ShardIndex]) -> None:
        self.paths = shards
        self._stamps = np.stack([index.stamp for index in indexes])

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """Read `size` bytes at `offset` from a shard.

        The file is opened anew each time. That takes a small part of the time of decoding, needs
        no handles shared with loader processes, and works with thousands of shards.

        Args:
            shard: number of the shard.
            offset: first byte.
            size: number of bytes.

        Raises:
            OSError: the shard is missing.
            ValueError: the shard has changed.
        """
        with open_regular_file(self.paths[shard], buffering=0) as file:
            stat = os.fstat(file.fileno())
            if [stat.st_size, stat.st_mtime_ns] != self._stamps[shard].tolist():
                raise ValueError("the shard has changed since it was indexed")
            file.seek(offset)
            return file.read(size)


class ShardSource(ImageSource):
    """The samples of uncompressed tar files, shard after shard.

    The members that share a key are one sample. The key is a member's path up to the first dot of
    its base name; the rest of the name is the part. A sample's image is the part jpg, jpeg, png,
    webp, bmp, tif, tiff or gif. Its label is an integer from 0 in the part cls or cls.txt, or
    `label` in the part json. The sample id is a hash of the key, and so independent of the shard.

    The index of each shard is cached by path, size and time of change. A damaged shard keeps the
    samples before the damage; the shard and all samples without an image are in `left_out`.

    Args:
        shards: the files.
        name: what messages call the data. Default: the first shard's path.
        indexes: the shards' indexes, if they exist already.

    Raises:
        UserError: a shard is compressed, a key occurs twice, or no image can be read.
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
        # Shards come first, because each of them lost an unknown number of samples.
        self.left_out = damaged + [sample for index in indexes for sample in index.left_out]
        if not len(self.ids):
            raise UserError(
                f"data: no sample of {self._name} has a part {', '.join(IMAGE_PARTS)}"
                + self._describe_left_out()
            )
        self._require_distinct()
        self.image_size = training_size(self._median_side())
        labels = np.concatenate([index.labels for index in indexes])
        labelled = labels != NO_LABEL
        self._unlabelled = int((~labelled).sum())
        numbers = np.unique(labels[labelled])
        if 2 <= len(numbers) < labelled.sum():
            self.labels = np.where(labelled, np.searchsorted(numbers, labels), NO_LABEL)
            self.classes = [str(number) for number in numbers]

    def image(self, row: int) -> Image.Image:
        try:
            return decode_image(io.BytesIO(self._content(row)))
        except DECODING_ERRORS as error:
            name = f"{self._files.paths[self._shard_of[row]].name}: {self.names[row]}"
            raise UnreadableImageError(name, reason_of(error)) from error

    def describe(self) -> str:
        count = len(self._files.paths)
        text = f"{self._name}: {len(self):,} images in {count:,} shard{'s' * (count > 1)}"
        if self.classes is not None:
            text += f", with labels of {len(self.classes):,} classes"
            text += f", {self._unlabelled:,} have no label" if self._unlabelled else ""
        elif 0 < self._unlabelled < len(self):
            text += f", without labels: {self._unlabelled:,} of them have none"
        return text + self._describe_left_out()

    def _content(self, row: int) -> bytes:
        """Return the encoded image."""
        return self._files.read(self._shard_of[row], self._offsets[row], self.marks[row])

    def _median_side(self) -> float:
        """Return the median shorter side of some images, chosen independently of the shards."""
        rows = np.argsort(self.ids, kind="stable")[:MEASURED]
        sides, failure = [], ""
        for row in np.sort(rows):
            try:
                header = read_header(io.BytesIO(self._content(row)))
                sides.append(min(header.width, header.height))
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

    def _describe_left_out(self) -> str:
        left_out = summarize([f"{name}: {reason}" for name, reason in self.left_out])
        return left_out and f"; left out: {left_out}"


def _damaged(shards: list[Path], indexes: list[ShardIndex]) -> list[tuple[str, str]]:
    """List `(path, reason)` of the damaged shards."""
    return [
        (str(path), f"damaged ({index.damage}), only its first {len(index.ids):,} images are kept")
        for path, index in zip(shards, indexes, strict=True)
        if index.damage is not None
    ]
