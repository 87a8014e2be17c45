"""Choose the learning rate and the weight decay of an optimizer."""

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["Recipe", "choose_recipe"]

Name = Literal["lars", "sgd", "adamw"]


@dataclass(frozen=True)
class Recipe:
    """An optimizer with its settings.

    Attributes:
        optimizer: Name of the optimizer.
        learning_rate: Its highest learning rate, already scaled to the batch.
        weight_decay: Its weight decay.
    """

    optimizer: Name
    learning_rate: float
    weight_decay: float


# Learning rate at batch size 1, to be multiplied by sqrt(batch size), and weight decay.
# LARS: as in the SogCLR paper. SGD: 0.06 at batch size 64, usual for CIFAR-10. AdamW: 2e-3 at batch
# size 64; 1e-3 and 4e-3 did equally well on the subset of CIFAR-10 (kNN 47.2 and 47.0, linear 52.8
# and 53.7 %).
_BASE: dict[Name, tuple[float, float]] = {
    "lars": (0.075, 1e-6),
    "sgd": (0.0075, 5e-4),
    "adamw": (2.5e-4, 0.05),
}


def choose_recipe(
    name: Name,
    batch: int,
    learning_rate: float | None,
    weight_decay: float | None,
    share: float = 1.0,
) -> Recipe:
    """Fill in the values that were not given: lr = base * sqrt(batch), and a usual weight decay.

    Args:
        name: Name of the optimizer.
        batch: Number of samples per optimizer step.
        learning_rate: Highest learning rate; None to derive it.
        weight_decay: Weight decay; None for the usual one.
        share: Share of the base learning rate; below 1 for pretrained weights.
    """
    base, usual_decay = _BASE[name]
    base *= share
    return Recipe(
        name,
        base * math.sqrt(batch) if learning_rate is None else learning_rate,
        usual_decay if weight_decay is None else weight_decay,
    )
