"""A side of texts: in memory, or read at their place when they are wanted."""

import json
from collections.abc import Sequence

import numpy as np

from .image_source import stable_id

__all__ = ["WHOLE", "Texts", "UnreadableTextError", "captions_in", "tidy"]

WHOLE = -1  # instead of a number among several: a part that is one text


class UnreadableTextError(Exception):
    """A text whose file is gone or has changed: `(name, reason)`."""


class Texts:
    """A side of texts.

    Attributes:
        texts: n distinct strings. Looking one up may raise UnreadableTextError, if they are not
            in memory.
        ids: `(n,)` uint64, hashes of them.
        marks: `(n,)` zeros: another text has another id.
        lengths: `(n,)`, of each, in characters.
        names: for people.
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


def tidy(text: str) -> str:
    """A text without line breaks, repeated blanks, and halves of characters that JSON may hold."""
    return " ".join(text.encode(errors="replace").decode().split())


def captions_in(part: str, content: bytes) -> list[str]:
    """The captions that a part of a sample holds, `[]` if none that can be read.

    Args:
        part: "txt", which is one caption in UTF-8, or "json", which has one or a list of them as
            `caption` or `captions`.
        content: of the part.
    """
    try:
        if part == "txt":
            found = content.decode("utf-8-sig")
        else:
            document = json.loads(content)
            found = document.get("captions", document.get("caption"))
    except (ValueError, AttributeError, RecursionError):
        return []
    values = found if isinstance(found, list) else [found]
    return [tidy(value) for value in values if isinstance(value, str) and value.strip()]
