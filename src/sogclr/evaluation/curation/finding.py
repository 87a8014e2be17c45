"""A finding: a sample that deserves a look, with a score and a reason."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

__all__ = ["KINDS", "Finding", "Kind"]

Kind: TypeAlias = Literal["duplicate", "label", "caption", "outlier", "crowded"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Finding:
    """A sample that deserves a look.

    Attributes:
        kind: what was found: a near duplicate, a doubtful label, a text that does not fit its
            partner, an outlier, or a sample in a crowded region.
        row: row of the sample in its side of the data; of a text that does not fit, of its partner.
        score: how clear it is, larger is clearer. Of a duplicate the similarity, in [0, 1]; of a
            label 1 minus its probability; of a text the share of texts of others that fit better;
            of an outlier the mean cosine distance to its neighbours; of a crowded sample log u.
        reason: says in words what the score means.
        side: "" for images alone, "a" or "b" for pairs.
        group: number of the group of duplicates, or of the crowded region, from 0.
        other: row of the sample of the same side that it is a duplicate of.
        label: the label that it has, for a doubtful one.
        suggested: the most probable label.
        text: row of the text that does not fit, in side b.
    """

    kind: Kind
    row: int
    score: float
    reason: str
    side: str = ""
    group: int | None = None
    other: int | None = None
    label: str | None = None
    suggested: str | None = None
    text: int | None = None
