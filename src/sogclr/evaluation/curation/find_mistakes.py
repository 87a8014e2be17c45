"""Find labels and texts that were assigned by mistake, if the model can judge them at all."""

from dataclasses import dataclass

import numpy as np

from ...data.image_source import NO_LABEL
from ..findings.captions import fit_pairs
from ..findings.labels import FEWEST, find_label_suspects
from ..findings.misfits import FEWEST_RECOGNIZED, Misfits, find_misfits
from ..pages.pair_samples import PairSamples
from ..pages.samples import Samples
from .finding import Finding

__all__ = ["Mistakes", "find_misfit_texts", "find_wrong_labels"]


@dataclass(frozen=True)
class Mistakes:
    """The samples whose label or text is probably wrong.

    Attributes:
        findings: the clearest first.
        not_judged: why there are no findings, although some may be wrong; "" if they were judged.
    """

    findings: list[Finding]
    not_judged: str = ""


def find_wrong_labels(samples: Samples) -> Mistakes:
    """Find samples to which a classifier gives their label hardly any probability."""
    if samples.labels is None:
        return Mistakes([], "the data has no labels; sub-folders are labels")
    labelled = np.flatnonzero(samples.labels != NO_LABEL)
    labels = samples.labels[labelled]
    suspects = find_label_suspects(samples.vectors[labelled], labels)
    if suspects.misfits is None:
        return Mistakes([], f"fewer than two classes have {FEWEST} images")
    if suspects.misfits.are_worthless:
        return Mistakes([], _explain_weakness(suspects.misfits, "label"))
    findings = []
    for place in suspects.positions.tolist():
        given = samples.label_name(int(labels[place]))
        best = samples.label_name(int(suspects.best[place]))
        own = float(suspects.own[place])
        reason = (
            f"by its vector, the label is {given} with probability {own:.1%}, "
            f"{best} with {suspects.best_probability[place]:.0%}"
        )
        row = int(samples.rows[labelled[place]])
        findings.append(Finding("label", row, 1 - own, reason, label=given, suggested=best))
    return Mistakes(findings)


def find_misfit_texts(pairs: PairSamples) -> Mistakes:
    """Find pairs whose samples fit each other no better than samples of different pairs do."""
    if not len(pairs.owner):
        return Mistakes([], "no pair could be embedded")
    fits = fit_pairs(pairs.a.vectors, pairs.b.vectors, pairs.owner, pairs.partner)
    foreign = np.sort(fits.foreign)
    misfits = find_misfits(fits.fit, foreign)
    if misfits.are_worthless:
        return Mistakes([], _explain_weakness(misfits, "partner"))
    findings = []
    for pair in misfits.positions.tolist():
        better = 1 - float(np.searchsorted(foreign, fits.fit[pair])) / len(foreign)
        text = int(pairs.b.rows[pairs.partner[pair]])
        findings.append(
            Finding(
                "caption",
                int(pairs.a.rows[pairs.owner[pair]]),
                better,
                f"{better:.0%} of random pairs fit better than this one, which has a cosine "
                f"similarity of {fits.similarity[pair]:.3f}",
                side="a",
                text=text,
            )
        )
    return Mistakes(findings)


def _explain_weakness(misfits: Misfits, partner: str) -> str:
    """Say by which number a list would be worthless; `partner` is what belongs to a sample."""
    return (
        f"the model cannot judge: a sample fits its own {partner} better than that of another in "
        f"{misfits.recognized:.0%} of cases (chance 50%, needed {FEWEST_RECOGNIZED:.0%}); "
        f"train longer, unless many a {partner} is wrong"
    )
