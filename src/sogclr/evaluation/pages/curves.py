"""The section of curves: what a run logged while it trained."""

from ...common.colors import METHOD_COLORS
from .charts import Line, draw_lines
from .page import Picture, Pictures, Section
from .record import RunRecord

__all__ = ["curves_section"]

TITLE = "Curves"
BATCH = METHOD_COLORS["dcl"]  # which takes its normalizers from the batch, without the positive
SCORES = {
    "knn": (
        "kNN accuracy",
        "Accuracy of the 20 nearest neighbours on at most 2,000 of the training images, each left "
        "out in turn. Labels play no part in training. Higher is better; a test set gives less.",
    ),
    "R@1": (
        "R@1",
        "How often the nearest text of an image, or image of a text, is its partner: the mean of "
        "both directions, on the held-back pairs, or on at most 1,000 training pairs. Higher is "
        "better.",
    ),
}


def curves_section(record: RunRecord) -> Section:
    """Draw the curves that the run has logged."""
    if not record.metrics:
        return Section(
            TITLE, missing="nothing is logged yet: the first line comes after some steps"
        )
    pictures = [
        *_scores(record),
        *_single(
            record,
            "objective",
            "Objective",
            "loss",
            "The loss that is trained, on the scale of similarities, averaged since the last "
            "point. Lower is better; compare only runs of the same temperature and data.",
        ),
        *_single(
            record,
            "alignment",
            "Alignment",
            "squared distance",
            "Mean squared distance of the two sides of a sample on the unit sphere, 0 to 4. "
            "Lower: positives are nearer.",
        ),
        *_single(
            record,
            "uniformity",
            "Uniformity",
            "log potential",
            "How evenly samples cover the sphere, from 0 (all equal) to about -4. Lower: more "
            "evenly. Near 0 the encoder has collapsed.",
        ),
        *_normalizer_errors(record),
        *_single(
            record,
            "normalizer_lag",
            "Lag of log u",
            "log u - log g in nats",
            "The part of the error that all samples share. Below zero, the stored numbers are too "
            "small; near zero they keep up with the encoder.",
            zero=True,
        ),
        *_single(
            record,
            "learning_rate",
            "Learning rate",
            "learning rate",
            "A rise over the first tenth of the run, then a cosine to zero.",
        ),
    ]
    return Section(TITLE, [Pictures(pictures)])


def _scores(record: RunRecord) -> list[Picture]:
    found = []
    for name, (title, caption) in SCORES.items():
        epochs, values = record.curve(name)
        if epochs:
            percent = [100 * value for value in values]
            svg = draw_lines([Line(epochs, percent, _own_color(record))], f"{title} in %")
            found.append(Picture(title, svg, _describe(title, percent, "%"), caption))
    return found


def _single(
    record: RunRecord, name: str, title: str, unit: str, caption: str, *, zero: bool = False
) -> list[Picture]:
    epochs, values = record.curve(name)
    if not epochs:
        return []
    svg = draw_lines([Line(epochs, values, _own_color(record))], unit, zero=zero)
    return [Picture(title, svg, _describe(title, values), caption)]


def _normalizer_errors(record: RunRecord) -> list[Picture]:
    lines = []
    for name, color, label in (
        ("normalizer_error", METHOD_COLORS["sogclr"], "stored number (SogCLR)"),
        ("in_batch_error", BATCH, "the batch alone"),
    ):
        epochs, values = record.curve(name)
        if epochs:
            lines.append(Line(epochs, values, color, label))
    if not lines:
        return []
    title = "Error of the normalizers"
    caption = (
        "Root mean square error of the estimated log g, the logarithm of a sample's mean "
        "exp(similarity / tau) over all others. Lower is better: where the stored number lies "
        "below the batch, SogCLR knows more than its batch shows."
    )
    described = "; ".join(_describe(line.label, line.y) for line in lines)
    return [Picture(title, draw_lines(lines, "error of log g in nats"), described, caption)]


def _own_color(record: RunRecord) -> str:
    """Return the colour of the run's method, which it has in all pictures."""
    return METHOD_COLORS[record.settings.method]


def _describe(title: str, values: list[float], unit: str = "") -> str:
    """Say for those who do not see a curve where it starts and ends, and its extremes."""
    unit = f" {unit}" if unit else ""
    return (
        f"{title} over epochs: from {values[0]:.3g} to {values[-1]:.3g}{unit}, "
        f"smallest {min(values):.3g}, largest {max(values):.3g}"
    )
