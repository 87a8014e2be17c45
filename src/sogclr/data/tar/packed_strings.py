"""Sequences of strings that are created on access, to save memory."""

import operator
import os
from abc import abstractmethod
from collections.abc import Sequence
from typing import overload

import numpy as np

__all__ = ["Keys", "Strings"]


class Strings(Sequence[str]):
    """A read-only sequence; subclasses say which string is in a row."""

    @abstractmethod
    def _at(self, row: int) -> str:
        """Return the string in this row, counted from 0."""

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> list[str]: ...

    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self._at(i) for i in range(*row.indices(len(self)))]
        return self._at(range(len(self))[operator.index(row)])


class Keys(Strings):
    """Strings packed into two arrays.

    Millions of strings take a tenth of a list's memory. Loader processes share the arrays; reading
    a list would change reference counts and so copy its pages.

    Args:
        text: `(bytes,)` uint8, all strings without gaps.
        ends: `(n,)` int64, end of each string in `text`.
    """

    def __init__(self, text: np.ndarray, ends: np.ndarray) -> None:
        self.text, self.ends = text, ends

    @classmethod
    def of(cls, strings: list[str]) -> "Keys":
        """Pack a list of strings."""
        encoded = [os.fsencode(string) for string in strings]
        ends = np.cumsum([len(string) for string in encoded], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), ends)

    @classmethod
    def joined(cls, parts: list["Keys"]) -> "Keys":
        """Concatenate packed strings."""
        starts = np.cumsum([0] + [len(part.text) for part in parts])
        ends = [part.ends + start for part, start in zip(parts, starts, strict=False)]
        return cls(np.concatenate([part.text for part in parts]), np.concatenate(ends))

    def __len__(self) -> int:
        return len(self.ends)

    def _at(self, row: int) -> str:
        start = self.ends[row - 1] if row else 0
        return os.fsdecode(self.text[start : self.ends[row]].tobytes())
