"""The sections on what the model finds alike: neighbours, near duplicates."""

import numpy as np

from ..findings.duplicates import group_duplicates, similar_pairs
from .page import Gallery, Section, Text, Tile
from .samples import SEED, Samples

__all__ = ["duplicates_section", "neighbours_section"]

QUERIES, SHOWN_NEIGHBOURS = 10, 7
THRESHOLD = 0.98  # cosine similarity of near duplicates
FEWEST_PAIRS = 20  # that are taken; of many samples one pair in twenty samples
SHOWN_GROUPS, SHOWN_MEMBERS = 24, 6


def neighbours_section(samples: Samples) -> Section:
    """Show the nearest neighbours of some random samples."""
    title = "Nearest neighbours"
    if len(samples) < 2:
        return Section(title, missing="fewer than two samples could be embedded")
    near = samples.neighbours
    rows = []
    for query in _draw_queries(samples):
        tiles = [samples.tile(query, "query", "lead")]
        both = zip(near.index[query].tolist(), near.similarity[query].tolist(), strict=True)
        tiles += [
            samples.tile(other, f"{similarity:.3f}", _mark(samples, query, other))
            for other, similarity in list(both)[:SHOWN_NEIGHBOURS]
        ]
        rows.append(("", tiles))
    caption = (
        "Each row starts with a sample drawn at random; its nearest neighbours follow, with their "
        "cosine similarity."
    )
    if samples.labels is not None:
        caption += " A green line marks the same label, a red one another label."
    return Section(title, [Text(f"Looked at: {samples.describe()}."), Gallery(rows, caption)])


def _draw_queries(samples: Samples) -> list[int]:
    """Draw samples at random, of different labels as long as there are any."""
    mixed = np.random.default_rng(SEED).permutation(len(samples))
    if samples.labels is None:
        return mixed[:QUERIES].tolist()
    _, first = np.unique(samples.labels[mixed], return_index=True)
    firsts = np.isin(np.arange(len(mixed)), first)
    return np.concatenate([mixed[firsts], mixed[~firsts]])[:QUERIES].tolist()


def _mark(samples: Samples, query: int, other: int) -> str:
    labels = samples.labels
    if labels is None or min(labels[query], labels[other]) < 0:
        return ""
    return "good" if labels[query] == labels[other] else "bad"


def duplicates_section(samples: Samples) -> Section:
    """Show groups of samples that are nearly the same to the model."""
    title = "Near duplicates"
    most = max(FEWEST_PAIRS, len(samples) // 20)
    similar = similar_pairs(samples.vectors, THRESHOLD, most=most)
    if not len(similar.pairs):
        reason = f"no two samples have a cosine similarity of {THRESHOLD} or more"
        return Section(title, missing=f"{reason} ({samples.describe()})")
    groups = group_duplicates(similar, len(samples))
    rows: list[tuple[str, list[Tile]]] = []
    for group in groups[:SHOWN_GROUPS]:
        more = max(0, len(group.rows) - SHOWN_MEMBERS)
        heading = f"similarity {group.similarity:.4f}"
        heading += f" ({more} more in this group)" if more else ""
        rows.append((heading, [samples.tile(r) for r in group.rows[:SHOWN_MEMBERS].tolist()]))
    text = (
        f"{similar.found:,} pairs have a cosine similarity of {THRESHOLD} or more. Looked at: "
        f"{samples.describe()}; all pairs of them were compared."
    )
    if similar.found > len(similar.pairs):
        text += (
            " So many are no copies: this encoder hardly tells some samples apart. The "
            f"{len(similar.pairs):,} most similar pairs, from {similar.similarity[-1]:.4f} on, are "
            "taken."
        )
    caption = "The most similar groups. Copies in training and test data flatter results."
    return Section(title, [Text(text), Gallery(rows, caption, beside=True)])
