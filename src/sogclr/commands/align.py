"""Run `sogclr.align`: open the pairs, plan, build the towers and the task, train."""

from typing import Any

import torch
from torch import nn

from ..common.console import say, setting_line
from ..common.errors import UserError
from ..data.open_images import require_undamaged
from ..data.open_pairs import open_pairs, require_columns
from ..data.pair_source import PairSource
from ..data.tar.stream_pairs import PairStream
from ..distributed.connect import Facts, digest_of, option_facts
from ..distributed.device import choose_device
from ..distributed.launch import start
from ..distributed.sharded_model import require_shardable
from ..models.build_towers import tokenizer_of
from ..models.text_lengths import choose_texts_of_pairs, describe_cut
from ..models.towers import PairModel, PairSpec, Tower
from ..planning.pairs import PairPlan, plan_pairs
from ..planning.settings_pairs import AlignArguments, PairSettings
from ..runs.data_address import data_address
from ..runs.folder import Run
from ..runs.resume import choose_settings, finds_checkpoint, resumes
from ..runs.towers import write_start
from ..training.build_pairs import (
    build_model,
    build_training,
    frozen_kinds,
    open_data,
    open_towers,
)
from ..training.loop import Trainer
from ..training.normalizer_error import stored_bytes
from ..training.pair_inputs import PairInputs
from .report import report_at_the_end
from .result import Result, checkpoint_bytes, suggest_next, train_to_end

__all__ = ["align"]

NEXT = ("sogclr evaluate {run} {data}", "sogclr serve {run} {data}")


def align(arguments: AlignArguments, given: PairSettings) -> Result:
    """Do what `sogclr.align` documents.

    Args:
        arguments: All arguments, of which data, storage and machine are read.
        given: The settings that were given.
    """
    run = Run(arguments.out)
    if arguments.resume:
        run.read_settings()  # before the folder is created
    with run.claim():
        resume = resumes(run, arguments.resume)
        request = choose_settings(run, given, "align", resume)
        if not finds_checkpoint(run, resume) and resume:
            raise UserError(f"--resume: {run.checkpoint} is missing; put the file back")
        result = _align(arguments, given, request, run, resume)
    if result.complete:
        tower: Any = arguments.image_tower
        module = tower if isinstance(tower, nn.Module) else None
        report_at_the_end(run.folder, arguments.data, module, arguments.device)
        suggest_next(run.folder, arguments.data, NEXT)
    return result


def _align(
    arguments: AlignArguments, given: PairSettings, request: PairSettings, run: Run, resume: bool
) -> Result:
    """Train in a folder that is this run's alone; `resume` if there is a checkpoint."""
    data, val, shard_model = arguments.data, arguments.val, arguments.shard_model
    if shard_model:
        require_shardable(request.method)
    kind = choose_device(arguments.device, alone=False)
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

    # Processes wait for each other here: until now they read files that the first one may change.
    fabric = start(
        kind,
        plan.precision,
        shard_model=shard_model,
        process_timeout=arguments.process_timeout,
        facts=_facts({**given.as_dict(), "freeze": frozen}, source, validation, plan, resume),
    )
    torch.manual_seed(request.seed)
    spec, towers = open_towers(run, given, frozen, source, resume)
    _print_plan(plan, kind, spec, towers)
    model = build_model(spec, towers, plan, None if resume else given.dropout)
    tokenizer = tokenizer_of(spec, towers, run.text if resume else None)
    if fabric.is_global_zero:
        _print_lengths(request, source, validation, tokenizer)
        run.require_space(_bytes_on_disk(source, plan, spec, towers, frozen, model))
        if not resume:
            write_start(run, spec, towers, tokenizer)
    inputs = PairInputs(spec, towers, tokenizer, plan, fabric.device)
    with fabric.rank_zero_first():  # The others then find the features that the first one caches.
        task, schedule = build_training(source, model, plan, inputs, validation, fabric.autocast)
    trainer = Trainer(fabric, task, schedule, plan.recipe, run, arguments.checkpoint_seconds)
    if resume:
        trainer.restore()
    else:
        trainer.monitor.start()
        # Only this checkpoint holds the weights that the trained towers came with. Settings
        # come last: a folder with settings is a run that can be resumed.
        trainer.save()
        if fabric.is_global_zero:
            run.write_settings(
                {
                    "kind": "pairs",
                    "data": data_address(data),
                    "val": data_address(val),
                    "asked": given.as_dict(),
                    "resolved": plan.resolved().as_dict(),
                    "reasons": plan.reasons,
                }
            )
    return train_to_end(trainer)


