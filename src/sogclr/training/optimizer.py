"""The optimizer and the schedule of its learning rate, from timm."""

from typing import Any

import torch
from torch import nn

from ..planning.recipe import Recipe

__all__ = ["build_optimizer", "build_schedule"]


def build_optimizer(model: nn.Module, loss: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Build timm's optimizer for the parameters of a model and a loss.

    Biases and normalization layers have no weight decay, and under LARS no adapted rate. Parameters
    of the loss have no weight decay either: a temperature should not decay to 0.
    """
    from timm.optim import create_optimizer_v2

    # Fused AdamW passes over the weights once instead of a dozen times; small steps take a third
    # less time.
    options: dict[str, Any] = {"fused": True} if recipe.optimizer == "adamw" else {"momentum": 0.9}
    optimizer = create_optimizer_v2(
        model,
        opt=recipe.optimizer,
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        **options,
    )
    if parameters := list(loss.parameters()):
        optimizer.add_param_group({"params": parameters, "weight_decay": 0.0})
    return optimizer


def build_schedule(optimizer: torch.optim.Optimizer, total: int, warmup: int) -> Any:
    """Build timm's cosine to zero after a linear warm-up; call `.step_update(step)` each step.

    The rate is a function of the step alone, so checkpoints need not store the schedule.

    Args:
        optimizer: The optimizer. Its learning rates become the highest ones of the schedule.
        total: Number of steps of the run.
        warmup: Number of steps of the warm-up.
    """
    from timm.scheduler import CosineLRScheduler

    return CosineLRScheduler(
        optimizer, t_initial=total, warmup_t=warmup, warmup_prefix=False, t_in_epochs=False
    )
