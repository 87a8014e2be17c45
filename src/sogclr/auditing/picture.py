"""The picture of an audit: error against batch size."""

from pathlib import Path
from typing import Any

from .measure import Audit, Measured, rounded, shown

__all__ = ["draw"]

BATCH, POSITIVE, TABLE = "#c0504d", "#e0a030", "#1f77b4"


def draw(audit: Audit, name: str, target: Path) -> None:
    """For people who have never heard of the method.

    Args:
        audit: what was found.
        name: of what was audited.
        target: the PNG.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.6, 4.8), layout="constrained")
    for estimator, color, label in (
        ("batch with positive", POSITIVE, "compared within the batch only (SimCLR, CLIP)"),
        ("batch", BATCH, "the same, without the positive (DCL)"),
    ):
        curve = [row for row in audit.curve(estimator) if row.v1.seen]
        axes.errorbar(
            [row.batch for row in curve],
            [100 * row.v1.relative for row in curve],
            [100 * row.v1.uncertainty for row in curve],
            fmt="o-",
            color=color,
            label=label,
            capsize=2,
            linewidth=2,
        )
    _mark(axes, audit, audit.curve("table")[0])
    sizes = [row.batch for row in audit.curve("batch")]
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    drawn = [*sizes, audit.curve("table")[0].batch]
    axes.set_xlim(min(drawn) / 1.4, max(drawn) * 1.4)
    _percents(axes)
    axes.set_xlabel("samples in a batch")
    axes.set_ylabel("error of the average step")
    axes.set_title(
        f"{name}: how far a step is, on average, from the step\n"
        f"that comparing each sample with all {audit.samples:,} would give (lower is better)",
        fontsize=10,
        loc="left",
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right", fontsize=9)
    figure.savefig(target, dpi=150, format="png")
    plt.close(figure)


def _mark(axes: Any, audit: Audit, table: Measured) -> None:
    """The table's point, and an arrow to the batch that would be as good."""
    level = 100 * (table.v2.relative if table.v2.seen else table.v2.at_most)
    batch = table.batch
    label = f"one number kept per sample (SogCLR): {shown(table.v2)}"
    axes.plot([batch], [level], "*", markersize=17, color=TABLE, label=label, zorder=5)
    last = audit.curve("batch")[-1].batch
    end = 1.3 * max(last, batch) if audit.worth is None else audit.worth
    if end <= batch or not audit.curve("batch")[0].v1.seen:
        return
    arrow = {"arrowstyle": "->", "color": TABLE, "lw": 1.8}
    axes.annotate("", (end, level), (batch, level), arrowprops=arrow)
    worth = f"more than {last:,}" if audit.worth is None else f"about {rounded(audit.worth):,}"
    axes.annotate(
        f"as good as\na batch of {worth}",
        (batch, level),
        xytext=(0, -12),
        va="top",
        ha="center",
        textcoords="offset points",
        color=TABLE,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8},
        zorder=6,
    )


def _percents(axes: Any) -> None:
    """Round numbers within the limits, a factor of about two apart, with room below."""
    low, high = axes.get_ylim()
    ticks = [m * 10**k for k in range(-3, 4) for m in (1, 2, 5)]
    shown_ticks = [tick for tick in ticks if low / 1.5 <= tick <= high * 1.5]
    axes.set_yticks(shown_ticks, [f"{tick:g} %" for tick in shown_ticks])
    axes.set_ylim(low / 1.5, high)
    axes.minorticks_off()
