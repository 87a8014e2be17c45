"""Build what `sogclr.pretrain` trains: encoder, projector, task and schedule."""

import torch
from torch import nn

from ..common.console import say
from ..common.environment import processes, rank
from ..common.errors import UserError
from ..data.batches.schedule import Schedule, ShuffledSchedule
from ..data.batches.stream import StreamSchedule
from ..data.image_source import ImageSource
from ..data.tar.stream import StreamSource
from ..data.views.resident import ResidentImages, keep_on_device
from ..models.encoders import (
    ContrastiveModel,
    EncoderSpec,
    build_encoder,
    build_projector,
    describe,
    width_of,
)
from ..models.momentum import MomentumModel
from ..planning.images import Plan
from ..planning.settings_images import ImageSettings
from ..runs.start_from import is_run, load_start
from .task_image_stream import StreamTask
from .task_images import TwoViewTask, ViewsTask

__all__ = ["build_schedule", "build_task", "build_training"]


def build_training(
    source: ImageSource | StreamSource, plan: Plan, module: nn.Module | None, device: torch.device
) -> tuple[ViewsTask, Schedule]:
    """Build the task of a run and the schedule of its micro-batches.

    Args:
        source: the images.
        plan: the plan of the run.
        module: the user's own encoder; None if the plan names one.
        device: the device of the run; a GPU keeps all images of a small data set.

    Raises:
        UserError: the encoder is unknown, or its weights cannot be loaded.
    """
    request = plan.request
    encoder, spec = _build_encoder(plan, module)
    schedule = build_schedule(source, request, plan.batch_size, request.accumulate)
    if isinstance(source, StreamSource):
        model = _build_model(plan, encoder, spec)
        return StreamTask(model, spec, source, plan, device), schedule
    images = keep_on_device(source, device)
    return build_task(source, plan, encoder, spec, device, images), schedule


def build_schedule(
    source: ImageSource | StreamSource, request: ImageSettings, batch_size: int, accumulate: int
) -> Schedule:
    """Build the schedule of a run's micro-batches.

    Args:
        source: the images.
        request: the settings of the run.
        batch_size: number of images in a micro-batch, over all processes.
        accumulate: number of micro-batches in a step.
    """
    order = batch_size, accumulate, request.epochs, request.seed, rank(), processes()
    if isinstance(source, StreamSource):
        return StreamSchedule(source, request.table_rows, *order)
    return ShuffledSchedule(source.ids, *order)


def build_task(
    source: ImageSource,
    plan: Plan,
    encoder: nn.Module,
    spec: EncoderSpec,
    device: torch.device,
    images: ResidentImages | None = None,
) -> TwoViewTask:
    """Build the task of images that can be read in any order, with a new projector.

    Args:
        source: the images.
        plan: the plan of the run.
        encoder: maps `(B, 3, S, S)` to `(B, width)`.
        spec: the description of the encoder.
        device: the device where the encoder computes.
        images: the images of `source` on the device, if they are kept there.
    """
    return TwoViewTask(_build_model(plan, encoder, spec), spec, source, plan, device, images)


def _build_model(
    plan: Plan, encoder: nn.Module, spec: EncoderSpec
) -> ContrastiveModel | MomentumModel:
    """Put a new projector behind the encoder, and with MoCo a momentum encoder beside it."""
    width = width_of(encoder, plan.image_size)
    say(f"  {describe(encoder, spec, width)}")
    query = ContrastiveModel(encoder, build_projector(width, norm=plan.norm))
    return query if plan.momentum is None else MomentumModel(query, plan.momentum)


def _build_encoder(plan: Plan, module: nn.Module | None) -> tuple[nn.Module, EncoderSpec]:
    weights = plan.request.weights
    if weights is not None and is_run(weights):
        return load_start(weights, module, plan.image_size)
    if module is not None:
        return module, EncoderSpec("custom", plan.image_size)
    if plan.encoder.startswith("custom:"):
        raise UserError("--encoder: the run trained your own module; pass it from Python again")
    return build_encoder(
        plan.encoder,
        plan.image_size,
        pretrained=plan.request.pretrained,
        weights=weights,
        norm=plan.norm,
    )
