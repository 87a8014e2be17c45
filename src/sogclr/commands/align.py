"""Run `sogclr.align`: open the pairs, plan, print the plan, train, write the report.

What trains is imported after the plan is printed, since that takes seconds.
"""

from typing import Any

from torch import nn

from ..common.console import say, setting_line
from ..common.errors import UserError
from ..data.open_images import require_undamaged
from ..data.open_pairs import open_pairs, require_columns
from ..data.pair_source import PairSource
from ..data.tar.stream_pairs import PairStream
from ..distributed.device import choose_device
from ..planning.pairs import PairPlan, frozen_kinds, plan_pairs
from ..planning.settings_pairs import AlignArguments, PairSettings
from ..runs.folder import Run
from ..runs.resume import choose_settings, finds_checkpoint, resumes
from ..training.open_streams import open_data
from .early_checks import require_dry_run, require_hooks, require_shardable
from .result import Result, suggest_next

__all__ = ["align"]

NEXT = ("sogclr evaluate {run} {data}", "sogclr serve {run} {data}")


def align(arguments: AlignArguments, given: PairSettings) -> Result:
    """Do what `sogclr.align` documents.

    Args:
        arguments: All arguments, of which data, storage and machine are read.
        given: The settings that were given.
    """
    require_hooks(arguments.trackers(), arguments.callbacks)
    run = Run(arguments.out)
    if arguments.dry_run:
        require_dry_run(arguments)
        return _align(arguments, given, given, run, resume=False)
    if arguments.resume:
        run.read_settings()  # before the folder is created
    with run.claim():
        resume = resumes(run, arguments.resume)
        request = choose_settings(run, given, "align", resume)
        if not finds_checkpoint(run, resume) and resume:
            raise UserError(f"--resume: {run.checkpoint} is missing; put the file back")
        result = _align(arguments, given, request, run, resume)
    if result.complete:
        from .report import report_at_the_end

        tower: Any = arguments.image_tower
        module = tower if isinstance(tower, nn.Module) else None
        report_at_the_end(run.folder, arguments.data, module, arguments.device)
        suggest_next(run.folder, arguments.data, NEXT)
    return result


def _align(
    arguments: AlignArguments, given: PairSettings, request: PairSettings, run: Run, resume: bool
) -> Result:
    """Train in a folder of this run alone, or forecast; `resume` if there is a checkpoint."""
    data, val = arguments.data, arguments.val
    if arguments.shard_model:
        require_shardable(request.method)
    kind = choose_device(arguments.device, alone=False, planned=arguments.dry_run)
    for pairs in (data, val):
        require_columns(pairs, request.columns)
    # Open the smaller data first, so that what is wrong with it shows early.
    validation = None if val is None else open_pairs(val, request.columns)
    source = open_data(data, request)
    _require_equal_kinds(source, validation)
    damaged = [*source.damaged, *(validation.damaged if validation is not None else ())]
    require_undamaged(damaged, request.on_damaged)
    say(source.describe())
    if validation is not None:
        say(f"held back: {validation.describe()}")
    frozen = frozen_kinds(arguments.freeze, source.kinds)
    plan = plan_pairs(
        request,
        source,
        frozen=frozen,
        pretrained=given.starts_trained(),
        device=kind,
        workers=arguments.workers,
    )

    _print_plan(plan, kind)

    if arguments.dry_run:
        from .forecast_pairs import forecast_pairs

        return forecast_pairs(arguments, given, source, validation, plan, frozen, run, kind)
    from .train_pairs import train_pairs

    return train_pairs(arguments, given, source, validation, plan, frozen, run, kind, resume)


def _require_equal_kinds(source: PairSource | PairStream, validation: PairSource | None) -> None:
    """Refuse held-back pairs that the towers of the training pairs do not take."""
    if validation is not None and validation.kinds != source.kinds:
        kinds, others = (" and ".join(pairs.kinds) for pairs in (source, validation))
        raise UserError(
            f"--val: {validation.name} holds pairs of {others}, but the training data has pairs of "
            f"{kinds}"
        )


def _print_plan(plan: PairPlan, device: str) -> None:
    epochs = plan.request.epochs
    count = "1 epoch" if epochs == 1 else f"{epochs:,} epochs"
    say(f"{plan.request.method} for {count} on {device}")
    for name, value, reason in plan.reasons:
        say(setting_line(name, value, reason))
