"""`sogclr.search`: find the samples nearest to a sentence or to a picture."""

import math
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..common.console import result, say
from ..common.errors import UserError
from ..common.options import Device
from ..data.decode import DECODING_ERRORS, SUFFIXES, UnreadableImageError, decode_image, reason_of
from ..data.image_source import ImageSource
from ..data.open_images import open_images
from ..data.open_pairs import are_pairs, open_pairs
from ..data.own_pictures import write_picture
from ..data.tar.urls import is_url
from ..data.texts import Texts, tidy
from ..distributed.launch import choose_device
from ..evaluation.embed_pairs import embed_side
from ..models.pair_encoder import PairEncoder
from ..models.text_lengths import report_cut
from ..models.tower_features import stored_embeddings
from ..planning.settings_pairs import PairSettings
from ..runs.folder import Run
from ..runs.resume import read_resolved
from ..runs.stored import atomically
from ..runs.towers import load_pairs
from .early_checks import picture_file

__all__ = ["Match", "search"]

MOST_TILES = 1_200  # a taller picture would not fit into memory, or into a viewer
TILE, MARGIN, LINE = 180, 8, 16  # pixels: side of an image, space between images, height of text


@dataclass(frozen=True)
class Match:
    """A sample that `sogclr.search` found.

    Attributes:
        name: the file name; of a text, the text itself.
        similarity: cosine similarity with the query, in [-1, 1].
    """

    name: str
    similarity: float


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
    encoder = load_pairs(run, module)
    side = _open_side(run, data)
    vector = _encode_query(encoder, query)  # first, so that a wrong query fails at once
    encoder = encoder.to(choose_device(device))
    opened = Run(run)
    vectors = stored_embeddings(
        opened.trained, opened.embeddings, side, lambda: embed_side(encoder, side)
    )
    similarity = normalize(torch.from_numpy(np.array(vectors)), dim=1) @ vector.cpu()  # (n,)
    best = _select_best(similarity, top)
    names = side.texts if isinstance(side, Texts) else side.names
    matches = [Match(names[index], float(similarity[index])) for index in best]
    for match in matches:
        result(f"{match.similarity:.3f}  {match.name}")
    if isinstance(side, ImageSource):
        target = picture or opened.folder / "search.png"
        _write_picture(side, best[:MOST_TILES], matches[:MOST_TILES], query, target)
        shown = f" (the first {MOST_TILES:,} images)" if len(matches) > MOST_TILES else ""
        say(f"picture: {target}{shown}")
    return matches


def _select_best(similarity: Tensor, top: int) -> list[int]:
    """Return the indices of the largest similarities; NaN (unreadable samples) is left out."""
    order = similarity.nan_to_num(-2).argsort(descending=True, stable=True).tolist()
    return [index for index in order if not similarity[index].isnan()][:top]


def _encode_query(encoder: PairEncoder, query: str) -> Tensor:
    """Return the unit vector `(d,)` of a sentence or an image file."""
    # A sentence may end like a file, and a file may lack a suffix: a file that exists is meant.
    if not (os.path.isfile(query) or query.lower().endswith(SUFFIXES)):
        if not query.strip():
            raise UserError("query: is empty; give a sentence, or an image file")
        report_cut(encoder.tokenizer, [tidy(query)])
        return encoder.encode_text([tidy(query)])[0]
    try:
        image = decode_image(query)
    except DECODING_ERRORS as error:
        raise UserError(
            f"query: {query} cannot be read as an image ({reason_of(error)})"
        ) from error
    return encoder.encode_image([image])[0]


def _open_side(run: str | Path, data: Any) -> ImageSource | Texts:
    """Open the samples to search: images, or the second texts of a table of two texts."""
    columns = None
    if data is None:
        settings = Run(run).read_settings()
        data, columns = settings.get("data"), read_resolved(settings, PairSettings).columns
        if not isinstance(data, str) or is_url(data):
            what = "a stream" if isinstance(data, str) else "data in memory"
            raise UserError(
                f"data: the run was trained on {what}; name data on this machine with --data"
            )
    if not are_pairs(data):
        return open_images(data)
    source = open_pairs(data, columns)
    return source.a if isinstance(source.a, ImageSource) else source.b


def _write_picture(
    side: ImageSource, indices: list[int], matches: list[Match], query: str, target: Path
) -> None:
    """Draw the images in a grid, best first, each with its similarity below."""
    columns = min(len(indices), 6)
    lines = math.ceil(len(indices) / columns)
    width = columns * (TILE + MARGIN) + MARGIN
    height = 2 * LINE + lines * (TILE + LINE + MARGIN) + MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    draw.text((MARGIN, MARGIN), query, fill="black", font=font)
    for place, (index, match) in enumerate(zip(indices, matches, strict=True)):
        x = MARGIN + (place % columns) * (TILE + MARGIN)
        y = 2 * LINE + (place // columns) * (TILE + LINE + MARGIN)
        with suppress(UnreadableImageError):  # deleted since it was embedded: leave a gap
            image = ImageOps.contain(side.image(index), (TILE, TILE))
            sheet.paste(image, (x + (TILE - image.width) // 2, y + (TILE - image.height) // 2))
        draw.text((x, y + TILE), f"{match.similarity:.3f}", fill="gray", font=font)
    advice = "make room on the disk, or name another --out"
    atomically(target, lambda path: write_picture(sheet, path), advice)
