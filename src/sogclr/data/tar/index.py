"""What lies where in a tar shard: found by one pass over its headers, and remembered."""

import json
import os
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...common.cache import cache_folder
from ...common.console import track
from ...common.errors import UserError
from ..image_source import stable_id
from ..images.folder import reason_of
from ..texts import WHOLE, captions_in
from .packed_strings import Keys

__all__ = [
    "CAPTION",
    "CAPTION_PARTS",
    "IMAGE_PARTS",
    "NO_LABEL",
    "PACKED",
    "ShardIndex",
    "index_shard",
    "index_shards",
    "key_and_part",
]

# What an image is called within a sample; of several, the first is taken.
IMAGE_PARTS = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff")
LABEL_PARTS = ("cls", "cls.txt", "json")
CAPTION_PARTS = ("txt", "json")
NO_LABEL = -1

# Where a caption is: the hash of its text, the row of its sample, the part that holds it, its
# number among those of the part (`WHOLE` if the part is the caption), its length in characters.
_PLACE = [("offset", "i8"), ("size", "i8"), ("number", "i4"), ("length", "i4")]
CAPTION = np.dtype([("id", "u8"), ("row", "i8"), *_PLACE])

PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_PACKED_STARTS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")

# Part of what an index is remembered by: another one wherever an index comes to say other things.
_EDITION = 2

_DAMAGE = (OSError, tarfile.TarError, ValueError)


@dataclass(frozen=True)
class ShardIndex:
    """The samples of one shard that have an image, in the order in which they lie there.

    Attributes:
        stamp: `(2,)` int64, the file's size in bytes and time of change, when it was indexed.
        ids: `(n,)` uint64, hashes of the keys.
        offsets: `(n,)` int64, where each image starts, in bytes.
        sizes: `(n,)` int64, its length in bytes.
        labels: `(n,)` int64, `NO_LABEL` where there is none.
        keys: n strings.
        captions: `(m,)` of `CAPTION`, sample after sample.
        left_out: `(key, reason)` of samples without an image.
        damage: why the shard could not be read to its end, if so.
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
    """The parts of a sample met so far: `(offset, size)` of images, labels, hash and place of
    captions, names of others."""

    images: dict[str, tuple[int, int]] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    captions: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


def index_shards(paths: list[Path]) -> list[ShardIndex]:
    """The index of each shard, see `index_shard`."""
    return [index_shard(path) for path in track(paths, "indexing shards")]


def index_shard(path: Path) -> ShardIndex:
    """The index of a shard, from the user's cache if the file is as it was.

    A shard that is damaged is indexed as far as it can be read, without the last sample before
    the damage, parts of which may lie behind it.

    Raises:
        UserError: the shard is compressed, or a sample has the same part twice.
    """
    try:
        stat = path.stat()
        stamp = np.array([stat.st_size, stat.st_mtime_ns], dtype=np.int64)
    except OSError as error:
        return _index(np.zeros(2, dtype=np.int64), {}, reason_of(error))
    cache = _cache_file(path)
    known = _remembered(cache)
    if known is not None and np.array_equal(known.stamp, stamp):
        return known
    samples: dict[str, _Sample] = {}
    damage = None
    try:
        with path.open("rb") as file:
            if file.read(6).startswith(_PACKED_STARTS):
                raise UserError(
                    f"data: {path} is compressed; unpack it: samples are read from any place in it"
                )
            for member in _members(file, stat.st_size):
                _add(samples, member, file, path)
    except _DAMAGE as error:
        damage = reason_of(error)
        if samples:
            samples.popitem()
    index = _index(stamp, samples, damage)
    if damage is None:  # damage is looked at again: disks and network shares come back
        _remember(index, cache)
    return index


def _members(file: BinaryIO, size: int) -> Iterator[tarfile.TarInfo]:
    """All members of the archive, which lies in a file of `size` bytes.

    Raises:
        tarfile.TarError: not an archive; or one that breaks off, or goes on behind its end. The
            library takes the first header that it cannot read for the end.
    """
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (member := archive.next()) is not None:
            if member.offset_data + member.size > size and member.isfile():
                raise tarfile.ReadError("it breaks off")
            yield member
            # It would keep them all, a kilobyte each; to the types they are internal.
            archive.members.clear()  # type: ignore[attr-defined]
        end = archive.offset
    file.seek(end)
    if len(mark := file.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it breaks off, its end is not marked")
    while mark:
        if mark.strip(b"\0"):
            raise tarfile.ReadError(f"no header of a member at byte {end:,}")
        end += len(mark)
        mark = file.read(1 << 20)


def _add(samples: dict[str, _Sample], member: tarfile.TarInfo, file: BinaryIO, path: Path) -> None:
    """Note a member under its sample."""
    key, part = key_and_part(member.name)
    if not (key and part) or member.isdir():
        return
    sample = samples.setdefault(key, _Sample())
    if not member.isfile():
        sample.others.append(f"{part} that is a link")
    elif part in (*sample.images, *sample.labels, *sample.captions):
        raise UserError(f"data: {path} has {key}.{part} twice; keys must be distinct")
    elif part in IMAGE_PARTS:
        sample.images[part] = (member.offset_data, member.size)
    elif part in LABEL_PARTS or part in CAPTION_PARTS:
        file.seek(member.offset_data)
        content = file.read(member.size)
        if part in LABEL_PARTS:
            sample.labels[part] = _label(part, content)
        if part in CAPTION_PARTS:
            first = WHOLE if part == "txt" else 0
            sample.captions[part] = [
                (stable_id(text), member.offset_data, member.size, number, len(text))
                for number, text in enumerate(captions_in(part, content), first)
            ]
    else:
        sample.others.append(part)


def key_and_part(name: str) -> tuple[str, str]:
    """Of a member's name: webdataset's key is what stands before the base name's first dot.

    Either is empty where the member is no part of a sample.
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
    keys: list[str] = []
    places: list[tuple[int, int]] = []
    labels: list[int] = []
    captions: list[tuple[int, ...]] = []
    left_out: list[tuple[str, str]] = []
    for key, sample in samples.items():
        image = next((part for part in IMAGE_PARTS if part in sample.images), None)
        if image is None:
            there = dict.fromkeys([*sample.labels, *sample.captions, *sample.others])
            left_out.append((key, f"no image, only {', '.join(there)}"))
            continue
        found = next(filter(None, map(sample.captions.get, CAPTION_PARTS)), [])
        captions += [(id, len(keys), *place) for id, *place in found]
        keys.append(key)
        places.append(sample.images[image])
        told = [sample.labels[part] for part in LABEL_PARTS if part in sample.labels]
        labels.append(told[0] if told else NO_LABEL)
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


def _remembered(cache: Path) -> ShardIndex | None:
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


def _remember(index: ShardIndex, cache: Path) -> None:
    # Only a convenience: a read-only home is no reason to stop.
    with suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        temporary = cache.with_suffix(f".{os.getpid()}")
        with temporary.open("wb") as file:
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
        temporary.replace(cache)


def _cache_file(path: Path) -> Path:
    name = f"{_EDITION} ".encode() + os.fsencode(path.resolve())
    return cache_folder() / "shards" / f"{blake2b(name, digest_size=8).hexdigest()}.npz"
