"""The sections on pairs: retrieval between both sides, and examples of hits and misses."""

import numpy as np
import torch

from ..retrieval import summarize_ranks
from .page import Block, Gallery, Section, Table, Text, Tile
from .pair_samples import PairSamples
from .samples import SEED

__all__ = ["matches_section", "retrieval_section"]

QUERIES, SHOWN_FOUND = 6, 4  # four are a row on a phone


def retrieval_section(pairs: PairSamples) -> Section:
    """List recall and median rank in both directions."""
    title = "Results"
    if not len(pairs.owner):
        return Section(title, missing="no pair could be embedded")
    rows, lines = [], []
    a, b = pairs.source.columns
    for name, ranks in zip((f"{a} to {b}", f"{b} to {a}"), pairs.ranks, strict=True):
        found = summarize_ranks(torch.from_numpy(ranks))
        recalls = [f"{value:.1%}" for value in found.recall.values()]
        rows.append([name, *recalls, f"{found.median_rank:g}", f"{found.queries:,}"])
        lines.append(f"{name} {recalls[0]}")
    header = ["retrieval", "R@1", "R@5", "R@10", "median rank", "queries"]
    seen = " The run was trained on these pairs; held-back pairs give less." * (
        pairs.a.were_trained_on
    )
    caption = (
        f"R@k: how often a partner is among the k most similar, of {len(pairs.a):,} samples and "
        f"{len(pairs.owner):,} texts ({pairs.a.describe()}). By chance R@1 would be about "
        f"{1 / len(pairs.a):.2%}.{seen} The fewer samples, the higher the numbers."
    )
    kind = "training pairs" if pairs.a.were_trained_on else "pairs"
    line = (
        f"R@1 of {len(pairs.owner):,} {kind}: {', '.join(lines)} (by chance {1 / len(pairs.a):.2%})"
    )
    return Section(title, [Table(header, rows, caption)], lines=[line])


def matches_section(pairs: PairSamples) -> Section:
    """Show what some texts find: queries whose partner comes first, and others."""
    title = "Hits and misses"
    if not len(pairs.owner):
        return Section(title, missing="no pair could be embedded")
    ranks = pairs.ranks[1]  # of each pair's text, among the samples of side a
    order = np.random.default_rng(SEED).permutation(len(ranks))
    hits = order[ranks[order] == 1][:QUERIES]
    misses = order[ranks[order] > 1][:QUERIES]
    blocks = list[Block]()
    for heading, chosen in (("Hits", hits), ("Misses", misses)):
        if len(chosen):
            rows = [_found_row(pairs, int(pair), int(ranks[pair])) for pair in chosen]
            blocks.append(Text(f"{heading}: {_explain(heading)}"))
            blocks.append(Gallery(rows))
    return Section(title, blocks)


def _explain(heading: str) -> str:
    if heading == "Hits":
        return "texts drawn at random whose own partner, with the green line, comes first."
    return (
        "texts drawn at random that find others first. The last one, after the gap, is their own "
        "partner. Some misses fit as well as the partner does."
    )


def _found_row(pairs: PairSamples, pair: int, rank: int) -> tuple[str, list[Tile]]:
    similarity = pairs.a.vectors @ pairs.b.vectors[pairs.partner[pair]]  # (m,)
    own = int(pairs.owner[pair])
    tiles = [
        pairs.a.tile(found, f"{similarity[found]:.3f}", "good" if found == own else "")
        for found in np.argsort(-similarity, kind="stable")[:SHOWN_FOUND].tolist()
    ]
    if rank > SHOWN_FOUND:
        tiles.append(pairs.a.tile(own, f"rank {rank}: {similarity[own]:.3f}", "good apart"))
    return f"“{_text_of(pairs, pair)}”", tiles


def _text_of(pairs: PairSamples, pair: int) -> str:
    return pairs.b.name_of_row(int(pairs.b.rows[pairs.partner[pair]]))
