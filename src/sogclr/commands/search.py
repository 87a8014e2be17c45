"""`sogclr.search`: find the samples nearest to a sentence or to a picture."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from ..common.console import result, say
from ..common.errors import UserError
from ..common.options import Device
from ..data.decode import DECODING_ERRORS, SUFFIXES, decode_image, reason_of
from ..data.image_source import ImageSource
from ..data.texts import tidy
from ..evaluation.pages.thumbnails import contain_in_square, tile_image
from ..evaluation.searching.searchable import Searchable, open_searchable
from ..models.text_lengths import report_cut
from ..runs.folder import Run
from .early_checks import picture_file
from .search_picture import TILE, Found, write_sheet

__all__ = ["Match", "search"]

MOST_TILES = 1_200  # a taller picture would not fit into memory, or into a viewer


@dataclass(frozen=True)
class Match:
    """A sample that `sogclr.search` found.

    Attributes:
        name: the file name; of a text, the text itself.
        similarity: cosine similarity with the query, in [-1, 1].
        captions: the captions of an image of pairs.
    """

    name: str
    similarity: float
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Query:
    """A query: its unit vector `(d,)`, and a tile of its picture if it is a picture."""

    vector: np.ndarray
    picture: Image.Image | None = None


def search(
    run: str | Path,
    query: str,
    data: Any,
    *,
    top: int,
    out: str | Path | None,
    module: nn.Module | None,
    device: Device,
) -> list[Match]:
    """See `sogclr.search`."""
    if top < 1:
        raise UserError(f"--top: must be at least 1, got {top}")
    picture = None if out is None else picture_file(Path(out), "search.png")
    _require_good_picture(query)  # first, so that a wrong query fails at once
    searched = open_searchable(run, data, None, module, device)
    asked = _encode_query(searched, query)
    hits = searched.nearest(asked.vector, top)
    matches = []
    for row, similarity in zip(hits.rows.tolist(), hits.similarity.tolist(), strict=True):
        captions = tuple(searched.captions_of(row))
        matches.append(Match(searched.name_of(row), similarity, captions))
        result(f"{similarity:.3f}  {matches[-1].name}")
        if captions:
            result(f"       {captions[0]}")
    if isinstance(searched.side, ImageSource):
        target = picture or Run(run).folder / "search.png"
        found = [
            Found(
                match.name, tile_image(searched.side, row, TILE), match.similarity, match.captions
            )
            for row, match in zip(hits.rows[:MOST_TILES].tolist(), matches, strict=False)
        ]
        write_sheet(target, query, asked.picture, found)
        shown = f" (the first {MOST_TILES:,} images)" if len(matches) > MOST_TILES else ""
        say(f"picture: {target}{shown}")
    return matches


def _names_picture(query: str) -> bool:
    """Tell whether a query names a file; a sentence may end like one, and a file lack a suffix."""
    return os.path.isfile(query) or query.lower().endswith(SUFFIXES)


def _require_good_picture(query: str) -> None:
    """Refuse an empty query, and a file that is no image."""
    if not query.strip():
        raise UserError("query: is empty; give a sentence, or an image file")
    if os.path.isfile(query):
        _read_picture(query)


def _read_picture(query: str) -> Image.Image:
    try:
        return decode_image(query)
    except DECODING_ERRORS as error:
        raise UserError(
            f"query: {query} cannot be read as an image ({reason_of(error)})"
        ) from error


def _encode_query(searched: Searchable, query: str) -> _Query:
    """Embed an image file, a sample of the data by its name, or a sentence."""
    side = searched.side
    if os.path.isfile(query):
        image = _read_picture(query)
        return _Query(searched.encode_image(image), contain_in_square(image, TILE))
    is_sentence = searched.takes_text and not _names_picture(query)
    if isinstance(side, ImageSource) and not is_sentence:
        row = next((row for row, name in enumerate(side.names) if name == query), None)
        if row is not None and (vector := searched.index.unit(row)) is not None:
            return _Query(vector, tile_image(side, row, TILE))
    if _names_picture(query):
        _read_picture(query)  # says what is wrong
    if not is_sentence:
        raise UserError(
            f"query: {query} is neither an image file nor the name of an image in the data, and "
            "this run was trained on images alone, so it takes no sentence"
        )
    report_cut(searched.encoder.tokenizer, [tidy(query)])
    return _Query(searched.encode_text(tidy(query)))
