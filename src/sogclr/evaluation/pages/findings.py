"""The sections on what deserves a look: copies, outliers, labels, texts; as `curate` finds them."""

from ..curation.find import find_duplicates, find_outliers
from ..curation.find_mistakes import find_misfit_texts, find_wrong_labels
from ..curation.finding import Finding
from .page import Gallery, Section, Text, Tile
from .pair_samples import PairSamples
from .samples import Samples

__all__ = ["copies_section", "misfits_section", "outliers_section", "suspects_section"]

SHOWN, SHOWN_GROUPS, SHOWN_MEMBERS = 24, 24, 6
TO_LIST = "sogclr curate lists them all: see “What to type next”."


def copies_section(samples: Samples) -> Section:
    """Show groups of samples that are nearly the same picture or text."""
    title = "Near duplicates"
    groups: dict[int | None, list[Finding]] = {}
    for finding in find_duplicates(samples):
        groups.setdefault(finding.group, []).append(finding)
    if not groups:
        reason = "no two of the samples are nearly the same"
        return Section(title, missing=f"{reason} ({samples.describe()})")
    rows: list[tuple[str, list[Tile]]] = []
    for members in list(groups.values())[:SHOWN_GROUPS]:
        more = max(0, len(members) - SHOWN_MEMBERS)
        heading = f"similarity {members[0].score:.3f}"
        heading += f" ({more} more in this group)" if more else ""
        rows.append((heading, [samples.tile_of_row(m.row) for m in members[:SHOWN_MEMBERS]]))
    found = sum(len(members) for members in groups.values())
    text = (
        f"{found:,} samples in {len(groups):,} groups are nearly the same. Looked at: "
        f"{samples.describe()}. The neighbours of each sample were compared, pictures by their "
        f"pixels, scaled, cropped or mirrored, and texts by their words. {TO_LIST}"
    )
    caption = "The most similar groups. Copies in training and test data flatter results."
    return Section(title, [Text(text), Gallery(rows, caption, beside=True)])


def outliers_section(samples: Samples) -> Section:
    """Show samples that are far from all others."""
    title = "Outliers"
    found = find_outliers(samples)
    if not found:
        reason = "no sample is unusually far from its neighbours"
        return Section(title, missing=f"{reason} ({samples.describe()})")
    text = (
        f"{len(found):,} samples are unusually far from their nearest neighbours "
        f"({samples.describe()}). The farthest come first. Some are damaged, or do not belong "
        f"here, others are rare and valuable. {TO_LIST}"
    )
    tiles = [
        samples.tile_of_row(finding.row, f"{1 - finding.score:.3f}") for finding in found[:SHOWN]
    ]
    caption = "The number is the mean cosine similarity to the nearest neighbours."
    return Section(title, [Text(text), Gallery([("", tiles)], caption)])


def suspects_section(samples: Samples) -> Section:
    """Show images whose vectors contradict their label."""
    title = "Suspected wrong labels"
    mistakes = find_wrong_labels(samples)
    if mistakes.not_judged:
        return Section(title, missing=mistakes.not_judged)
    found = mistakes.findings
    if not found:
        return Section(title, missing=f"no label stands out as wrong ({samples.describe()})")
    tiles = [
        samples.tile_of_row(finding.row, f"label {finding.label}; rather {finding.suggested}")
        for finding in found[:SHOWN]
    ]
    text = (
        f"The vectors of {len(found):,} images fit their label no better than the labels of other "
        f"images ({samples.describe()}). The clearest come first. Some are wrong labels, others "
        "are images that the encoder does not understand: look before you change any. "
        f"{TO_LIST}"
    )
    return Section(title, [Text(text), Gallery([("", tiles)])])


def misfits_section(pairs: PairSamples) -> Section:
    """Show texts that do not fit their partner."""
    title = "Texts that do not fit"
    mistakes = find_misfit_texts(pairs)
    if mistakes.not_judged:
        return Section(title, missing=mistakes.not_judged)
    found = mistakes.findings
    if not found:
        return Section(title, missing=f"no text stands out as wrong ({pairs.a.describe()})")
    rows = []
    for finding in found[:SHOWN]:
        assert finding.text is not None
        note = f"{finding.score:.0%} of random pairs fit better"
        text = pairs.b.name_of_row(finding.text)
        rows.append((f"“{text}”", [pairs.a.tile_of_row(finding.row, note)]))
    about = (
        f"{len(found):,} of {len(pairs.owner):,} pairs fit no better than random pairs do "
        f"({pairs.a.describe()}). The clearest come first. Some texts are wrong, others say what "
        f"the model does not understand. {TO_LIST}"
    )
    return Section(title, [Text(about), Gallery(rows, beside=True)])
