"""Reasons for derived values, and checks against the data, for images and for pairs."""

import math

from ..common.environment import processes
from ..common.errors import UserError, flag, require
from ..losses.normalizer_sharded import MAX_COPIED_ROWS
from .recipe import Recipe, choose_recipe
from .settings import TrainSettings
from .settings_temperature import TemperatureSettings

__all__ = [
    "Reasons",
    "check_count",
    "choose_batch_size",
    "explain_sharing",
    "plan_recipe",
    "plan_rho",
]


class Reasons:
    """The values of a plan with the reasons for them, to be printed.

    Attributes:
        lines: `(setting, value, reason)`, in the order in which they were added.
    """

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, str]] = []

    def explain(self, name: str, given: object, value: object, reason: str) -> None:
        """Add a value with its reason; the reason is "as given" if the user gave the value.

        Args:
            name: Name of the setting.
            given: What the user gave; None or "auto" if the setting was left open.
            value: The value in the plan.
            reason: Why this value was derived.
        """
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


def choose_batch_size(n: int) -> int:
    """Return 256, halved until `n` samples are 32 batches, but at least 16."""
    size = 256
    while size > 16 and size * 32 > n:
        size //= 2
    return min(size, n)


def plan_recipe(
    settings: TrainSettings, batch: int, reasons: Reasons, share: float = 1.0, base: str = "base"
) -> Recipe:
    """Choose the optimizer, the learning rate and the weight decay.

    Args:
        settings: The settings as they were given.
        batch: Number of samples per optimizer step.
        reasons: Receives the reasons of derived values.
        share: Share of the optimizer's base learning rate.
        base: What the reason calls the product of share and base.
    """
    name = "adamw" if settings.optimizer == "auto" else settings.optimizer
    recipe = choose_recipe(name, batch, settings.learning_rate, settings.weight_decay, share)
    rate, decay = recipe.learning_rate, recipe.weight_decay
    by_batch = f"{base} times the square root of {batch} samples a step"
    reasons.explain(
        "optimizer", settings.optimizer, name, "tolerates the widest range of learning rates"
    )
    shown = settings.learning_rate or f"{rate:.3g}"
    reasons.explain("learning rate", settings.learning_rate, shown, by_batch)
    reasons.explain("weight decay", settings.weight_decay, decay, f"usual for {name}")
    return recipe


def plan_rho(settings: TemperatureSettings, n: int, largest: int, reasons: Reasons) -> float | None:
    """Choose the weight of tau in the objective of a learned temperature.

    Args:
        settings: The settings as they were given.
        n: Number of samples.
        largest: Number of samples of the larger side of pairs; `n` for images.
        reasons: Receives the reason of a derived value.

    Returns:
        The weight, in nats; None where tau is constant or minimizes F/tau.

    Raises:
        UserError: The weight is so large that tau would fall for ever.
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
