"""`sogclr.align`: from a table of pairs and two towers to a joint space."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..common.console import say
from ..common.environment import processes, rank, restarts
from ..common.errors import UserError
from ..common.options import Device
from ..data.batches.schedule import Schedule, ShuffledSchedule
from ..data.batches.stream import StreamSchedule
from ..data.open_images import require_undamaged
from ..data.open_pairs import open_pairs
from ..data.pair_source import PairSource
from ..data.tar.http import is_url, without_query
from ..data.tar.stream_pairs import PairStream
from ..distributed.launch import choose_device, start
from ..distributed.sharded_model import require_shardable
from ..models.build_towers import TowerRequest, build_towers, rebuild_towers, tokenizer_of
from ..models.towers import PairModel, PairSpec, Tower, regularize
from ..planning.pairs import PairPlan, PairRequest, plan_pairs
from ..runs.folder import Run
from ..runs.resume import Result, checkpoint_bytes, claim, conduct, request_of
from ..runs.towers import load_frozen, pair_files, read_spec, write_start
from ..training.loop import Trainer
from ..training.monitor import NOTHING_YET
from ..training.normalizer_error import gauge_bytes
from ..training.pair_inputs import Sides
from ..training.task_image_stream import open_stream
from ..training.task_pair_stream import StreamPairTask
from ..training.task_pairs import SCORED, Held, PairTask, SidesTask

__all__ = ["align", "task_of"]


def align(
    data: Any,
    out: str | Path,
    request: PairRequest,
    wanted: TowerRequest,
    *,
    freeze: str | Sequence[str],
    val: Any,
    device: Device,
    workers: int | None,
    checkpoint_seconds: float,
    shard_model: bool,
    resume: bool,
) -> Result:
    """See `sogclr.align`."""
    run = Run(out)
    resume = resume or (restarts() > 0 and run.checkpoint.exists())
    request = claim(run, request, "align", resume)
    if shard_model:
        require_shardable(request.method)
    kind = choose_device(device, alone=False)
    source = _opened(data, request)
    held = None if val is None else open_pairs(val, request.columns)
    require_undamaged(
        [*source.damaged, *(held.damaged if held is not None else ())], request.on_damaged
    )
    say(source.describe())
    if held is not None:
        say(f"held back: {held.describe()}")
    frozen = frozen_kinds(freeze, source.kinds)
    plan = plan_pairs(
        request,
        source,
        frozen=frozen,
        pretrained=wanted.starts_trained(),
        device=kind,
        workers=workers,
    )
    # From here on no process changes what another looks at.
    fabric = start(kind, plan.precision, shard_model=shard_model)
    torch.manual_seed(request.seed)
    spec, towers = _towers(run, wanted, frozen, source, resume)
    _tell(plan, kind, spec, towers)
    model = _model(spec, towers, plan)
    if not any(p.requires_grad for p in model.parameters()):
        raise UserError("freeze: nothing is left to train; freeze one tower only")
    tokenizer = tokenizer_of(spec, pair_files(run)["text"] if resume else None)

    if fabric.is_global_zero:
        run.create()
        bodies = sum(p.numel() * p.element_size() for k in frozen for p in towers[k].parameters())
        kept = gauge_bytes(plan.batch_size, spec.width)
        rows = sum(source.sizes) if request.table_rows is None else 2 * request.table_rows
        run.require_space(bodies + checkpoint_bytes(model, rows, kept))
        if not resume:
            write_start(run, spec, towers, tokenizer)
    inputs = Sides(spec, towers, tokenizer, plan, fabric.device)
    with fabric.rank_zero_first():  # the others find the features it has kept
        task, batches = _work(source, model, plan, inputs, held, fabric.autocast)
    trainer = Trainer(fabric, task, batches, plan.recipe, run, checkpoint_seconds)
    if resume:
        trainer.restore()
    else:
        trainer.monitor.restore(NOTHING_YET, fabric.device)
        # With the first checkpoint, since the weights that the towers came with are nowhere else
        # in the run; and settings last: with them, the folder is a run that can be resumed.
        trainer.save()
        settings = {"kind": "pairs", "data": _named(data), "val": _named(val)}
        if fabric.is_global_zero:
            run.write_settings(
                {**settings, "asked": asdict(request), "resolved": asdict(plan.resolved())}
            )
    return conduct(trainer, "sogclr evaluate, search, embed, sogclr.load")


def task_of(
    run: Run, data: Any, module: nn.Module | None, device: str
) -> tuple[PairTask, np.ndarray, int]:
    """What a run was asked to learn, from data with one partner a sample, to be looked at.

    Args:
        run: of `align`.
        data: pairs; of several partners one is kept.
        module: an image tower of the architecture trained, where it was the user's own.
        device: "cpu", "cuda" or "mps".

    Returns:
        The task, with the weights that the towers started from; the row of side b that is kept
        for each of side a; the width of the joint space.
    """
    request = request_of(run.read_settings(), PairRequest)
    source = open_pairs(data, request.columns)
    say(source.describe())
    partners = source.draw(request.seed, 0, np.arange(len(source.a)))
    source = replace(source, start=np.arange(len(source.a) + 1), partners=partners)
    wanted = TowerRequest(None, None, module, None, None, None, None)
    spec, towers = _towers(run, wanted, (), source, resume=True)
    batch = min(request.batch_size or len(source.a), len(source.a))
    plan = plan_pairs(
        replace(request, batch_size=batch),
        source,
        frozen=spec.frozen,
        pretrained=False,
        device=device,
        workers=None,
    )
    model = _model(spec, towers, plan)
    tokenizer = tokenizer_of(spec, pair_files(run)["text"])
    inputs = Sides(spec, towers, tokenizer, plan, torch.device(device))
    a, b = inputs.training(source.a), inputs.training(source.b)
    return PairTask(model, source, a, b, plan, Held(source, a, b)), partners, spec.width


def _opened(data: Any, request: PairRequest) -> PairSource | PairStream:
    if is_url(data) and request.columns is not None:
        raise UserError("columns: a stream has none; a caption is a part txt, or `caption` in json")
    stream = open_stream(data, request, PairStream)
    return open_pairs(data, request.columns) if stream is None else stream


def _work(
    source: PairSource | PairStream,
    model: PairModel,
    plan: PairPlan,
    inputs: Sides,
    held: PairSource | None,
    autocast: Callable[[], AbstractContextManager],
) -> tuple[SidesTask, Schedule]:
    """What is learned, and in which steps."""
    request = plan.request
    run = plan.batch_size, request.accumulate, request.epochs, request.seed, rank(), processes()
    scored = None if held is None else Held(held, *inputs.plain(held))
    if isinstance(source, PairStream):
        a, b, encoded = inputs.streamed(autocast)
        stream = StreamPairTask(model, source, a, b, encoded, plan, scored)
        return stream, StreamSchedule(source, request.table_rows, *run)
    sides = inputs.training(source.a), inputs.training(source.b)
    task = PairTask(model, source, *sides, plan, scored or _sample(source, inputs))
    return task, ShuffledSchedule(source.a.ids, *run)


def _model(spec: PairSpec, towers: dict[str, Tower], plan: PairPlan) -> PairModel:
    for tower in towers.values():
        regularize(tower.head, plan.dropout)
    return PairModel(towers, spec.kinds, spec.frozen)


def frozen_kinds(asked: str | Sequence[str], kinds: tuple[str, str]) -> tuple[str, ...]:
    """Kinds of towers, from what a person wrote.

    Raises:
        UserError: not the kind of a side.
    """
    names = [n.strip() for n in asked.split(",")] if isinstance(asked, str) else list(asked)
    names = [name for name in names if name]
    for name in names:
        if name not in kinds:
            raise UserError(
                f"freeze: {name!r} is not a side of these pairs: {', '.join(dict.fromkeys(kinds))}"
            )
    return tuple(kind for kind in dict.fromkeys(kinds) if kind in names)


def _towers(
    run: Run,
    wanted: TowerRequest,
    frozen: tuple[str, ...],
    source: PairSource | PairStream,
    resume: bool,
) -> tuple[PairSpec, dict[str, Tower]]:
    if not resume:
        return build_towers(wanted, source.kinds, frozen, source.image_size)
    module = wanted.image_tower if isinstance(wanted.image_tower, nn.Module) else None
    spec = read_spec(run)
    if frozen not in ((), spec.frozen):
        was = ",".join(spec.frozen) or "nothing"
        raise UserError(
            f"freeze: {run.folder} was started with {was}, not {','.join(frozen)}; "
            "leave it out to go on, or name another --out"
        )
    if spec.custom and module is None:
        raise UserError("image-tower: the run has one of your own; pass it from Python again")
    towers = rebuild_towers(spec, pair_files(run)["text"], module)
    load_frozen(run, towers)
    return spec, towers


def _sample(source: PairSource, inputs: Sides) -> Held:
    """A fixed sample of the training pairs, where none are held back."""
    rows = np.sort(np.argsort(source.a.ids, kind="stable")[:SCORED])
    return Held(source, *inputs.plain(source), rows)


def _tell(plan: PairPlan, device: str, spec: PairSpec, towers: dict[str, Tower]) -> None:
    say(f"{plan.request.method} for {plan.request.epochs} epochs on {device}")
    for name, value, reason in plan.reasons:
        say(f"  {name:<15} {value:<12} {reason}")
    for kind, tower in towers.items():
        body, head = (sum(p.numel() for p in m.parameters()) for m in (tower.body, tower.head))
        state = "frozen" if kind in spec.frozen else "trained"
        say(f"  {kind} tower: {body / 1e6:.2f} M parameters, {state}; head {head / 1e6:.2f} M")


def _named(data: Any) -> str | None:
    """How `sogclr search` finds the data again, from whichever folder it is called."""
    if not isinstance(data, str | Path):
        return None
    if is_url(data):
        return without_query(str(data))
    is_path = os.path.exists(data) or str(data).endswith(".tar")  # or a pattern of shards
    return os.path.abspath(data) if is_path else str(data)