def _require_equal_kinds(source: PairSource | PairStream, validation: PairSource | None) -> None:
    """Refuse held-back pairs that the towers of the training pairs do not take."""
    if validation is not None and validation.kinds != source.kinds:
        kinds, others = (" and ".join(pairs.kinds) for pairs in (source, validation))
        raise UserError(
            f"--val: {validation.name} holds pairs of {others}, but the training data has pairs of "
            f"{kinds}"
        )


def _facts(
    options: dict[str, Any],
    source: PairSource | PairStream,
    validation: PairSource | None,
    plan: PairPlan,
    resume: bool,
) -> Facts:
    """Collect what must be equal in all processes: options, data, derived values, checkpoint."""
    facts = option_facts(options)
    for what, pairs in (("", source), ("held-back ", validation)):
        if isinstance(pairs, PairSource):
            a, b = pairs.a, pairs.b
            arrays = a.ids, a.marks, b.ids, pairs.start, pairs.partners
            facts[f"the {what}pairs' first sides"] = digest_of(*arrays)
        else:
            facts[f"the {what}shards"] = "none" if pairs is None else digest_of(pairs.ids)
    return {
        **facts,
        **option_facts(plan.resolved().as_dict(), "the derived "),
        "the checkpoint in --out": "there" if resume else "missing",
    }


def _print_plan(plan: PairPlan, device: str, spec: PairSpec, towers: dict[str, Tower]) -> None:
    epochs = plan.request.epochs
    count = "1 epoch" if epochs == 1 else f"{epochs:,} epochs"
    say(f"{plan.request.method} for {count} on {device}")
    for name, value, reason in plan.reasons:
        say(setting_line(name, value, reason))
    for kind, tower in towers.items():
        body, head = (sum(p.numel() for p in m.parameters()) for m in (tower.body, tower.head))
        state = "frozen" if kind in spec.frozen else "to be trained"
        say(f"  {kind} tower: {body / 1e6:.2f} M parameters, {state}; head {head / 1e6:.2f} M")


def _print_lengths(
    request: PairSettings,
    source: PairSource | PairStream,
    validation: PairSource | None,
    tokenizer: Any,
) -> None:
    """Print how many tokens of a text are read, and which share of the texts is cut."""
    named = request.model is not None or request.text_tower is not None
    origin = "as many as the text tower takes" if named else "usual for the small text tower"
    if request.context_length is not None:
        origin = "as given"
    _, cut = describe_cut(tokenizer, _texts_of(source))
    say(setting_line("context length", tokenizer.context_length, f"{origin}; {cut}"))
    if validation is not None:
        say(f"  held back: {describe_cut(tokenizer, _texts_of(validation))[1]}")


def _texts_of(source: PairSource | PairStream) -> list[list[str]]:
    """Choose texts of each side, whose tokens are counted."""
    if isinstance(source, PairStream):
        return [source.first_captions]
    return choose_texts_of_pairs(source)


def _bytes_on_disk(
    source: PairSource | PairStream,
    plan: PairPlan,
    spec: PairSpec,
    towers: dict[str, Tower],
    frozen: tuple[str, ...],
    model: PairModel,
) -> int:
    bodies = sum(p.numel() * p.element_size() for kind in frozen for p in towers[kind].parameters())
    table_rows = plan.request.table_rows
    rows = sum(source.sizes) if table_rows is None else 2 * table_rows
    return bodies + checkpoint_bytes(model, rows, stored_bytes(plan.batch_size, spec.width))
