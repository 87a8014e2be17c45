"""Reasons for derived values, and checks against the data, for images and for pairs."""

import math

from ..common.environment import processes
from ..common.errors import UserError, flag, require
from ..losses.choose_normalizer import MAX_COPIED_ROWS
from .settings import TrainSettings
from .settings_temperature import TemperatureSettings

__all__ = ["Reasons", "check_count", "explain_sharing", "plan_rho", "usual_batch_size"]


class Reasons:
    """The values of a plan with the reasons for them, to be printed.

    Attributes:
        lines: `(setting, value, reason)`, in the order in which they were added.
    """

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, str]] = []

    def explain(self, name: str, given: object, value: object, reason: str) -> None:
        """Add a value with its reason; the reason is "as given" if the user gave the value."""
        self.note(name, value, "as given" if given not in (None, "auto") else reason)

    def note(self, name: str, value: object, remark: str) -> None:
        """Add a value with a remark."""
        formatted = f"{value:g}" if isinstance(value, float) else str(value)
        self.lines.append((name, formatted, remark))


def check_count(settings: TrainSettings, n: int, sample: str) -> None:
    """Refuse a number of samples that is too small.

    Args:
        settings: The settings as they were given.
        n: Number of samples.
        sample: What a sample is: "image" or "pair".

    Raises:
        UserError: There are fewer than two samples, or fewer than in a batch.
    """
    if n < 2:
        raise UserError(f"data: one {sample} has nothing to be contrasted with; give at least two")
    if settings.batch_size is not None and settings.batch_size > n:
        raise UserError(
            f"{flag('batch_size')}: {settings.batch_size} is more than the {n:,} {sample}s there "
            "are; give less"
        )


def explain_sharing(batch_size: int, rows: int, reasons: Reasons) -> None:
    """Explain how processes share the batch and the table of normalizers.

    Args:
        batch_size: Number of samples per forward pass, of all processes together.
        rows: Number of rows of the table.
        reasons: Receives the explanation.

    Raises:
        UserError: The batch has fewer than two samples per process.
    """
    count = processes()
    if batch_size < 2 * count:
        raise UserError(
            f"{flag('batch_size')}: {batch_size} is shared by {count} processes, and batch "
            f"normalization needs two samples in each; give at least {2 * count}"
        )
    if count > 1:
        reasons.note("processes", count, f"{batch_size // count} samples of each batch per process")
        if rows <= MAX_COPIED_ROWS:
            reasons.note("table", "copied", "each process has the whole table")
        else:
            reasons.note("table", "sharded", "each process has a part of the table")


def usual_batch_size(n: int) -> int:
    """Choose the batch size: 256, halved until `n` samples are 32 batches, but at least 16."""
    size = 256
    while size > 16 and size * 32 > n:
        size //= 2
    return min(size, n)


def plan_rho(settings: TemperatureSettings, n: int, largest: int, reasons: Reasons) -> float | None:
    """Choose the weight of tau in the objective of a learned temperature.

    Args:
        settings: The settings as they were given.
        n: Number of samples.
        largest: Number of samples of the larger side of pairs; else `n`.
        reasons: Receives the reason of a derived value.

    Returns:
        The weight, in nats; None where tau is constant or minimizes F/tau.

    Raises:
        UserError: The temperature could approach the weight only by falling for ever.
    """
    rho = settings.rho
    if rho is not None:
        require(
            rho < math.log(largest),
            "rho",
            f"{rho:g} is out of reach: a softmax over {largest:,} samples is at most "
            f"{math.log(largest):.1f} nats from uniform, so tau would fall for ever; give less",
        )
    elif settings.temperature_mode == "individual":
        rho = min(6.0, math.log(n) / 2)
        reason = "nats from uniform at which each sample's temperature settles"
        reasons.explain("rho", None, rho, reason)
    return rho
