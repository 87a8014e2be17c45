"""The picture of an audit: error of the average gradient against batch size."""

import math
from pathlib import Path
from typing import Any

from ..common.colors import METHOD_COLORS
from ..data.own_pictures import MARK
from .measured import LABELS, Audit, Measured, format_bias, format_worth

__all__ = ["draw_audit"]

TABLE_COLOR, NOTE_COLOR = METHOD_COLORS["sogclr"], "#6b6b6b"


def draw_audit(audit: Audit, name: str, target: Path) -> None:
    """Draw the audit for readers who do not know the method.

    Args:
        audit: the measurements.
        name: the run's or the encoder's name, for the title.
        target: the PNG file to write.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.6, 4.8), layout="constrained")
    for estimator, method, label in (
        ("batch with positive", "simclr", LABELS["batch with positive"]),
        ("batch", "dcl", LABELS["batch"]),
    ):
        curve = audit.curve(estimator)
        axes.errorbar(
            [row.batch for row in curve],
            # No line leads across an error that is lost in noise.
            [100 * row.v1.relative if row.v1.seen else math.nan for row in curve],
            [100 * row.v1.uncertainty for row in curve],
            fmt="o-",
            color=METHOD_COLORS[method],
            label=label,
            capsize=2,
            linewidth=2,
        )
    table = audit.curve("table")[0]
    _draw_table(axes, audit, table)
    sizes = [row.batch for row in audit.curve("batch")]
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.set_xlim(min(*sizes, table.batch) / 1.4, max(*sizes, table.batch) * 1.4)
    _set_percent_ticks(axes)
    axes.set_xlabel("samples in a batch")
    axes.set_ylabel("error of the average step")
    axes.set_title(
        "How far the average step is from the exact step", fontsize=13, loc="left", pad=24
    )
    note = f"{name}; the exact step compares all {audit.samples:,} samples; lower is better"
    axes.text(0, 1.025, note, transform=axes.transAxes, fontsize=10, color=NOTE_COLOR)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right", fontsize=9)
    figure.savefig(target, dpi=150, format="png", metadata=MARK)
    plt.close(figure)


def _draw_table(axes: Any, audit: Audit, table: Measured) -> None:
    """Mark the error of the table, with an arrow to the batch size that is as good."""
    level = 100 * (table.v2.relative if table.v2.seen else table.v2.at_most)
    batch = table.batch
    label = f"{LABELS['table']}: {format_bias(table.v2)}"
    axes.plot([batch], [level], "*", markersize=17, color=TABLE_COLOR, label=label, zorder=5)
    curve = audit.curve("batch")
    last = curve[-1].batch
    end = 1.3 * max(last, batch) if audit.worth is None else audit.worth
    if end <= batch or not curve[0].v1.seen:
        return
    arrow = {"arrowstyle": "->", "color": TABLE_COLOR, "lw": 1.8}
    axes.annotate("", (end, level), (batch, level), arrowprops=arrow)
    axes.annotate(
        f"as good as DCL's\nbatch of {format_worth(audit.worth, curve)}",
        (batch, level),
        xytext=(0, -12),
        va="top",
        ha="center",
        textcoords="offset points",
        color=TABLE_COLOR,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8},
        zorder=6,
    )


def _set_percent_ticks(axes: Any) -> None:
    """Set ticks at 1, 2 and 5 times powers of ten, with room below for the text."""
    low, high = axes.get_ylim()
    candidates = [m * 10**k for k in range(-3, 4) for m in (1, 2, 5)]
    ticks = [tick for tick in candidates if low / 1.5 <= tick <= high * 1.5]
    axes.set_yticks(ticks, [f"{tick:g}%" for tick in ticks])
    axes.set_ylim(low / 1.5, high)
    axes.minorticks_off()
