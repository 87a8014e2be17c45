"""The result of an audit, and what it says in words."""

import math
from dataclasses import dataclass

from .coupling import Coupling
from .expected_gradient import Bias

__all__ = [
    "IN_BATCH",
    "LABELS",
    "Audit",
    "Lag",
    "Measured",
    "format_bias",
    "format_worth",
    "summarize",
]

IN_BATCH = ("batch", "batch with positive")  # estimators, see `Measured`
# Print and picture call the estimators so; the table has this order.
LABELS = {
    "batch": "the batch (DCL)",
    "batch with positive": "the batch with the positive (SimCLR, CLIP)",
    "table": "one number per sample (SogCLR)",
    "table at rest": "that number before a step",
}
GAIN = 1.5  # times the batch size: a table that is worth less has a small effect


@dataclass(frozen=True)
class Measured:
    """The error of the expected gradient that one estimator of the normalizers gives.

    Attributes:
        estimator: "batch" (normalizers from the batch: DCL), "batch with positive" (SimCLR,
            CLIP), "table" (SogCLR: one step from the current table), or "table at rest" (the
            same step without its update of the table).
        batch: batch size; 0 if the error does not depend on it.
        v1: error against the objective F, which averages log g over views.
        v2: error against F2, the log of the average, which one number a sample estimates.
    """

    estimator: str
    batch: int
    v1: Bias
    v2: Bias


@dataclass(frozen=True)
class Lag:
    """The error of the table, log u - log g, over samples.

    Attributes:
        mean: above 0 if u is too large.
        spread: standard deviation, without the noise of the reference values of log g.
    """

    mean: float
    spread: float


@dataclass(frozen=True)
class Audit:
    """The result of `sogclr.audit`.

    Attributes:
        samples: number of samples that were compared.
        views: number of stored views of each sample.
        width: dimension of the embeddings.
        temperature: tau of the loss; the mean if each sample has its own.
        batch_size: batch size of the run.
        rows: one measurement for each estimator and batch size.
        distance: length of the difference between the gradients of F and F2, relative to F2's.
        lag: error of the table.
        worth: the batch size at which DCL, whose normalizers come from the batch, has as small an
            error as the table. 0.0 if it is below the smallest measured size, None if above the
            largest.
        worth_with_positive: the same for SimCLR or CLIP, whose normalizers hold the positive too.
        coupling: how ĝ of a batch compares with what rows of other batches give; None if the data
            fill one batch alone.
        summary: the result in a few sentences, what to do, and a warning if rows are coupled.
    """

    samples: int
    views: int
    width: int
    temperature: float
    batch_size: int
    rows: list[Measured]
    distance: float
    lag: Lag
    worth: float | None
    worth_with_positive: float | None
    coupling: Coupling | None
    summary: str

    def curve(self, estimator: str) -> list[Measured]:
        """Return the measurements of one estimator, by batch size."""
        return [row for row in self.rows if row.estimator == estimator]


def summarize(
    rows: list[Measured], worths: list[float | None], *, batch: int, pairs: bool, trained: bool
) -> str:
    """Say which batch sizes the table is worth, and what follows.

    Args:
        rows: all measurements.
        worths: `Audit.worth` and `Audit.worth_with_positive`.
        batch: batch size of the run.
        pairs: whether the samples are pairs.
        trained: whether the table is the run's own.
    """
    dcl, positive = ([row for row in rows if row.estimator == name] for name in IN_BATCH)
    table = next(row.v2 for row in rows if row.estimator == "table")
    subject = "this run's normalizers" if trained else "normalizers kept per sample"
    usual = "CLIP" if pairs else "SimCLR"
    without, within = (format_worth(w, c) for w, c in zip(worths, (dcl, positive), strict=True))
    value = f"as good as those of a batch of {within} with {usual}, of {without} with DCL"
    if not dcl[0].v1.seen:
        value = "no better than those of a batch, whose error is too small to be measured"
    errors = [min(c, key=lambda row: abs(math.log(row.batch / batch))) for c in (positive, dcl)]
    return (
        f"At batch {batch}, {subject} are {value}. The average gradient is off by "
        f"{format_bias(table)}; {usual}'s is off by {format_bias(errors[0].v1)} at batch "
        f"{errors[0].batch}, DCL's by {format_bias(errors[1].v1)}. "
        f"{_advise(worths[0], dcl[0].v1.seen, batch, trained)}"
    )


def _advise(worth: float | None, seen: bool, batch: int, trained: bool) -> str:
    """Say what follows for the batch size and the number of epochs."""
    if not seen or worth is None or worth >= GAIN * batch:
        return f"There is no need for a batch larger than {batch}."
    gain = "little" if worth > batch else "nothing"
    if not trained:
        return f"A table gains {gain} over DCL at batch {batch}."
    return (
        f"The table gains {gain} over DCL at batch {batch}, since the encoder changes much between "
        "two visits to a sample. It changes less with more epochs, and towards their end."
    )


def format_worth(worth: float | None, curve: list[Measured]) -> str:
    """Name the batch size that the table is worth, or the bound that was measured."""
    if worth is None:
        return f"more than {curve[-1].batch:,}"
    if worth == 0.0:
        return f"less than {curve[0].batch}"
    # Two significant digits are about what the noise allows.
    unit = 10 ** max(0, math.floor(math.log10(worth)) - 1)
    return f"{round(worth / unit) * unit:,}"


def format_bias(bias: Bias) -> str:
    """Return the relative error in percent, or an upper bound if noise hides it."""
    if bias.seen:
        return f"{bias.relative:.1%}"
    return f"less than {bias.at_most:.1%}"
