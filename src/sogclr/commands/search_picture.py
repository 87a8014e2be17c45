"""The picture that `sogclr.search` writes: the query, and the images that were found."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..common.printable import printable
from ..data.own_pictures import write_picture
from ..runs.stored import atomically
from ..training.picture_sheet import BODY, GRAY, INK, TITLE, load_font

__all__ = [
    "HEADER",
    "LINE",
    "MARGIN",
    "TILE",
    "Found",
    "header_height",
    "line_height",
    "write_sheet",
]

TILE, MARGIN = 220, 12  # pixels: side of an image, space between images
LETTERS, LINE = 17, 23  # pixels: height of letters below images, and of their lines
HEADER = 84  # pixels of title and note
COLUMNS = 6
CAPTION_LINES = 3


@dataclass(frozen=True)
class Found:
    """An image that was found.

    Attributes:
        name: its name, shown if it has no captions.
        image: the image, at most as large as a tile; None if it cannot be read any more.
        similarity: its cosine similarity with the query.
        captions: its captions, of which the first is shown.
    """

    name: str
    image: Image.Image | None
    similarity: float
    captions: Sequence[str] = ()


def header_height(with_picture: bool) -> int:
    """Return the height of what is above the images that were found."""
    return HEADER + (TILE + MARGIN if with_picture else 0)


def line_height(with_captions: bool) -> int:
    """Return the height of a line of images, with what is written below them."""
    return TILE + LINE + MARGIN + (CAPTION_LINES * LINE if with_captions else 0)


def write_sheet(
    target: Path, query: str, picture: Image.Image | None, found: Sequence[Found]
) -> None:
    """Draw the query, and below it the images in a grid, best first.

    Args:
        target: the PNG file.
        query: the sentence, or the name of the picture that was searched for.
        picture: that picture, at most as large as a tile; None for a sentence.
        found: the images, at least one.
    """
    columns = min(len(found), COLUMNS)
    captioned = any(each.captions for each in found)
    top, step = header_height(picture is not None), line_height(captioned)
    width = columns * (TILE + MARGIN) + MARGIN
    height = top + math.ceil(len(found) / columns) * step + MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), load_font(LETTERS)
    note = "Best first, with the cosine similarity" + (
        " and the first caption" if captioned else " and the name"
    )
    for y, text, size, color in (
        (MARGIN, f"Nearest to “{printable(query)}”", TITLE, INK),
        (MARGIN + 36, note, BODY, GRAY),
    ):
        shown = _wrap(text, load_font(size), width - 2 * MARGIN, 1)[0]
        draw.text((MARGIN, y), shown, fill=color, font=load_font(size))
    if picture is not None:
        _paste(sheet, picture, MARGIN, HEADER)
        line = top - MARGIN // 2 - 1
        draw.line((MARGIN, line, width - MARGIN, line), fill="lightgray")
    for place, each in enumerate(found):
        x = MARGIN + (place % columns) * (TILE + MARGIN)
        y = top + (place // columns) * step
        if each.image is not None:
            _paste(sheet, each.image, x, y)
        note = f"{each.similarity:.3f}" + ("" if captioned else f"  {printable(each.name)}")
        draw.text((x, y + TILE), _wrap(note, font, TILE, 1)[0], fill=GRAY, font=font)
        caption = printable(each.captions[0]) if each.captions else ""
        for number, text in enumerate(_wrap(caption, font, TILE, CAPTION_LINES), start=1):
            draw.text((x, y + TILE + number * LINE), text, fill=INK, font=font)
    advice = "make room on the disk, or name another --out"
    atomically(target, lambda path: write_picture(sheet, path), advice)


def _paste(sheet: Image.Image, image: Image.Image, x: int, y: int) -> None:
    """Put an image into the middle of a tile."""
    sheet.paste(image, (x + (TILE - image.width) // 2, y + (TILE - image.height) // 2))


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int, most: int) -> list[str]:
    """Break a text into at most `most` lines of at most `width` pixels; a longer one is cut."""
    lines, words = [""], text.split(" ")
    while words:
        longer = f"{lines[-1]} {words[0]}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            words.pop(0)
        elif lines[-1] and len(lines) < most:
            lines.append("")
        else:
            return [*lines[:-1], _cut(longer, font, width)]
    return lines


def _cut(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Shorten a text until it and an ellipsis are at most `width` pixels wide."""
    text = text[:1_000]  # no line is longer
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
