"""Run `sogclr.pretrain`: open the data, plan, print the plan, build the task, train."""

import torch
from torch import nn

from ..common.console import say, setting_line
from ..data.image_source import ImageSource
from ..data.open_images import open_images, require_undamaged
from ..data.tar.stream import StreamSource
from ..distributed.connect import Facts, digest_of, option_facts
from ..distributed.launch import choose_device, start
from ..distributed.sharded_model import require_shardable
from ..models.encoders import PROJECTION
from ..planning.images import Plan, plan_run
from ..planning.settings_images import ImageSettings, PretrainArguments
from ..runs.folder import Run
from ..runs.resume import choose_settings, finds_checkpoint, resumes
from ..training.build_images import build_training
from ..training.loop import Trainer
from ..training.normalizer_error import stored_bytes
from ..training.open_streams import open_stream
from ..training.task_images import ViewsTask
from ..training.views_picture import write_views_picture
from .early_checks import require_other_folder
from .result import Result, checkpoint_bytes, train_to_end

__all__ = ["pretrain"]


def pretrain(
    arguments: PretrainArguments, request: ImageSettings, module: nn.Module | None
) -> Result:
    """Do what `sogclr.pretrain` documents.

    Args:
        arguments: All arguments, of which data, storage and machine are read.
        request: The settings that were given.
        module: The user's own encoder, or None.
    """
    require_other_folder(arguments.data, arguments.out)
    run = Run(arguments.out)
    if arguments.resume:
        run.read_settings()  # before the folder is created
    with run.claim():
        resume = resumes(run, arguments.resume)
        request = choose_settings(run, request, "pretrain", resume)
        return _pretrain(arguments, request, module, run, finds_checkpoint(run, resume))


def _pretrain(
    arguments: PretrainArguments,
    request: ImageSettings,
    module: nn.Module | None,
    run: Run,
    resume: bool,
) -> Result:
    """Train in a folder that is this run's alone; `resume` if there is a checkpoint."""
    data, shard_model = arguments.data, arguments.shard_model
    if shard_model:
        require_shardable(request.method)
    kind = choose_device(arguments.device, alone=False)
    source: ImageSource | StreamSource | None = open_stream(data, request, StreamSource)
    if source is None:
        source = open_images(data)
        require_undamaged(source.damaged, request.on_damaged)
    plan = plan_run(request, source, kind, arguments.workers)
    _print_plan(source, plan, kind)

    # `start` waits for all processes: above, each reads files that the first one writes below.
    fabric = start(
        kind,
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
        run.write_settings({"asked": request.as_dict(), "resolved": plan.resolved().as_dict()})
        # The trainer may shard the encoder, so save it before.
        run.write_encoder(task.model.encoder.state_dict(), task.spec, initial=True)
        write_views_picture(source, plan, run.views)
    trainer = Trainer(fabric, task, schedule, plan.recipe, run, arguments.checkpoint_seconds)
    if resume:
        trainer.restore()
    else:
        trainer.monitor.start()
        task.prime(fabric.device)
    return train_to_end(trainer, "sogclr evaluate, sogclr embed, sogclr.load")


def _facts(
    request: ImageSettings, source: ImageSource | StreamSource, plan: Plan, resume: bool
) -> Facts:
    """Collect what must be equal in all processes: options, data, derived values, checkpoint."""
    arrays = (source.ids, source.marks) if isinstance(source, ImageSource) else (source.ids,)
    samples = "the samples" if isinstance(source, ImageSource) else "the shards"
    return {
        **option_facts(request.as_dict()),
        samples: digest_of(*arrays),
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
    queue = 4 * (PROJECTION + 3) * (plan.queue_size or 0)
    extra = queue + stored_bytes(plan.batch_size, PROJECTION)
    return checkpoint_bytes(task.model, plan.request.table_rows or samples, extra)
