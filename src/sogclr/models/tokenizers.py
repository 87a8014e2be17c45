"""Tokenizers whose ids all have a row in the text tower's table of tokens."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..common.errors import UserError

__all__ = ["TowerTokenizer"]

# Among others words that no vocabulary has, so that a missing token for unknown words shows.
SAMPLE = ["a", "a longer text, with 12 words", "\U00013080\u4e00 q\u0142x"]


class TowerTokenizer:
    """A tokenizer of open_clip that fits a text tower; it has all attributes of open_clip's.

    Args:
        tokenizer: open_clip's tokenizer.
        tower: the text tower, or its body.
        name: the file or the name of the tokenizer, for messages.

    Raises:
        UserError: the vocabulary has ids beyond the rows of the tower's table of tokens.
    """

    def __init__(self, tokenizer: Any, tower: nn.Module, name: str) -> None:
        self.inner, self.name = tokenizer, name
        self.rows = _count_rows(tower)
        self._require_within(max(_ids_of_words(tokenizer), default=0))
        self(SAMPLE)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return the token ids of n texts, `(n, L)` int64.

        Raises:
            UserError: a text has a token without a row in the table.
        """
        tokens = self.inner(texts)
        # Some published tokenizers have added tokens beyond the table, which texts do not use.
        if tokens.numel():
            self._require_within(int(tokens.max()))
        return tokens

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked for by pickle, before there is an inner tokenizer
            raise AttributeError(name)
        return getattr(self.inner, name)

    def _require_within(self, largest: int) -> None:
        if largest >= self.rows:
            raise UserError(
                f"{self.name} has a token with the id {largest}, but the text tower's table has "
                f"{self.rows} rows; take the tokenizer that belongs to the tower"
            )


def _count_rows(tower: nn.Module) -> int:
    """Count the rows of a text tower's table of tokens, which is its first table."""
    return next(m.num_embeddings for m in tower.modules() if isinstance(m, nn.Embedding))


def _ids_of_words(tokenizer: Any) -> list[int]:
    """List the ids of a vocabulary, without tokens that were added to it."""
    plain = getattr(tokenizer, "tokenizer", None)
    if plain is None:  # open_clip's own
        return list(tokenizer.encoder.values())
    added = plain.get_added_vocab()
    return [number for word, number in plain.get_vocab().items() if word not in added]
