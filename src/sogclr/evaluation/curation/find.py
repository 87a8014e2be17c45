"""Find what deserves a look among embedded samples; the report and `curate` show the same."""

import numpy as np

from ...common.console import track
from ...data.decode import DECODING_ERRORS, UnreadableImageError
from ...data.image_source import ImageSource
from ...data.texts import Texts
from ..findings.crowding import join_regions
from ..findings.duplicates import SimilarPairs, compare_texts, group_duplicates, pair_neighbours
from ..findings.outliers import far_above, measure_distance
from ..findings.same_picture import SIDE, choose_threshold, compare_pictures, make_small
from ..pages.samples import Samples
from .finding import Finding

__all__ = ["find_crowded", "find_duplicates", "find_outliers"]

SAME_TEXT = 0.9  # share of the words of copies


def find_duplicates(samples: Samples, side: str = "") -> list[Finding]:
    """Find copies: neighbours of a sample that are the same picture, or the same text.

    The encoder proposes the nearest neighbours. Pixels or words decide: to an encoder that was
    trained to overlook colours and crops, different pictures may be alike.
    """
    candidates = pair_neighbours(samples.neighbours)
    if isinstance(samples.source, Texts):
        texts = [samples.source.texts[row] for row in samples.rows.tolist()]
        similarity, threshold = compare_texts(texts, candidates), SAME_TEXT
        same = "nearly the same text as {other}: {similarity:.0%} of the words"
    else:
        small = _read_small(samples.source, samples.rows)
        similarity = compare_pictures(small, candidates)
        threshold = choose_threshold(similarity)
        same = "nearly the same picture as {other}: pixels correlate by {similarity:.3f}"
    pairs = SimilarPairs.above(threshold, candidates, similarity)
    partner: dict[int, tuple[int, float]] = {}  # the most similar copy of each sample
    for (one, other), value in zip(pairs.pairs.tolist(), pairs.similarity.tolist(), strict=True):
        partner.setdefault(one, (other, value))
        partner.setdefault(other, (one, value))
    findings = []
    for number, group in enumerate(group_duplicates(pairs, len(samples))):
        for position in group.rows.tolist():
            other, value = partner[position]
            name = samples.name_of_row(int(samples.rows[other]))
            findings.append(
                Finding(
                    "duplicate",
                    int(samples.rows[position]),
                    value,
                    same.format(other=name, similarity=value),
                    side,
                    group=number,
                    other=int(samples.rows[other]),
                )
            )
    return findings


def _read_small(source: ImageSource, rows: np.ndarray) -> np.ndarray:
    """Read images as small gray pictures; of one that is gone since it was embedded, noise."""
    small = np.random.default_rng(0).integers(0, 256, (len(rows), SIDE, SIDE), dtype=np.uint8)
    for place, row in enumerate(track(rows.tolist(), "comparing pixels")):
        try:
            small[place] = make_small(source.image(row))
        except (UnreadableImageError, *DECODING_ERRORS):
            continue
    return small


def find_outliers(samples: Samples, side: str = "") -> list[Finding]:
    """Find samples whose nearest neighbours are far away, beside those of the others."""
    near = samples.neighbours
    distance = measure_distance(near)
    usual = 1 - float(np.median(distance)) if len(distance) else 0.0
    reason = (
        "mean cosine similarity to its {k} nearest neighbours {own:.3f}; "
        "half of the samples have {usual:.3f} or more"
    )
    return [
        Finding(
            "outlier",
            int(samples.rows[position]),
            float(distance[position]),
            reason.format(k=near.index.shape[1], own=1 - distance[position], usual=usual),
            side,
        )
        for position in far_above(distance).tolist()
    ]


def find_crowded(samples: Samples, side: str = "") -> list[Finding]:
    """Find samples with an unusually large log u, and which of them are neighbours."""
    if samples.all_log_u is None:
        return []
    log_u = samples.all_log_u[samples.rows]
    crowded = far_above(log_u)
    if not len(crowded):
        return []
    regions = join_regions(crowded, samples.neighbours)
    sizes = np.bincount(regions)
    middle = float(np.median(log_u[np.isfinite(log_u)]))
    findings = []
    for position, region in zip(crowded.tolist(), regions.tolist(), strict=True):
        value, others = float(log_u[position]), int(sizes[region]) - 1
        beside = f"; {others:,} more in its region" if others else ""
        reason = f"log u is {value:.2f}, the median {middle:.2f}{beside}"
        row = int(samples.rows[position])
        findings.append(Finding("crowded", row, value, reason, side, group=region))
    return findings
