"""Write texts of other people into lines for a terminal, which must neither break nor obey them."""

import unicodedata

__all__ = ["printable"]

# Marks that reorder the text behind them, so that a name looks like another one.
REORDERING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Control characters, halves of characters, and separators of lines and paragraphs.
HIDDEN = frozenset(("Cc", "Cs", "Zl", "Zp"))


def printable(text: str, encoding: str | None = None) -> str:
    r"""Escape what a terminal cannot show or would obey, so that the text stays one line.

    Args:
        text: a name or a text.
        encoding: encoding of the terminal or file. Default: UTF-8, which has all characters.

    Returns:
        The text; control characters, marks that reorder, halves of characters, and characters that
        the encoding lacks are written as `\n`, `\x1b`, `\u202e`, `\udce9` or `\U0001f600`.
    """
    shown = text
    if not text.isprintable():
        shown = "".join(_escape(char) if _is_hidden(char) else char for char in text)
    if encoding is None:
        return shown
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def _is_hidden(char: str) -> bool:
    return char in REORDERING or unicodedata.category(char) in HIDDEN


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode()
