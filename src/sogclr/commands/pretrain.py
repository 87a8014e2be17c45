"""Run `sogclr.pretrain`: open the data, plan, print the plan, train, write the report.

What trains is imported after the plan is printed, since that takes seconds.
"""

from torch import nn

from ..common.console import say, setting_line
from ..data.image_source import ImageSource
from ..data.open_images import open_images, require_undamaged
from ..data.tar.stream import StreamSource
from ..distributed.device import choose_device
from ..planning.images import Plan, plan_run
from ..planning.settings_images import ImageSettings, PretrainArguments
from ..runs.folder import Run
from ..runs.resume import choose_settings, finds_checkpoint, resumes
from ..runs.start_from import settings_of_start
from ..training.open_streams import open_stream
from .early_checks import require_dry_run, require_hooks, require_other_folder, require_shardable
from .result import Result, suggest_next

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
    require_hooks(arguments.trackers(), arguments.callbacks)
    run = Run(arguments.out)
    if arguments.dry_run:
        require_dry_run(arguments)
        return _pretrain(arguments, settings_of_start(request), module, run, resume=False)
    if arguments.resume:
        run.read_settings()  # `claim` creates a missing folder, so refuse one without a run before
    with run.claim():
        resume = resumes(run, arguments.resume)
        request = choose_settings(run, request, "pretrain", resume)
        if not resume:
            request = settings_of_start(request)
        result = _pretrain(arguments, request, module, run, finds_checkpoint(run, resume))
    if result.complete:
        from .report import report_at_the_end

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
    """Train in the claimed folder, or forecast; `resume` from the checkpoint in the folder."""
    data = arguments.data
    if arguments.shard_model:
        require_shardable(request.method)
    device = choose_device(arguments.device, alone=False, planned=arguments.dry_run)
    source: ImageSource | StreamSource | None = open_stream(data, request, StreamSource)
    if source is None:
        source = open_images(data)
        require_undamaged(source.damaged, request.on_damaged)
    plan = plan_run(request, source, device, arguments.workers)
    _print_plan(source, plan, device)

    if arguments.dry_run:
        from .forecast_images import forecast_images

        return forecast_images(arguments, source, plan, module, run, device)
    from .train_images import train_images

    return train_images(arguments, source, plan, module, run, device, resume)


def _print_plan(source: ImageSource | StreamSource, plan: Plan, device: str) -> None:
    say(source.describe())
    epochs = plan.request.epochs
    count = "1 epoch" if epochs == 1 else f"{epochs:,} epochs"
    say(f"{plan.request.method} for {count} on {device}")
    for name, value, reason in plan.reasons:
        say(setting_line(name, value, reason))
