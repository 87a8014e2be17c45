"""Find texts that do not fit their partner, among embedded pairs."""

import numpy as np

from ..findings.captions import fit_pairs
from ..findings.misfits import find_misfits
from ..pages.pair_samples import PairSamples
from .finding import Finding

__all__ = ["find_misfit_texts"]


def find_misfit_texts(pairs: PairSamples) -> list[Finding]:
    """Find pairs whose samples fit each other no better than samples of different pairs do."""
    if not len(pairs.owner):
        return []
    fits = fit_pairs(pairs.a.vectors, pairs.b.vectors, pairs.owner, pairs.partner)
    foreign = np.sort(fits.foreign)
    findings = []
    for pair in find_misfits(fits.fit, foreign).positions.tolist():
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
    return findings
