"""Count the tokens of texts, to tell which share of them is cut at the context length."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..common.console import say
from ..data.pair_source import PairSource
from ..data.texts import Texts, UnreadableTextError

__all__ = ["choose_texts", "choose_texts_of_pairs", "count_tokens", "describe_cut", "report_cut"]

COUNTED = 5_000  # texts of a side
COUNTED_CHARACTERS = 20_000_000  # of a side, so that long texts do not take minutes
BATCH = 256


def choose_texts(side: Texts) -> list[str]:
    """Choose texts whose tokens are counted: the longest one, and some from all parts of a side."""
    step = max(1, -(-len(side) // COUNTED))
    rows = [int(np.argmax(side.lengths)), *range(0, len(side), step)]
    chosen: list[str] = []
    characters = 0
    for row in dict.fromkeys(rows):
        try:
            chosen.append(side.texts[row])
        except UnreadableTextError:  # reported when it is needed
            continue
        characters += len(chosen[-1])
        if characters > COUNTED_CHARACTERS:
            break
    return chosen


def choose_texts_of_pairs(source: PairSource) -> list[list[str]]:
    """Choose texts of each side that has texts, see `choose_texts`."""
    return [choose_texts(side) for side in (source.a, source.b) if isinstance(side, Texts)]


def count_tokens(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Count the tokens of n texts, with the special ones, before anything is cut.

    Args:
        tokenizer: a tokenizer of open_clip.
        texts: n strings.
    """
    plain = getattr(tokenizer, "tokenizer", None)
    if plain is None:  # open_clip's own, which adds a token at the start and one at the end
        return [len(tokenizer.encode(text)) + 2 for text in texts]
    counts: list[int] = []
    for start in range(0, len(texts), BATCH):
        cleaned = [tokenizer.clean_fn(text) for text in texts[start : start + BATCH]]
        # Not verbose: it would warn of every long text.
        tokens = plain(cleaned, truncation=False, padding=False, verbose=False)["input_ids"]
        counts += map(len, tokens)
    return counts


def describe_cut(tokenizer: Any, sides: Iterable[Sequence[str]]) -> tuple[float, str]:
    """Describe which share of texts is cut at the tokenizer's context length.

    Args:
        tokenizer: a tokenizer of open_clip.
        sides: texts of each side.

    Returns:
        The share of texts that are cut, in [0, 1], and a description.
    """
    limit = tokenizer.context_length
    counts = [count for texts in sides for count in count_tokens(tokenizer, texts)]
    cut = sum(count > limit for count in counts)
    if not cut:
        return 0.0, f"none of {len(counts):,} texts is longer than {limit} tokens"
    share = cut / len(counts)
    percent = f"{share:.1%}" if share >= 0.001 else "less than 0.1%"
    return share, (
        f"{percent} of {len(counts):,} texts are longer than {limit} tokens and are cut "
        f"(the longest has {max(counts):,})"
    )


def report_cut(tokenizer: Any, texts: Sequence[str]) -> None:
    """Print which share of texts is cut, if any is.

    Args:
        tokenizer: a tokenizer of open_clip.
        texts: n strings.
    """
    share, cut = describe_cut(tokenizer, [texts])
    if share:
        say(cut)
