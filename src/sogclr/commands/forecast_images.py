"""Forecast a run on images after the plan."""

from dataclasses import replace

import torch
from torch import nn

from ..data.batches.schedule import Schedule
from ..data.image_source import ImageSource
from ..data.tar.stream import StreamSource
from ..models.recompute import recompute_blocks
from ..planning.images import Plan
from ..planning.settings_images import PretrainArguments
from ..runs.folder import Run
from ..training.build_images import build_schedule, build_training
from .forecast import forecast
from .result import Result
from .train_images import bytes_on_disk

__all__ = ["forecast_images"]


def forecast_images(
    arguments: PretrainArguments,
    source: ImageSource | StreamSource,
    plan: Plan,
    module: nn.Module | None,
    run: Run,
    device: str,
) -> Result:
    """Build what `train_images` would train, on the CPU, and forecast the run.

    Args:
        arguments: All arguments.
        source: The images.
        plan: The settings of the run, all with values.
        module: The user's own encoder; None if the plan names one.
        run: The folder, of which nothing is written.
        device: The type of the planned device.
    """
    torch.manual_seed(plan.request.seed)
    here = replace(plan, workers=0)
    task, _ = build_training(source, here, module, torch.device("cpu"))
    run.require_space(bytes_on_disk(task, plan, len(source)))
    if arguments.checkpoint_activations:
        recompute_blocks(task.model.encoder)

    def make_schedule(size: int, accumulate: int) -> Schedule:
        return build_schedule(source, plan.request, size, accumulate)

    return Result(run.folder, False, {}, forecast(task, plan, device, make_schedule))
