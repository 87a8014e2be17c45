"""Run `sogclr.pretrain`: open the data, plan, print the plan, build the task, train."""

import torch
from torch import nn

from ..common.console import say, setting_line
from ..data.image_source import ImageSource
from ..data.open_images import open_images, require_undamaged
from ..data.tar.stream import StreamSource
from ..distributed.connect import Facts, digest_of, option_facts
from ..distributed.device import choose_device
from ..distributed.launch import start
from ..distributed.sharded_model import require_shardable
from ..models.encoders import PROJECTION
from ..planning.images import Plan, plan_run
from ..planning.settings_images import ImageSettings, PretrainArguments
from ..runs.data_address import data_address
from ..runs.folder import Run
from ..runs.resume import choose_settings, finds_checkpoint, resumes
from ..training.build_images import build_training
from ..training.loop import Trainer
from ..training.normalizer_error import stored_bytes
from ..training.open_streams import open_stream
from ..training.task_images import ViewsTask
from ..training.views_picture import write_views_picture
from .early_checks import require_other_folder
from .report import report_at_the_end
from .result import Result, checkpoint_bytes, suggest_next, train_to_end

__all__ = ["pretrain"]

NEXT = ("sogclr evaluate {run} {data}", "sogclr serve {run} {data}")


def pretrain(
    arguments: PretrainArguments, request: ImageSettings, module: nn.Module | None
) -> Result:
    """Do what `sogclr.pretrain` documents.

    Args:
        arguments: All arguments, of which those on data, storage and machine are used.
        request: The settings that were given, with the name of the encoder.
        module: The user's own encoder; None if the settings name one.
    """
    require_other_folder(arguments.data, arguments.out)
    run = Run(arguments.out)
    if arguments.resume:
        run.read_settings()  # `claim` creates a missing folder, so refuse one without a run before
    with run.claim():
        resume = resumes(run, arguments.resume)
        request = choose_settings(run, request, "pretrain", resume)
        result = _pretrain(arguments, request, module, run, finds_checkpoint(run, resume))
    if result.complete:
        report_at_the_end(run.folder, arguments.data, module, arguments.device)
        suggest_next(run.folder, arguments.data, NEXT)
    return result


def _pretrain(
    arguments: PretrainArguments,
    request: ImageSettings,
    module: nn.Module | None,
    run: Run,
    resume: bool,
) -> Result:
    """Train in the claimed folder; `resume` from the checkpoint in it."""
    data, shard_model = arguments.data, arguments.shard_model
    if shard_model:
        require_shardable(request.method)
    device = choose_device(arguments.device, alone=False)
    source: ImageSource | StreamSource | None = open_stream(data, request, StreamSource)
    if source is None:
        source = open_images(data)
        require_undamaged(source.damaged, request.on_damaged)
    plan = plan_run(request, source, device, arguments.workers)
    _print_plan(source, plan, device)

    # `start` waits for all processes, so that all have read the files that the first one writes.
    fabric = start(
        device,
        plan.precision,
        shard_model=shard_model,
        process_timeout=arguments.process_timeout,
        facts=_facts(request, source, plan, resume),
    )
    torch.manual_seed(request.seed)
    task, schedule = build_training(source, plan, module, fabric.device)
    if fabric.is_global_zero:
        run.require_space(_bytes_on_disk(task, plan, len(source)))
    if not resume and fabric.is_global_zero:
        run.write_settings(
            {
                "data": data_address(data),
                "asked": request.as_dict(),
                "resolved": plan.resolved().as_dict(),
                "reasons": plan.reasons,
            }
        )
        # Save the encoder before the trainer shards it.
        run.write_encoder(task.model.encoder.state_dict(), task.spec, initial=True)
        write_views_picture(source, plan, run.views)
    trainer = Trainer(fabric, task, schedule, plan.recipe, run, arguments.checkpoint_seconds)
    if resume:
        trainer.restore()
    else:
        trainer.monitor.start()
        task.prime(fabric.device)
    return train_to_end(trainer)


def _facts(
    request: ImageSettings, source: ImageSource | StreamSource, plan: Plan, resume: bool
) -> Facts:
    """Collect what must be equal in all processes: options, data, derived values, checkpoint."""
    if isinstance(source, ImageSource):
        data = {"the samples": digest_of(source.ids, source.marks)}
    else:
        data = {"the shards": digest_of(source.ids)}
    return {
        **option_facts(request.as_dict()),
        **data,
        **option_facts(plan.resolved().as_dict(), "the derived "),
        "the checkpoint in --out": "there" if resume else "missing",
    }


def _print_plan(source: ImageSource | StreamSource, plan: Plan, device: str) -> None:
    say(source.describe())
    epochs = plan.request.epochs
    count = "1 epoch" if epochs == 1 else f"{epochs:,} epochs"
    say(f"{plan.request.method} for {count} on {device}")
    for name, value, reason in plan.reasons:
        say(setting_line(name, value, reason))


def _bytes_on_disk(task: ViewsTask, plan: Plan, samples: int) -> int:
    """Estimate the bytes that the run writes to disk; `samples` is the number of samples."""
    queue = (4 * PROJECTION + 9) * (plan.queue_size or 0)  # see `KeyQueue`
    extra = queue + stored_bytes(plan.batch_size, PROJECTION)
    return checkpoint_bytes(task.model, plan.request.table_rows or samples, extra)
