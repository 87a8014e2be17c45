"""`sogclr.search`: what of some data is nearest to a sentence, or to a picture."""

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import nn

from ..common.console import result, say
from ..common.errors import UserError
from ..common.options import Device
from ..data.decode import DECODING_ERRORS, SUFFIXES, UnreadableImageError, reason_of
from ..data.image_source import ImageSource
from ..data.open_images import open_source
from ..data.open_pairs import are_pairs, open_pairs
from ..data.tar.http import is_url
from ..data.texts import Texts
from ..distributed.launch import choose_device
from ..evaluation.pair_report import embed_side
from ..models.tower_features import stored_embeddings
from ..runs.folder import Run
from ..runs.towers import PairEncoder, load_pairs

__all__ = ["Match", "search"]

TILE, MARGIN, LINE = 180, 8, 16


@dataclass(frozen=True)
class Match:
    """A sample that was found: its name and its cosine similarity with the query."""

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
        raise UserError(f"top: must be at least 1, got {top}")
    encoder = load_pairs(run, module)
    side = _side(run, data)
    vector = _query(encoder, query)  # before everything is embedded: can it be read?
    encoder = encoder.to(choose_device(device))
    vectors = stored_embeddings(Run(run), side, lambda: embed_side(encoder, side))
    similarity = nn.functional.normalize(torch.from_numpy(np.array(vectors)), dim=1) @ vector.cpu()
    order = similarity.nan_to_num(-2).argsort(descending=True, stable=True).tolist()
    best = [row for row in order if not similarity[row].isnan()][:top]
    matches = [Match(side.names[row], float(similarity[row])) for row in best]
    for match in matches:
        result(f"{match.similarity:.3f}  {match.name}")
    if isinstance(side, ImageSource):
        target = Path(out) if out is not None else Run(run).folder / "search.png"
        _picture(side, best, matches, query, target)
        say(f"picture: {target}")
    return matches


def _query(encoder: PairEncoder, query: str) -> torch.Tensor:
    """The vector `(d,)` of a sentence, or of an image file."""
    if not query.lower().endswith(SUFFIXES):
        if not query.strip():
            raise UserError("query: is empty; give a sentence, or an image file")
        return encoder.encode_text([query])[0]
    try:
        with Image.open(query) as image:
            return encoder.encode_image([image.convert("RGB")])[0]
    except DECODING_ERRORS as error:
        raise UserError(
            f"query: {query} cannot be read as an image ({reason_of(error)})"
        ) from error


def _side(run: str | Path, data: Any) -> ImageSource | Texts:
    """What is searched: images of a folder or table, or texts of a table of texts."""
    columns = None
    if data is None:
        settings = Run(run).read_settings()
        data, columns = settings.get("data"), settings["resolved"]["columns"]
        if data is None or is_url(data):
            what = "data in memory" if data is None else "a stream"
            raise UserError(
                f"data: the run was trained on {what}; name some of this machine with --data"
            )
    if not are_pairs(data):
        return open_source(data)
    source = open_pairs(data, columns)
    return source.a if isinstance(source.a, ImageSource) else source.b


def _picture(
    side: ImageSource, rows: list[int], matches: list[Match], query: str, target: Path
) -> None:
    """The images in a grid, best first, each with its similarity."""
    columns = min(len(rows), 6)
    lines = math.ceil(len(rows) / columns)
    width = columns * (TILE + MARGIN) + MARGIN
    height = 2 * LINE + lines * (TILE + LINE + MARGIN) + MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    draw.text((MARGIN, MARGIN), query, fill="black", font=font)
    for place, (row, match) in enumerate(zip(rows, matches, strict=True)):
        x = MARGIN + (place % columns) * (TILE + MARGIN)
        y = 2 * LINE + (place // columns) * (TILE + LINE + MARGIN)
        with suppress(UnreadableImageError):  # gone since it was embedded: an empty place
            image = ImageOps.contain(side.image(row), (TILE, TILE))
            sheet.paste(image, (x + (TILE - image.width) // 2, y + (TILE - image.height) // 2))
        draw.text((x, y + TILE), f"{match.similarity:.3f}", fill="gray", font=font)
    try:
        sheet.save(target)
    except (OSError, ValueError) as error:
        raise UserError(f"out: could not write {target} ({error})") from error
