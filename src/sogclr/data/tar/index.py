"""Index a tar shard: find images, labels and captions in one pass over its headers; cached."""

import json
import os
import tarfile
import zipfile
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...common.cache import cache_folder
from ...common.console import track
from ...common.errors import UserError
from ...common.regular_files import open_regular_file, require_regular
from ...common.whole_files import replace_file
from ..decode import SUFFIXES, reason_of
from ..image_source import NO_LABEL
from ..randomness import stable_id
from ..texts import SINGLE, captions_in
from .headers import (
    LARGEST_IMAGE,
    LARGEST_TEXT,
    Header,
    compression_of,
    describe_excess,
    read_headers,
)
from .packed_strings import Keys
from .patterns import compressed_shard

__all__ = [
    "CAPTION",
    "CAPTION_PARTS",
    "IMAGE_PARTS",
    "ShardIndex",
    "index_shard",
    "index_shards",
    "key_and_part",
]

# Parts that are images; if a sample has several, the first in this order counts.
IMAGE_PARTS = tuple(suffix.removeprefix(".") for suffix in SUFFIXES)
LABEL_PARTS = ("cls", "cls.txt", "json")
CAPTION_PARTS = ("txt", "json")

# A caption: hash of its text; row of its sample; first byte and size of the part that holds it;
# its number in the part (`SINGLE` if the part is one caption); its length in characters.
_PLACE = [("offset", "i8"), ("size", "i8"), ("number", "i4"), ("length", "i4")]
CAPTION = np.dtype([("id", "u8"), ("row", "i8"), *_PLACE])

# Part of the cache's file name. Increase it whenever the contents of an index change.
_EDITION = 4

_DAMAGE = (OSError, tarfile.TarError, ValueError)


@dataclass(frozen=True)
class ShardIndex:
    """The samples of one shard that have an image, in the shard's order.

    Attributes:
        stamp: `(2,)` int64, the file's size in bytes and its time of change.
        ids: `(n,)` uint64 sample ids, hashes of the keys.
        offsets: `(n,)` int64, first byte of each image.
        sizes: `(n,)` int64, bytes of each image.
        labels: `(n,)` int64, `NO_LABEL` if a sample has none.
        keys: n strings.
        captions: `(m,)` of dtype `CAPTION`, sample after sample.
        left_out: `(key, reason)` of each sample without an image.
        damage: why the shard cannot be read to its end, or None.
    """

    stamp: np.ndarray
    ids: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    keys: Keys
    captions: np.ndarray
    left_out: list[tuple[str, str]]
    damage: str | None = None


@dataclass(slots=True)
class _Sample:
    """The parts of one sample, by name.

    Attributes:
        images: `(offset, size)` of each image.
        labels: value of each label.
        captions: fields of `CAPTION` but the row, of each caption.
        others: names of all other parts.
    """

    images: dict[str, tuple[int, int]] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    captions: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


def index_shards(paths: list[Path]) -> list[ShardIndex]:
    """Index each shard, see `index_shard`."""
    return [index_shard(path) for path in track(paths, "indexing shards")]


def index_shard(path: Path) -> ShardIndex:
    """Index a shard, or read its index from the user's cache if the file is unchanged.

    The index of a damaged shard ends before the last sample that precedes the damage, because
    parts of that sample may be lost.

    Args:
        path: the shard.

    Raises:
        UserError: the shard is compressed, or a sample has the same part twice.
    """
    try:
        status = path.stat()
        require_regular(status, path)
        stamp = np.array([status.st_size, status.st_mtime_ns], dtype=np.int64)
    except OSError as error:
        return _index(np.zeros(2, dtype=np.int64), {}, reason_of(error))
    cache = _cache_file(path)
    cached = _read_cache(cache)
    if cached is not None and np.array_equal(cached.stamp, stamp):
        return cached
    samples: dict[str, _Sample] = {}
    damage = None
    try:
        with open_regular_file(path) as file:
            if compression_of(file.read(6)):
                raise compressed_shard(path)
            for header in read_headers(file, status.st_size):
                _add(samples, header, file, path)
    except _DAMAGE as error:
        damage = reason_of(error)
        if samples:
            samples.popitem()
    index = _index(stamp, samples, damage)
    if damage is None:  # retry damaged shards: disks and network shares may be restored
        _write_cache(index, cache)
    return index


