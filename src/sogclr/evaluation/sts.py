"""Semantic textual similarity: compare cosine similarities with human scores."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from ..common.console import say
from ..common.errors import UserError
from ..data.tables.read import Table
from ..data.texts import Texts, tidy
from ..models.pair_encoder import PairEncoder
from .embed_pairs import embed_side

__all__ = ["SentenceSimilarity", "measure_sts"]


@dataclass(frozen=True)
class SentenceSimilarity:
    """The result on a table of scored sentence pairs.

    Attributes:
        correlation: Spearman's rank correlation of cosine similarities with scores, in [-1, 1].
        pairs: number of pairs with two sentences.
    """

    correlation: float
    pairs: int


def measure_sts(encoder: PairEncoder, table: Table, columns: tuple[str, str]) -> SentenceSimilarity:
    """Correlate the similarities of sentence pairs with the scores of the table.

    Args:
        encoder: a run's towers, one of them for texts.
        table: a table with a column `score`.
        columns: names of the two columns that hold the sentences.

    Raises:
        UserError: a score is not a number, or there are fewer than two pairs.
    """
    from scipy.stats import spearmanr

    first, second, scores = _read_scored_texts(table, columns)
    a, b = (torch.from_numpy(embed_side(encoder, Texts(texts))) for texts in (first, second))
    similarity = torch.cosine_similarity(a, b).numpy()  # (n,)
    return SentenceSimilarity(float(spearmanr(similarity, scores).statistic), len(scores))


def _read_scored_texts(
    table: Table, columns: tuple[str, str]
) -> tuple[list[str], list[str], list[float]]:
    """Return both sentences and the score of each pair; print which rows are left out."""
    first, second, scores = [], [], []
    left_out = list(table.broken)
    values = (table.values(name) for name in (*columns, "score"))
    for row, one, other, score in zip(table.rows, *values, strict=True):
        if not all(isinstance(text, str) and text.strip() for text in (one, other)):
            left_out.append((row, "no two sentences"))
            continue
        first.append(tidy(one))
        second.append(tidy(other))
        scores.append(_read_score(score, row, table))
    if left_out:
        row, reason = min(left_out)
        say(f"{table.name}: {len(left_out):,} rows left out (the first: row {row}, {reason})")
    if len(scores) < 2:
        raise UserError(f"data: {table.name} has fewer than two pairs of sentences with a score")
    return first, second, scores


def _read_score(score: Any, row: int, table: Table) -> float:
    try:
        value = float(score)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"data: the score in row {row} of {table.name} is not a number: {score!r}")
    return value
