"""Show what a text tower reads of a text: its tokens, turned back into text, and what is cut."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

__all__ = ["Piece", "TextAsRead", "read_texts"]


@dataclass(frozen=True)
class Piece:
    """A part of a text, as its tokens spell it.

    Attributes:
        text: the part, usually in lower case; unknown words are a token such as [UNK].
        is_read: whether the tower receives these tokens.
    """

    text: str
    is_read: bool


@dataclass(frozen=True)
class TextAsRead:
    """A text as a tower reads it.

    Attributes:
        pieces: its parts in order, without the tokens at the start and at the end.
        tokens: number of its tokens, without those at the start and at the end.
        cut: number of its tokens that the tower does not receive.
    """

    pieces: list[Piece]
    tokens: int
    cut: int


def read_texts(tokenizer: Any, texts: Sequence[str]) -> list[TextAsRead]:
    """Compare what n texts consist of with what the tower receives.

    Args:
        tokenizer: a tokenizer of open_clip.
        texts: n strings.
    """
    received = tokenizer(list(texts)).tolist() if texts else []  # (n, L)
    return [
        _read_text(tokenizer, _own_tokens(tokenizer, text), tokens)
        for text, tokens in zip(texts, received, strict=True)
    ]


def _own_tokens(tokenizer: Any, text: str) -> list[int]:
    """Return all tokens of a text, without those at the start and at the end."""
    plain = getattr(tokenizer, "tokenizer", None)
    if plain is None:  # open_clip's own
        return tokenizer.encode(text)
    # Not verbose: it would warn of a long text.
    tokens = plain(tokenizer.clean_fn(text), add_special_tokens=False, verbose=False)
    return list(tokens["input_ids"])


def _read_text(tokenizer: Any, own: list[int], received: list[int]) -> TextAsRead:
    """Divide the tokens of a text into those that the tower receives and the others.

    Usually the first tokens are received. Some published models drop others, also at random.
    """
    pieces, end, read = list[Piece](), 0, 0
    matcher = SequenceMatcher(None, own, received, autojunk=False)
    for block in matcher.get_matching_blocks():  # the last one is empty, at the end of `own`
        for start, stop, is_read in ((end, block.a, False), (block.a, block.a + block.size, True)):
            if start < stop:
                pieces.append(Piece(_decode(tokenizer, own[start:stop]), is_read))
        end = block.a + block.size
        read += block.size
    return TextAsRead(pieces, len(own), len(own) - read)


def _decode(tokenizer: Any, tokens: list[int]) -> str:
    plain = getattr(tokenizer, "tokenizer", None)
    text = tokenizer.decode(tokens) if plain is None else plain.decode(tokens)
    return text.strip()
