"""Pairs of images and captions in tar shards; only their positions are kept in memory."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from ...common.errors import UserError
from ..decode import reason_of
from ..image_source import summarize
from ..pair_source import PairSource
from ..texts import SINGLE, Texts, UnreadableTextError, captions_in
from .images import ShardFiles, ShardSource
from .index import ShardIndex, index_shards
from .packed_strings import Keys, Strings

__all__ = ["ShardTexts", "shard_pairs"]


def shard_pairs(shards: list[Path], name: str | None = None) -> PairSource:
    """Open the samples of tar shards that have both an image and a caption.

    Images are found as in `ShardSource`. The captions of a sample are its part txt, which is one
    caption in UTF-8; without txt, `captions` or `caption` in json, a string or a list of strings.
    Equal captions are one text with several images, as in a table.

    Args:
        shards: the files.
        name: what messages call the data. Default: the first shard's path.

    Raises:
        UserError: no sample has both, or `ShardSource` refuses the shards.
    """
    name = name or str(shards[0])
    indexes = [_keep_captioned(index) for index in index_shards(shards)]
    if not any(len(index.captions) for index in indexes):
        raise UserError(
            f"data: no sample of {name} has both an image and a caption, a part txt or `caption` "
            f"in json{_first_damage(shards, indexes)}; for images alone use sogclr pretrain"
        )
    images = ShardSource(shards, name, indexes)
    captions, shard_of = _join_captions(indexes)
    rows, ids = captions["row"], captions["id"]
    order = np.lexsort((ids, rows))  # by sample, then by id of the caption
    repeated = (np.diff(rows[order]) == 0) & (ids[order[1:]] == ids[order[:-1]])
    pairs = order[np.append(True, ~repeated)]
    first, text_of = _number_texts(ids)
    left_out = [f"{path}: {reason}" for path, reason in images.left_out]
    copies = [f"{repeated.sum():,} copies of a sample's captions"] if repeated.any() else []
    return PairSource(
        f"{name} ({len(shards):,} shard{'s' * (len(shards) > 1)})",
        ("image", "caption"),
        images,
        ShardTexts(ShardFiles(shards, indexes), captions[first], shard_of[first]),
        np.searchsorted(rows[pairs], np.arange(len(images) + 1)),
        text_of[pairs],
        ([summarize(left_out)] if left_out else []) + copies,
        images.damaged,
    )


class ShardTexts(Texts):
    """Captions in shards; each is read from its shard when it is looked up.

    Args:
        files: the shards.
        captions: `(n,)` of dtype `sogclr.data.tar.index.CAPTION`, one for each distinct text.
        shard_of: `(n,)` number of each caption's shard.
    """

    def __init__(self, files: ShardFiles, captions: np.ndarray, shard_of: np.ndarray) -> None:
        self.texts = _Captions(files, captions, shard_of)
        self.names = _CaptionNames(files, captions, shard_of)
        self.ids = captions["id"].astype(np.uint64)
        self.marks = np.zeros(len(captions), dtype=np.int64)
        self.lengths = captions["length"]


class _CaptionNames(Strings):
    """Names of captions: their positions, because the captions may be unreadable."""

    def __init__(self, files: ShardFiles, captions: np.ndarray, shard_of: np.ndarray) -> None:
        self._files, self._captions, self._shard_of = files, captions, shard_of

    def __len__(self) -> int:
        return len(self._captions)

    def _at(self, row: int) -> str:
        shard = self._files.paths[self._shard_of[row]]
        return f"{shard.name}: caption at byte {self._captions['offset'][row]:,}"


class _Captions(_CaptionNames):
    """The texts of captions."""

    def _at(self, row: int) -> str:
        caption = self._captions[row]
        number = caption["number"]
        try:
            content = self._files.read(self._shard_of[row], caption["offset"], caption["size"])
        except (OSError, ValueError) as error:
            raise UnreadableTextError(super()._at(row), reason_of(error)) from error
        return captions_in("txt" if number == SINGLE else "json", content)[number]


def _first_damage(shards: list[Path], indexes: list[ShardIndex]) -> str:
    """Say why the first damaged shard cannot be read, in brackets; "" without any."""
    found = ((p, i.damage) for p, i in zip(shards, indexes, strict=True) if i.damage is not None)
    return next((f" ({path} is damaged: {damage})" for path, damage in found), "")


def _keep_captioned(index: ShardIndex) -> ShardIndex:
    """Move the samples without a caption to `left_out`."""
    captioned = np.zeros(len(index.ids), dtype=bool)
    captioned[index.captions["row"]] = True
    if captioned.all():
        return index
    rows, captions = np.flatnonzero(captioned), index.captions.copy()
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
        + [
            (index.keys[row], "no caption in txt or json")
            for row in np.flatnonzero(~captioned).tolist()
        ],
    )


def _join_captions(indexes: list[ShardIndex]) -> tuple[np.ndarray, np.ndarray]:
    """Join the captions of all shards.

    Returns:
        `(m,)` captions, with rows counted over all shards; `(m,)` the shard of each caption.
    """
    captions = np.concatenate([index.captions for index in indexes])
    counts = [len(index.captions) for index in indexes]
    first_rows = np.cumsum([0] + [len(index.ids) for index in indexes[:-1]])
    captions["row"] += np.repeat(first_rows, counts)
    return captions, np.repeat(np.arange(len(indexes), dtype=np.int32), counts)


def _number_texts(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the distinct texts in the order of their first occurrence.

    Args:
        ids: `(m,)` hash of each caption's text.

    Returns:
        `(n,)` the first caption of each distinct text; `(m,)` the number of each caption's text.
    """
    _, first, place = np.unique(ids, return_index=True, return_inverse=True)
    order = np.argsort(first)
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    return first[order], number[place]
