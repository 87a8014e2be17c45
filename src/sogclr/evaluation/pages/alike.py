"""The section on what the model finds alike: neighbours of random samples."""

import numpy as np

from .page import Gallery, Section, Text
from .samples import SEED, Samples

__all__ = ["neighbours_section"]

QUERIES, SHOWN_NEIGHBOURS = 10, 7


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