def _add(samples: dict[str, _Sample], header: Header, file: BinaryIO, path: Path) -> None:
    """Add a member of the archive to its sample."""
    key, part = key_and_part(header.name)
    if not (key and part):
        return
    sample = samples.setdefault(key, _Sample())
    known = part in IMAGE_PARTS or part in LABEL_PARTS or part in CAPTION_PARTS
    largest = LARGEST_IMAGE if part in IMAGE_PARTS else LARGEST_TEXT
    if header.problem is not None:
        sample.others.append(f"{part} that is {header.problem}")
    elif known and (excess := describe_excess(header, largest)):
        sample.others.append(f"{part} that is {excess}")
    elif part in (*sample.images, *sample.labels, *sample.captions):
        raise UserError(f"data: {path} has {key}.{part} twice; keys must be distinct")
    elif part in IMAGE_PARTS:
        sample.images[part] = (header.offset, header.size)
    elif known:
        file.seek(header.offset)
        content = file.read(header.size)
        if part in LABEL_PARTS:
            sample.labels[part] = _label(part, content)
        if part in CAPTION_PARTS:
            first = SINGLE if part == "txt" else 0
            sample.captions[part] = [
                (stable_id(text), header.offset, header.size, number, len(text))
                for number, text in enumerate(captions_in(part, content), first)
            ]
    else:
        sample.others.append(part)


def key_and_part(name: str) -> tuple[str, str]:
    """Split a member's name as webdataset does, at the first dot of its base name.

    Returns:
        Key and part. One of them is empty if the member is no part of a sample.
    """
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, part = base.partition(".")
    return (folder + slash + stem) if stem else "", part.lower()


def _label(part: str, content: bytes) -> int:
    try:
        label = json.loads(content)["label"] if part == "json" else int(content)
    except (ValueError, TypeError, KeyError, RecursionError):
        return NO_LABEL
    return label if type(label) is int and 0 <= label < 1 << 63 else NO_LABEL


def _index(stamp: np.ndarray, samples: dict[str, _Sample], damage: str | None) -> ShardIndex:
    """Gather the parts of all samples in arrays; leave out samples without an image."""
    keys: list[str] = []
    places: list[tuple[int, int]] = []
    labels: list[int] = []
    captions: list[tuple[int, ...]] = []
    left_out: list[tuple[str, str]] = []
    for key, sample in samples.items():
        image = next((part for part in IMAGE_PARTS if part in sample.images), None)
        if image is None:
            parts = dict.fromkeys([*sample.labels, *sample.captions, *sample.others])
            left_out.append((key, f"no image, only {', '.join(parts)}"))
            continue
        own = next(filter(None, map(sample.captions.get, CAPTION_PARTS)), [])
        captions += [(id, len(keys), *place) for id, *place in own]
        keys.append(key)
        places.append(sample.images[image])
        labels.append(
            next((sample.labels[part] for part in LABEL_PARTS if part in sample.labels), NO_LABEL)
        )
    offsets, sizes = np.array(places, dtype=np.int64).reshape(-1, 2).T.copy()
    return ShardIndex(
        stamp,
        np.array([stable_id(key) for key in keys], dtype=np.uint64),
        offsets,
        sizes,
        np.array(labels, dtype=np.int64),
        Keys.of(keys),
        np.array(captions, dtype=CAPTION),
        left_out,
        damage,
    )


def _read_cache(cache: Path) -> ShardIndex | None:
    try:
        with cache.open("rb") as file, np.load(file) as stored:
            left_out = [(key, reason) for key, reason in json.loads(str(stored["left_out"]))]
            return ShardIndex(
                stored["stamp"],
                stored["ids"],
                stored["offsets"],
                stored["sizes"],
                stored["labels"],
                Keys(stored["text"], stored["ends"]),
                stored["captions"],
                left_out,
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write_cache(index: ShardIndex, cache: Path) -> None:
    # The cache is optional: ignore a read-only home folder.
    with suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        replace_file(cache, lambda path: _write_index(index, path))


def _write_index(index: ShardIndex, path: Path) -> None:
    with path.open("wb") as file:
        np.savez(
            file,
            stamp=index.stamp,
            ids=index.ids,
            offsets=index.offsets,
            sizes=index.sizes,
            labels=index.labels,
            text=index.keys.text,
            ends=index.keys.ends,
            captions=index.captions,
            left_out=np.array(json.dumps(index.left_out)),
        )


def _cache_file(path: Path) -> Path:
    name = f"{_EDITION} ".encode() + os.fsencode(path.resolve())
    return cache_folder() / "shards" / f"{blake2b(name, digest_size=8).hexdigest()}.npz"
