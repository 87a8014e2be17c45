"""`sogclr.pretrain`, put together: data, plan, model, loop, and what is left in the run."""

import inspect
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from . import verbs
from .data.loading import BatchPlan, view_batches
from .data.source import Data, ImageSource, open_source
from .data.views import photometric
from .devices import choose_device, start
from .errors import UserError
from .models import (
    ContrastiveModel,
    EncoderSpec,
    build_encoder,
    build_projector,
    describe,
    width_of,
)
from .monitor import NOTHING_YET
from .planning import Plan, Request, plan_run
from .progress import say
from .runs import Run
from .settings import Device, Views
from .training import Trainer
from .two_views import TwoViewTask

__all__ = ["Result", "pretrain", "stored_request"]

R = TypeVar("R")


@dataclass(frozen=True)
class Result:
    """What came of a run.

    Attributes:
        folder: the run.
        complete: False if it was stopped on request and can be resumed.
        metrics: the last row of metrics.jsonl.
    """

    folder: Path
    complete: bool
    metrics: dict[str, Any]


def pretrain(
    data: Data,
    out: str | Path,
    request: Request,
    *,
    module: nn.Module | None,
    device: Device,
    workers: int | None,
    checkpoint_seconds: float,
    resume: bool,
) -> Result:
    """See `sogclr.pretrain`; `module` is the user's own encoder, if it is one."""
    run = Run(out)
    if resume:
        request = stored_request(run, request, "pretrain")
    elif run.exists():
        raise UserError(
            f"out: {run.folder} holds a run already; add --resume or name another --out"
        )
    source = open_source(data)
    kind = choose_device(device)
    plan = plan_run(request, source, kind, workers)
    _tell(source, plan, kind)

    torch.manual_seed(request.seed)
    encoder, spec = _encoder(plan, module)
    width = width_of(encoder, plan.image_size)
    say(f"  {describe(encoder, spec, width)}")
    model = ContrastiveModel(encoder, build_projector(width))

    run.create()
    run.require_space(_checkpoint_bytes(model, len(source)))
    fabric = start(kind, plan.precision)
    batches = BatchPlan(
        source.ids, plan.batch_size, request.accumulate, request.epochs, request.seed
    )
    task = TwoViewTask(model, spec, source, plan)
    trainer = Trainer(fabric, task, batches, plan.recipe, run, checkpoint_seconds)
    if run.checkpoint.exists():
        trainer.restore()
        say(f"going on from step {trainer.step:,} of {trainer.batches.total_steps:,}")
    else:
        run.write_settings({"asked": asdict(request), "resolved": asdict(plan.resolved())})
        run.write_encoder(encoder, spec, initial=True)
        _picture(source, plan, run)
        trainer.monitor.restore(NOTHING_YET, fabric.device)
    complete = trainer.train()
    if complete:
        say(f"done: {run.folder} (sogclr evaluate, sogclr embed, sogclr.load)")
    else:
        say(f"stopped at step {trainer.step:,}; go on with --resume")
    return Result(run.folder, complete, trainer.monitor.rows[-1] if trainer.monitor.rows else {})


def stored_request(run: Run, asked: R, verb: str) -> R:
    """What the run was started with, nothing left open; what is asked now must not contradict it.

    A folder that grew or another device would derive other values.

    Raises:
        UserError: not a run of this verb, or something else is asked.
    """
    settings = run.read_settings()
    if settings.get("kind", "images") != ("images" if verb == "pretrain" else "pairs"):
        raise UserError(f"run: {run.folder} was not started with sogclr {verb}")
    stored = settings["resolved"]
    stored["views"] = Views(**stored["views"])
    before = type(asked)(**stored)
    defaults = inspect.signature(getattr(verbs, verb)).parameters
    for name, value in vars(asked).items():
        was = getattr(before, name)
        if value not in (was, defaults[name].default):
            raise UserError(
                f"{name.replace('_', '-')}: {run.folder} was started with {was}, not {value}; "
                "leave it out to go on, or name another --out"
            )
    return before


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


def _tell(source: ImageSource, plan: Plan, device: str) -> None:
    say(source.describe())
    say(f"{plan.request.method} for {plan.request.epochs} epochs on {device}")
    for name, value, reason in plan.reasons:
        say(f"  {name:<15} {value:<12} {reason}")


def _checkpoint_bytes(model: nn.Module, samples: int) -> int:
    """Old and new checkpoint side by side, two optimizer moments, two encoders, the table."""
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    return 2 * (3 * weights + 24 * samples) + 2 * weights + 10_000_000


def _picture(source: ImageSource, plan: Plan, run: Run) -> None:
    """Sixteen samples, two views each, side by side: a look at them catches most mistakes."""
    from torchvision.utils import save_image

    one = BatchPlan(source.ids, min(16, len(source)), 1, 1, plan.request.seed)
    loader = view_batches(
        source, one, image_size=plan.image_size, crop_min=plan.views.crop_min or 0.0, workers=0
    )
    batch = next(iter(loader))
    views = photometric(batch.crops, batch.draws, plan.views)  # (2b, 3, S, S)
    pairs = torch.stack(views.chunk(2), dim=1).flatten(0, 1)  # (2b, ...), pairs adjacent
    scale = max(1, math.ceil(64 / plan.image_size))
    pairs = pairs.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    save_image(pairs, run.views, nrow=8, padding=4, pad_value=1.0)
