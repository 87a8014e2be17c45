"""The section on log u: which samples lie in crowded neighbourhoods, and which are lonely."""

import numpy as np

from ...common.colors import METHOD_COLORS
from ...data.texts import Texts
from ..findings.crowding import rank_crowding
from .charts import draw_histogram
from .page import Block, Gallery, Picture, Pictures, Section, Text
from .samples import Samples

__all__ = ["crowding_section"]

TITLE = "Crowded and lonely samples"
SHOWN = 16


def crowding_section(sides: list[Samples], method: str) -> Section:
    """Show the samples with the largest and the smallest log u.

    Args:
        sides: the samples of the data; for pairs both sides.
        method: the method of the run.
    """
    if method != "sogclr":
        return Section(TITLE, missing=f"{method} keeps no number for each sample; sogclr does")
    blocks: list[Block] = []
    for side in sides:
        log_u = side.all_log_u
        if log_u is not None and np.isfinite(log_u).any():
            blocks += _side_blocks(side, log_u)
    if not blocks:
        return Section(TITLE, missing="the run has no number of its own for any of these samples")
    explanation = Text(
        "SogCLR keeps one number for each sample: log u, the logarithm of the mean of "
        "exp(similarity / tau) over all other samples. It is large where many samples are similar "
        "(crowded) and small for a sample that is like no other (lonely). Crowded samples are "
        "often copies or blanks, lonely ones often rare, or damaged."
    )
    return Section(TITLE, [explanation, *blocks])


def _side_blocks(side: Samples, log_u: np.ndarray) -> list[Block]:
    ranked = rank_crowding(log_u)
    kind = "texts" if isinstance(side.source, Texts) else "images"
    values = log_u[ranked]
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    picture = Picture(
        f"log u of {len(ranked):,} {kind}",
        draw_histogram(values, "log u in nats", kind, METHOD_COLORS["sogclr"]),
        f"Histogram of log u: median {middle:.2f}, nine tenths between {low:.2f} and {high:.2f}",
        f"All {kind} of the data that the run knows. Nine tenths lie between {low:.2f} and "
        f"{high:.2f}.",
    )
    half = min(SHOWN, (len(ranked) + 1) // 2)
    lonely = ranked[::-1][: min(half, len(ranked) - half)]
    rows = [
        (heading, [side.tile_of_row(row, f"{log_u[row]:.2f}") for row in chosen.tolist()])
        for heading, chosen in (
            (f"The most crowded {kind}", ranked[:half]),
            (f"The loneliest {kind}", lonely),
        )
    ]
    return [Pictures([picture]), Gallery(rows, "The number is log u.")]
