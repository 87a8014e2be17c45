"""Texts as one side of pairs: in memory, or read from shards when they are looked up."""

import json
from collections.abc import Sequence

import numpy as np

from .randomness import stable_id

__all__ = ["SINGLE", "Texts", "UnreadableTextError", "captions_in", "has_halves", "tidy"]

SINGLE = -1  # number of a caption that has its part to itself


class UnreadableTextError(Exception):
    """A text whose file is missing or has changed; the arguments are `(name, reason)`."""


class Texts:
    """Distinct texts by row.

    Args:
        texts: n distinct strings.

    Attributes:
        texts: the strings. Looking one up may raise UnreadableTextError if it is not in memory.
        ids: `(n,)` uint64, hashes of the texts.
        marks: `(n,)` zeros: a text that changes gets another id, so its mark never does.
        lengths: `(n,)` int64, characters of each text.
        names: n strings for messages: the texts, cut to 60 characters.
    """

    texts: Sequence[str]
    ids: np.ndarray
    marks: np.ndarray
    lengths: np.ndarray
    names: Sequence[str]

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        self.ids = np.array([stable_id(text) for text in texts], dtype=np.uint64)
        self.marks = np.zeros(len(texts), dtype=np.int64)
        self.lengths = np.array([len(text) for text in texts], dtype=np.int64)
        self.names = [text if len(text) < 60 else text[:57] + "..." for text in texts]

    def __len__(self) -> int:
        return len(self.ids)


def has_halves(text: str) -> bool:
    """Tell whether a text has lone surrogates, which are halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def tidy(text: str) -> str:
    """Remove line breaks, repeated blanks, and lone surrogates, which JSON may contain."""
    return " ".join(text.encode(errors="replace").decode().split())


def captions_in(part: str, content: bytes) -> list[str]:
    """Read the captions in a part of a sample.

    Args:
        part: "txt" is one caption in UTF-8; "json" has a string or a list of strings as `captions`
            or `caption`.
        content: the bytes of the part.

    Returns:
        The captions, or `[]` if the part has none or cannot be read.
    """
    try:
        if part == "txt":
            value = content.decode("utf-8-sig")
        else:
            document = json.loads(content)
            value = document.get("captions", document.get("caption"))
    except (ValueError, AttributeError, RecursionError):
        return []
    values = value if isinstance(value, list) else [value]
    return [tidy(v) for v in values if isinstance(v, str) and v.strip()]
