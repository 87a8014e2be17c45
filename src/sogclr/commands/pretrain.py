"""`sogclr.pretrain`, put together: data, plan, model, loop, and what is left in the run."""

import math
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from ..common.console import say
from ..common.environment import processes, rank, restarts
from ..common.errors import UserError
from ..common.options import Device
from ..data.batches.loaders import view_batches
from ..data.batches.schedule import Schedule, ShuffledSchedule
from ..data.batches.stream import StreamSchedule, stream_batches
from ..data.image_source import ImageSource
from ..data.open_images import Data, open_source, require_undamaged
from ..data.tar.stream import StreamSource
from ..data.views.pipeline import photometric
from ..data.views.resident import ResidentImages, resident
from ..distributed.launch import choose_device, start
from ..distributed.sharded_model import require_shardable
from ..models.encoders import (
    PROJECTION,
    ContrastiveModel,
    EncoderSpec,
    build_encoder,
    build_projector,
    describe,
    width_of,
)
from ..models.momentum import MomentumModel
from ..planning.images import Plan, Request, plan_run
from ..runs.folder import Run
from ..runs.resume import Result, checkpoint_bytes, claim, conduct
from ..training.loop import Trainer
from ..training.monitor import NOTHING_YET
from ..training.normalizer_error import gauge_bytes
from ..training.task_image_stream import StreamTask, open_stream
from ..training.task_images import TwoViewTask, ViewsTask

__all__ = ["build_task", "pretrain"]


def pretrain(
    data: Data,
    out: str | Path,
    request: Request,
    *,
    module: nn.Module | None,
    device: Device,
    workers: int | None,
    checkpoint_seconds: float,
    shard_model: bool,
    resume: bool,
) -> Result:
    """See `sogclr.pretrain`; `module` is the user's own encoder, if it is one."""
    run = Run(out)
    resume = resume or (restarts() > 0 and run.checkpoint.exists())
    request = claim(run, request, "pretrain", resume)
    if shard_model:
        require_shardable(request.method)
    kind = choose_device(device, alone=False)
    source: ImageSource | StreamSource | None = open_stream(data, request, StreamSource)
    if source is None:
        source = open_source(data)
        require_undamaged(source.damaged, request.on_damaged)
    plan = plan_run(request, source, kind, workers)
    _tell(source, plan, kind)
    # From here on no process changes what another looks at.
    fabric = start(kind, plan.precision, shard_model=shard_model)
    torch.manual_seed(request.seed)
    task, batches = _work(source, plan, module, fabric.device)
    if fabric.is_global_zero:
        run.create()
        queue = 4 * (PROJECTION + 3) * (plan.queue_size or 0)
        kept = queue + gauge_bytes(plan.batch_size, PROJECTION)
        rows = request.table_rows or len(source)
        run.require_space(checkpoint_bytes(task.model, rows, kept))
    resume = run.checkpoint.exists()
    if not resume and fabric.is_global_zero:
        run.write_settings({"asked": asdict(request), "resolved": asdict(plan.resolved())})
        # Before the trainer may shard it.
        run.write_encoder(task.model.encoder.state_dict(), task.spec, initial=True)
        _picture(source, plan, run)
    trainer = Trainer(fabric, task, batches, plan.recipe, run, checkpoint_seconds)
    if resume:
        trainer.restore()
    else:
        trainer.monitor.restore(NOTHING_YET, fabric.device)
        task.prime(fabric.device)
    return conduct(trainer, "sogclr evaluate, sogclr embed, sogclr.load")


def build_task(
    source: ImageSource,
    plan: Plan,
    encoder: nn.Module,
    spec: EncoderSpec,
    images: ResidentImages | None = None,
) -> TwoViewTask:
    """The task, with a new projector on the encoder."""
    return TwoViewTask(_model(plan, encoder, spec), spec, source, plan, images)


def _work(
    source: ImageSource | StreamSource, plan: Plan, module: nn.Module | None, device: torch.device
) -> tuple[ViewsTask, Schedule]:
    """What is learned, and in which steps."""
    request, (encoder, spec) = plan.request, _encoder(plan, module)
    run = plan.batch_size, request.accumulate, request.epochs, request.seed, rank(), processes()
    if isinstance(source, StreamSource):
        stream = StreamTask(_model(plan, encoder, spec), spec, source, plan)
        return stream, StreamSchedule(source, request.table_rows, *run)
    task = build_task(source, plan, encoder, spec, resident(source, device))
    return task, ShuffledSchedule(source.ids, *run)


def _model(plan: Plan, encoder: nn.Module, spec: EncoderSpec) -> ContrastiveModel | MomentumModel:
    width = width_of(encoder, plan.image_size)
    say(f"  {describe(encoder, spec, width)}")
    query = ContrastiveModel(encoder, build_projector(width))
    return query if plan.momentum is None else MomentumModel(query, plan.momentum)


def _encoder(plan: Plan, module: nn.Module | None) -> tuple[nn.Module, EncoderSpec]:
    if module is not None:
        return module, EncoderSpec("custom", plan.image_size)
    if plan.encoder.startswith("custom:"):
        raise UserError("encoder: the run trained a module of your own; pass it from Python again")
    return build_encoder(
        plan.encoder,
        plan.image_size,
        pretrained=plan.request.pretrained,
        weights=plan.request.weights,
    )


def _tell(source: ImageSource | StreamSource, plan: Plan, device: str) -> None:
    say(source.describe())
    say(f"{plan.request.method} for {plan.request.epochs} epochs on {device}")
    for name, value, reason in plan.reasons:
        say(f"  {name:<15} {value:<12} {reason}")


def _picture(source: ImageSource | StreamSource, plan: Plan, run: Run) -> None:
    """Sixteen samples, two views each, side by side: a look at them catches most mistakes."""
    from torchvision.utils import save_image

    shown, settings = min(16, len(source)), (1, 1, plan.request.seed)
    size, crop_min = plan.image_size, plan.views.crop_min or 0.0
    if isinstance(source, StreamSource):
        few = StreamSchedule(source.shorten(shown), None, shown, *settings)
        loader = stream_batches(few, image_size=size, crop_min=crop_min, workers=0)
    else:
        one = ShuffledSchedule(source.ids, shown, *settings)
        loader = view_batches(source, one, image_size=size, crop_min=crop_min, workers=0)
    batch = next(iter(loader))
    views = photometric(batch.crops, batch.draws, plan.views)  # (2b, 3, S, S)
    pairs = torch.stack(views.chunk(2), dim=1).flatten(0, 1)  # (2b, ...), pairs adjacent
    scale = max(1, math.ceil(64 / plan.image_size))
    pairs = pairs.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    save_image(pairs, run.views, nrow=8, padding=4, pad_value=1.0)
