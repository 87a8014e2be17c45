"""Open whatever a user passes as pairs, a table or tar shards, or as either pairs or images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..common.errors import UserError
from .image_source import ImageSource
from .open_images import open_images
from .pair_source import PairSource
from .tables.columns import find_columns
from .tables.pairs import table_pairs
from .tables.read import is_table, read_header, read_table
from .tar.index import index_shard
from .tar.pairs import shard_pairs
from .tar.patterns import find_shards
from .tar.urls import require_random_access

__all__ = ["are_pairs", "open_pairs", "open_samples", "require_columns"]


def open_pairs(data: Any, columns: str | Sequence[str] | None = None) -> PairSource:
    """Open pairs of any kind as a `PairSource`; broken rows are left out and reported.

    Args:
        data: a table, see `sogclr.data.tables.read.read_table`; tar shards, see
            `sogclr.data.tar.patterns.find_shards`; or a PairSource, which is returned unchanged.
        columns: names of the table's two columns, ("image", "caption") or "image,caption".
            Images become side a in either order. Default: guessed from the names.

    Raises:
        UserError: a column is missing, no row is usable, captions are not text, most images cannot
            be read, or `data` is a stream.
    """
    if isinstance(data, PairSource):
        return data
    if (shards := _shards(data)) is not None:
        if columns is not None:
            raise UserError(
                "--columns: shards have none; a caption is a part txt, or `caption` in json"
            )
        return shard_pairs(shards, str(data))
    return table_pairs(read_table(data), columns)


def require_columns(data: Any, columns: str | Sequence[str] | None = None) -> None:
    """Refuse a table whose header lacks the columns of pairs, before its rows are read.

    Args:
        data: as of `open_pairs`; what has no header is not checked.
        columns: as of `open_pairs`.

    Raises:
        UserError: a column is missing, or the names do not tell which columns are meant.
    """
    if (header := read_header(data)) is not None:
        find_columns(header, columns)


def are_pairs(data: Any) -> bool:
    """Tell whether `open_pairs` opens `data`, rather than `open_images`.

    Shards hold pairs if any of their samples has a caption.
    """
    if isinstance(data, PairSource) or is_table(data):
        return True
    shards = _shards(data)
    return shards is not None and any(len(index_shard(path).captions) for path in shards)


def open_samples(
    data: Any, columns: str | Sequence[str] | None = None, *, pairs: bool = True
) -> ImageSource | PairSource:
    """Open pairs, or images if `data` are no pairs.

    Args:
        data: as of `open_pairs` or `open_images`; a source is returned unchanged.
        columns: as of `open_pairs`; of no effect on images.
        pairs: whether pairs are wanted; False opens everything as images.

    Raises:
        UserError: see `open_pairs` and `open_images`.
    """
    if isinstance(data, ImageSource | PairSource):
        return data
    return open_pairs(data, columns) if pairs and are_pairs(data) else open_images(data)


def _shards(data: Any) -> list[Path] | None:
    require_random_access(data)
    return find_shards(data) if isinstance(data, str | Path) else None
