"""The optimizer and its schedule, through timm."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

__all__ = ["Recipe", "build_optimizer", "build_schedule", "recipe"]

Name = Literal["lars", "sgd", "adamw"]


@dataclass(frozen=True)
class Recipe:
    """Optimizer, its peak learning rate (already scaled to the batch), and weight decay."""

    optimizer: Name
    learning_rate: float
    weight_decay: float


# Learning rate at batch 1, to be multiplied by sqrt(batch), and weight decay. LARS: the paper's.
# SGD: 0.06 at batch 64, usual for CIFAR-10. AdamW: 2e-3 at batch 64; 1e-3 and
# 4e-3 did equally well on the subset of CIFAR-10 (kNN 47.2 and 47.0, linear 52.8 and 53.7 %).
_BASE: dict[Name, tuple[float, float]] = {
    "lars": (0.075, 1e-6),
    "sgd": (0.0075, 5e-4),
    "adamw": (2.5e-4, 0.05),
}


def recipe(
    name: Name,
    batch: int,
    learning_rate: float | None,
    decay: float | None,
    share: float = 1.0,
) -> Recipe:
    """Fill in what was not given, by the square-root rule: lr = base * sqrt(batch).

    `share` of the base suits weights that are already trained.
    """
    base, usual_decay = _BASE[name]
    base *= share
    return Recipe(
        name,
        base * math.sqrt(batch) if learning_rate is None else learning_rate,
        usual_decay if decay is None else decay,
    )


def build_optimizer(model: nn.Module, loss: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """timm's optimizer; biases and norms are not decayed (nor adapted, under LARS).

    Nor are the parameters of the loss, if it has any: a temperature has no origin to fall to.
    """
    from timm.optim import create_optimizer_v2

    # Fused: one pass over the weights instead of a dozen, a third of a small model's step.
    options: dict[str, Any] = {"fused": True} if recipe.optimizer == "adamw" else {"momentum": 0.9}
    optimizer = create_optimizer_v2(
        model,
        opt=recipe.optimizer,
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        **options,
    )
    if own := list(loss.parameters()):
        optimizer.add_param_group({"params": own, "weight_decay": 0.0})
    return optimizer


def build_schedule(optimizer: torch.optim.Optimizer, total: int, warmup: int) -> Any:
    """timm's cosine to zero after a linear warm-up; `.step_update(step)` before each step.

    A function of the step alone, so a resumed run needs no state of it.
    """
    from timm.scheduler import CosineLRScheduler

    return CosineLRScheduler(
        optimizer, t_initial=total, warmup_t=warmup, warmup_prefix=False, t_in_epochs=False
    )
