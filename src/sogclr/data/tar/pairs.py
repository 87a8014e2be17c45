"""Images with captions in tar shards: a source of pairs of which only places are in memory."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from ...common.errors import UserError
from ..image_source import listed
from ..images.folder import reason_of
from ..pair_source import PairSource
from ..texts import WHOLE, Texts, UnreadableTextError, captions_in
from .images import ShardFiles, ShardSource
from .index import ShardIndex, index_shards
from .packed_strings import Keys, Strings

__all__ = ["ShardTexts", "shard_pairs"]


def shard_pairs(shards: list[Path], name: str | None = None) -> PairSource:
    """The samples of tar shards that have both an image and a caption.

    Images as of `ShardSource`. Captions are the part txt, one in UTF-8; or, of samples without
    it, `caption` or `captions` in json, a string or a list of them. Equal captions are one text
    with several images, as in a table.

    Args:
        shards: the files.
        name: for messages. Default: the first shard's.

    Raises:
        UserError: as `ShardSource`; or no sample has both.
    """
    name = name or str(shards[0])
    indexes = [_with_captions(index) for index in index_shards(shards)]
    if not any(len(index.captions) for index in indexes):
        raise UserError(
            f"data: no sample of {name} has both an image and a caption, a part txt or `caption` "
            "in json; for images alone use sogclr pretrain"
        )
    images = ShardSource(shards, name, indexes)
    captions, shard_of = _joined(indexes)
    rows, ids = captions["row"], captions["id"]
    order = np.lexsort((ids, rows))  # sample after sample, each with its texts by their ids
    again = (np.diff(rows[order]) == 0) & (ids[order[1:]] == ids[order[:-1]])
    pairs = order[np.append(True, ~again)]
    first, text_of = _numbered(ids)
    left_out = [f"{path}: {reason}" for path, reason in images.left_out]
    copies = [f"{again.sum():,} copies of a sample's captions"] if again.any() else []
    return PairSource(
        f"{name} ({len(shards):,} shard{'s' * (len(shards) > 1)})",
        ("image", "caption"),
        images,
        ShardTexts(ShardFiles(shards, indexes), captions[first], shard_of[first]),
        np.searchsorted(rows[pairs], np.arange(len(images) + 1)),
        text_of[pairs],
        ([listed(left_out)] if left_out else []) + copies,
        images.damaged,
    )


class ShardTexts(Texts):
    """A side of captions in shards, each read at its place when it is looked up.

    Args:
        files: the shards.
        captions: `(n,)` of `sogclr.data.tar.index.CAPTION`, of distinct texts.
        shard_of: `(n,)` which shard each of them lies in.
    """

    def __init__(self, files: ShardFiles, captions: np.ndarray, shard_of: np.ndarray) -> None:
        self.texts = _Captions(files, captions, shard_of)
        self.names = _Places(files, captions, shard_of)
        self.ids = captions["id"].astype(np.uint64)
        self.marks = np.zeros(len(captions), dtype=np.int64)
        self.lengths = captions["length"]


class _Places(Strings):
    """Where captions lie, in words: their names, for they may be what cannot be read."""

    def __init__(self, files: ShardFiles, captions: np.ndarray, shard_of: np.ndarray) -> None:
        self._files, self._captions, self._shard_of = files, captions, shard_of

    def __len__(self) -> int:
        return len(self._captions)

    def _at(self, row: int) -> str:
        shard = self._files.paths[self._shard_of[row]]
        return f"{shard.name}: caption at byte {self._captions['offset'][row]:,}"


class _Captions(_Places):
    """The captions themselves."""

    def _at(self, row: int) -> str:
        caption = self._captions[row]
        number = caption["number"]
        try:
            content = self._files.read(self._shard_of[row], caption["offset"], caption["size"])
        except (OSError, ValueError) as error:
            raise UnreadableTextError(super()._at(row), reason_of(error)) from error
        return captions_in("txt" if number == WHOLE else "json", content)[number]


def _with_captions(index: ShardIndex) -> ShardIndex:
    """Without the samples that have none; they are listed."""
    has = np.zeros(len(index.ids), dtype=bool)
    has[index.captions["row"]] = True
    if has.all():
        return index
    rows, captions = np.flatnonzero(has), index.captions.copy()
    captions["row"] = np.searchsorted(rows, captions["row"])
    return replace(
        index,
        ids=index.ids[rows],
        offsets=index.offsets[rows],
        sizes=index.sizes[rows],
        labels=index.labels[rows],
        keys=Keys.of([index.keys[row] for row in rows.tolist()]),
        captions=captions,
        left_out=index.left_out
        + [(index.keys[row], "no caption in txt or json") for row in np.flatnonzero(~has).tolist()],
    )


def _joined(indexes: list[ShardIndex]) -> tuple[np.ndarray, np.ndarray]:
    """All captions, with rows of the whole source; and which shard each of them lies in."""
    captions = np.concatenate([index.captions for index in indexes])
    counts = [len(index.captions) for index in indexes]
    samples = np.cumsum([0] + [len(index.ids) for index in indexes[:-1]])
    captions["row"] += np.repeat(samples, counts)
    return captions, np.repeat(np.arange(len(indexes), dtype=np.int32), counts)


def _numbered(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each distinct text occurs first, in that order; and the number of each one's text."""
    _, first, place = np.unique(ids, return_index=True, return_inverse=True)
    order = np.argsort(first)
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    return first[order], number[place]
