"""Plan a classifier: derive each value that was left open, with the reason for it."""

import math
from dataclasses import dataclass, replace

from ..common.options import Augmentation, ConcretePrecision
from ..distributed.device import loader_workers, resolve_precision
from .derive import Reasons, choose_batch_size
from .settings_finetune import FinetuneSettings

__all__ = ["WEIGHT_DECAY", "FinetunePlan", "plan_finetuning"]

# AdamW's learning rate at batch size 1, to be multiplied by sqrt(batch size): of new weights, as in
# `recipe.py`, and of the weights of an encoder that was trained before.
NEW, TRAINED = 2.5e-4, 6e-5
WEIGHT_DECAY = 0.05
USUAL_EPOCHS, MOST_EPOCHS, STEPS = 30, 100, 1_000


@dataclass(frozen=True)
class FinetunePlan:
    """The settings of a classifier, all with values, and the reasons for those that were derived.

    Attributes:
        request: The settings as they were given.
        views: The random changes of the images.
        reasons: `(setting, value, reason)` of each setting, to be printed.
    """

    request: FinetuneSettings
    epochs: int
    batch_size: int
    learning_rate: float
    head_learning_rate: float
    precision: ConcretePrecision
    workers: int
    views: Augmentation
    reasons: list[tuple[str, str, str]]

    def resolved(self) -> FinetuneSettings:
        """Return the settings with the derived values filled in; a resumed run uses them."""
        if self.request.only_head:
            return replace(self.request, precision=self.precision)
        return replace(
            self.request,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            head_learning_rate=self.head_learning_rate,
            precision=self.precision,
        )


def plan_finetuning(
    request: FinetuneSettings,
    n: int,
    views: Augmentation,
    local: bool,
    device: str,
    workers: int | None,
) -> FinetunePlan:
    """Derive the settings that were left open.

    Args:
        request: The settings as they were given.
        n: Number of labelled images to train on.
        views: The views of the run and of the data, of which crop and flip are kept.
        local: Whether the images are in memory.
        device: "cpu", "cuda" or "mps".
        workers: Number of loader processes; None to derive it.
    """
    reasons = Reasons()
    explain = reasons.explain
    batch_size = min(request.batch_size or choose_batch_size(n), n)
    steps = -(-n // batch_size)
    epochs = request.epochs or min(max(USUAL_EPOCHS, -(-STEPS // steps)), MOST_EPOCHS)
    root = math.sqrt(batch_size)
    base = NEW if request.initial else TRAINED
    rate = request.learning_rate or base * root
    head_rate = request.head_learning_rate or NEW * root
    views = replace(views, color=0.0, gray=0.0, blur=0.0)
    precision = resolve_precision(request.precision, device)
    if request.only_head:
        reasons.note("trained", "the head", "logistic regression on features of whole images")
    else:
        reasons.note("trained", "encoder, head", "the head starts from logistic regression")
        explain(
            "batch size", request.batch_size, batch_size, "for 32 steps an epoch, from 16 to 256"
        )
        why = "30 as in SimCLR; with few labels up to 100, for 1,000 steps"
        explain("epochs", request.epochs, epochs, why)
        root_of = f"times the square root of {batch_size} images a step"
        lower = "" if request.initial else "; a quarter of the head's, since it is trained already"
        explain(
            "encoder's rate", request.learning_rate, f"{rate:.3g}", f"{base:g} {root_of}{lower}"
        )
        explain("head's rate", request.head_learning_rate, f"{head_rate:.3g}", f"{NEW:g} {root_of}")
        reasons.note("weight decay", WEIGHT_DECAY, "usual for adamw; a tenth of the run warms up")
        shown = f"crop {views.crop_min:g}, flip {views.flip:g}"
        reasons.note("views", shown, "as in the run, without its changes of colour, as in SimCLR")
    explain("precision", request.precision, precision, f"fastest that is safe on {device}")
    return FinetunePlan(
        request=request,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=rate,
        head_learning_rate=head_rate,
        precision=precision,
        workers=loader_workers(local, device, workers),
        views=views,
        reasons=reasons.lines,
    )
