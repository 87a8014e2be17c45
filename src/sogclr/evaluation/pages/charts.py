"""Draw charts as SVG that takes the colour of the text around it, in light and in dark."""

import io
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

__all__ = ["CLASS_COLORS", "OTHER_COLOR", "Line", "draw_histogram", "draw_lines", "draw_points"]

# Stands for the colour of the text; replaced by the word that CSS has for it.
INK = "#010203"
# Twenty colours that can be told apart on white and on black; related ones are far apart.
CLASS_COLORS = (
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#b07860", "#e377c2", "#8c8c8c",
    "#bcbd22", "#17becf", "#6f9fe0", "#e0a84f", "#5fc08a", "#e8837c", "#b79be0", "#a05a2c",
    "#c25aa0", "#5a7a8c", "#8a9a2b", "#4f8f8f",
)  # fmt: skip
OTHER_COLOR = "#9a9a9a"
# From lonely to crowded: no end vanishes on white or on black.
SCALE = ("#3f78c2", "#9a63b8", "#d9588a", "#ee8a3a")

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sogclr",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#808080",
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "savefig.transparent": True,
}


@dataclass(frozen=True)
class Line:
    """A curve: x and y, both `(n,)`, its colour, and its name in the legend or ""."""

    x: list[float]
    y: list[float]
    color: str
    label: str = ""


def draw_lines(lines: list[Line], y_label: str, *, zero: bool = False) -> Markup:
    """Draw curves over epochs; `zero` adds a line at zero. A curve of few points shows them."""
    from matplotlib.ticker import MaxNLocator

    with _style():
        figure, axes = _start()
        if zero:
            axes.axhline(0, color=INK, linewidth=0.6, alpha=0.6)
        for line in lines:
            marker = "o" if len(line.x) <= 12 else ""
            axes.plot(
                line.x, line.y, color=line.color, label=line.label, marker=marker, markersize=3.5
            )
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel(y_label)
        if any(line.label for line in lines):
            axes.legend(fontsize=8.5)
        return _finish(figure)


def draw_histogram(values: np.ndarray, x_label: str, y_label: str, color: str) -> Markup:
    """Draw how often values of an array `(n,)` occur."""
    with _style():
        figure, axes = _start()
        axes.hist(values, bins=min(40, max(5, len(values) // 10)), color=color, alpha=0.85)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        return _finish(figure)


def draw_points(
    places: np.ndarray, *, colors: list[str] | None = None, values: np.ndarray | None = None
) -> Markup:
    """Draw points `(n, 2)`, with a colour each, or coloured by values `(n,)` with a scale."""
    from matplotlib.colors import LinearSegmentedColormap

    with _style():
        figure, axes = _start(4.6, 4.2)
        size = 14 if len(places) <= 800 else 7
        colours: Any = colors if values is None else values
        drawn = axes.scatter(
            *places.T,
            s=size,
            c=colours,
            cmap=LinearSegmentedColormap.from_list("crowding", SCALE) if colors is None else None,
            linewidths=0,
            alpha=0.85,
            rasterized=True,
        )
        axes.set_axis_off()
        axes.set_aspect("equal", adjustable="datalim")
        if values is not None:
            bar = figure.colorbar(drawn, ax=axes, shrink=0.7, label="log u in nats")
            bar.outline.set_visible(False)
            bar.solids.set_alpha(1)
        return _finish(figure)


def _style() -> Any:
    import matplotlib as mpl

    return mpl.rc_context(STYLE)


def _start(width: float = 4.2, height: float = 2.7) -> tuple[Any, Any]:
    """Make a figure of its own, apart from those that a user's program has open."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _finish(figure: Any) -> Markup:
    """Write a figure as SVG without a size of its own, so that the page decides."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", dpi=160, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    svg = text[text.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    # matplotlib escapes its texts, and none of them comes with the data.
    return Markup(svg.replace(INK, "currentColor"))
