"""Draw images and texts on a sheet: a title, tiles of one size, and lines that wrap."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from ..common.printable import printable

__all__ = ["BODY", "GRAY", "INK", "RED", "TITLE", "WIDTH", "Sheet", "fit_tile", "load_font"]

WIDTH = 1_400  # pixels of a sheet
MARGIN, TITLE, BODY = 16, 26, 20  # pixels: space at the edges, heights of letters
INK, GRAY, RED = "#1a1a1a", "#6b6b6b", "#b3261e"
LINE = 1.35  # height of a line beside that of its letters


class Sheet:
    """A white sheet that grows downwards.

    Args:
        title: what is seen, in one or more lines.
    """

    def __init__(self, title: str) -> None:
        self.image = Image.new("RGB", (WIDTH, 3 * MARGIN), "white")
        self.bottom = MARGIN  # the first free row of pixels
        for number, line in enumerate(title.splitlines()):
            size, color = (TITLE, INK) if number == 0 else (BODY, GRAY)
            self.bottom += self.write((MARGIN, self.bottom), WIDTH - 2 * MARGIN, line, size, color)
        self.bottom += MARGIN

    def paste(self, tile: Image.Image, place: tuple[int, int]) -> None:
        """Paste a tile with its upper left corner at a place."""
        self._grow(place[1] + tile.height)
        self.image.paste(tile, place)

    def write(
        self, place: tuple[int, int], width: int, text: str, size: int = BODY, color: str = INK
    ) -> int:
        """Write a text that wraps within a width; return its height in pixels."""
        return self.write_parts(place, width, [(text, color)], size)

    def write_line(
        self, place: tuple[int, int], width: int, text: str, size: int = BODY, color: str = INK
    ) -> int:
        """Write a name on one line, shortened at its start; return the line's height in pixels."""
        font, shown = load_font(size), printable(text)
        if font.getlength(shown) > width:
            while shown and font.getlength("…" + shown) > width:
                shown = shown[1:]
            shown = "…" + shown
        self._grow(place[1] + 2 * size)
        ImageDraw.Draw(self.image).text(place, shown, fill=color, font=font)
        return round(LINE * size)

    def write_parts(
        self, place: tuple[int, int], width: int, parts: Iterable[tuple[str, str]], size: int = BODY
    ) -> int:
        """Write texts one behind the other, each in its color; red ones are struck through.

        Args:
            place: the upper left corner.
            width: where lines wrap, in pixels.
            parts: `(text, color)` of each text.
            size: height of the letters in pixels.

        Returns:
            The height of all lines in pixels.
        """
        x, y = float(place[0]), place[1]
        font, step = load_font(size), round(LINE * size)
        blank = font.getlength(" ")
        for text, color in parts:
            for word in _words(text, font, width):
                length = font.getlength(word)
                if x > place[0] and x + length > place[0] + width:
                    x, y = place[0], y + step
                self._grow(y + step)
                draw = ImageDraw.Draw(self.image)
                draw.text((x, y), word, fill=color, font=font)
                if color == RED:
                    middle = y + 0.62 * size
                    draw.line((x, middle, x + length, middle), fill=RED, width=2)
                x += length + blank
        return y + step - place[1]

    def finish(self) -> Image.Image:
        """Return the sheet with a margin below."""
        return self.image.crop((0, 0, WIDTH, self.bottom + MARGIN))

    def _grow(self, bottom: int) -> None:
        """Make room for what ends at a row of pixels."""
        if bottom + MARGIN > self.image.height:
            grown = Image.new("RGB", (WIDTH, 2 * self.image.height + bottom), "white")
            grown.paste(self.image)
            self.image = grown


def _words(text: str, font: ImageFont.FreeTypeFont, width: int) -> Iterable[str]:
    """Split a text into words; one that is wider than a line is broken."""
    for word in printable(text).split():
        start = 0
        for end in range(1, len(word) + 1):
            if end - start > 1 and font.getlength(word[start:end]) > width:
                yield word[start : end - 1]
                start = end - 1
        yield word[start:]


def fit_tile(image: Image.Image, side: int) -> Image.Image:
    """Fit an image into the middle of a white square; a small one is enlarged with its pixels."""
    if 2 * max(image.size) <= side:
        image = ImageOps.scale(image, side // max(image.size), Image.Resampling.NEAREST)
    elif max(image.size) != side:
        scale = side / max(image.size)
        width, height = (max(1, round(scale * length)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    tile = Image.new("RGB", (side, side), "white")
    tile.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return tile


@cache
def load_font(size: int) -> ImageFont.FreeTypeFont:
    """Load the font that comes with matplotlib, which has Latin, Greek, Cyrillic and Arabic."""
    import matplotlib as mpl

    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
