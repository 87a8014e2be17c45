"""Build what `sogclr.align` trains: towers, inputs of both sides, task and schedule."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ..common.console import say
from ..common.environment import processes, rank
from ..common.errors import UserError
from ..common.options import TowerSettings
from ..data.batches.schedule import Schedule, ShuffledSchedule
from ..data.batches.stream import StreamSchedule
from ..data.open_pairs import open_pairs
from ..data.pair_source import PairSource
from ..data.tar.stream_pairs import PairStream
from ..models.build_towers import build_towers, rebuild_towers, tokenizer_of
from ..models.towers import PairModel, PairSpec, Tower, regularize
from ..planning.pairs import PairPlan, plan_pairs
from ..planning.settings_pairs import PairSettings
from ..runs.folder import Run
from ..runs.resume import read_resolved
from ..runs.towers import load_frozen, read_spec
from .pair_inputs import PairInputs
from .task_pair_stream import StreamPairTask
from .task_pairs import SCORED_PAIRS, PairTask, ScoredPairs, SidesTask

__all__ = [
    "build_model",
    "build_run_task",
    "build_schedule",
    "build_training",
    "open_towers",
]


def open_towers(
    run: Run,
    wanted: TowerSettings,
    frozen: tuple[str, ...],
    source: PairSource | PairStream,
    resume: bool,
) -> tuple[PairSpec, dict[str, Tower]]:
    """Build the towers of a new run, or those that a resumed run started from.

    Args:
        run: the run's folder.
        wanted: which towers; a resumed run reads only the user's own image tower from it.
        frozen: kinds of frozen towers; may be empty if the run is resumed.
        source: the pairs.
        resume: whether the run is resumed.

    Returns:
        The description of the towers, and the towers by kind.

    Raises:
        UserError: a tower cannot be built, or is not the one that the run started with.
    """
    if not resume:
        return build_towers(wanted, source.kinds, frozen, source.image_size)
    module = wanted.image_tower if isinstance(wanted.image_tower, nn.Module) else None
    spec = read_spec(run)
    if frozen not in ((), spec.frozen):
        before = ",".join(spec.frozen) or "nothing"
        raise UserError(
            f"--freeze: {run.folder} was started with {before}, not {','.join(frozen)}; "
            "leave it out to go on, or name another --out"
        )
    if spec.custom and module is None:
        raise UserError("--image-tower: the run has one of your own; pass it from Python again")
    towers = rebuild_towers(spec, run.text, module)
    load_frozen(run, spec, towers)
    return spec, towers


def build_model(
    spec: PairSpec, towers: dict[str, Tower], plan: PairPlan, dropout: float | None = None
) -> PairModel:
    """Join the towers to the model that is trained.

    Args:
        spec: the description of the towers.
        towers: the towers by kind.
        plan: the plan of the run.
        dropout: the dropout that the user gave; None if it was derived.

    Raises:
        UserError: all towers are frozen, and their heads have no weights; or no head has a place
            for the dropout that was given.
    """
    places = sum(regularize(tower.head, plan.dropout) for tower in towers.values())
    if dropout and not places:
        raise UserError(
            "--dropout: does nothing here, since the heads have no hidden layer; leave it out"
        )
    model = PairModel(towers, spec.kinds, spec.frozen)
    if not any(p.requires_grad for p in model.parameters()):
        raise UserError("--freeze: nothing is left to train; freeze one tower only")
    return model


def build_training(
    source: PairSource | PairStream,
    model: PairModel,
    plan: PairPlan,
    inputs: PairInputs,
    validation: PairSource | None,
    autocast: Callable[[], AbstractContextManager],
) -> tuple[SidesTask, Schedule]:
    """Build the task of a run and the schedule of its micro-batches.

    Args:
        source: the pairs to train on.
        model: the model to train.
        plan: the plan of the run.
        inputs: makes the inputs of both sides.
        validation: the pairs to score; by default a fixed sample of `source`, none of a stream.
        autocast: enters the precision of the run.
    """
    schedule = build_schedule(source, plan.request, plan.batch_size, plan.request.accumulate)
    scored = None if validation is None else ScoredPairs(validation, *inputs.plain(validation))
    if isinstance(source, PairStream):
        a, b, encoded = inputs.streamed(autocast)
        return StreamPairTask(model, source, a, b, encoded, plan, scored), schedule
    sides = inputs.training(source.a), inputs.training(source.b)
    task = PairTask(model, source, *sides, plan, scored or _training_sample(source, inputs))
    return task, schedule


def build_schedule(
    source: PairSource | PairStream, request: PairSettings, batch_size: int, accumulate: int
) -> Schedule:
    """Build the schedule of a run's micro-batches.

    Args:
        source: the pairs to train on.
        request: the settings of the run.
        batch_size: number of pairs in a micro-batch, over all processes.
        accumulate: number of micro-batches in a step.
    """
    size = batch_size, accumulate, request.epochs, request.seed, rank(), processes()
    if isinstance(source, PairStream):
        return StreamSchedule(source, request.table_rows, *size)
    return ShuffledSchedule(source.a.ids, *size)


def build_run_task(
    run: Run, data: Any, module: nn.Module | None, device: str
) -> tuple[PairTask, np.ndarray, int]:
    """Build the task of a finished run anew, to audit it on pairs with one partner a sample.

    Args:
        run: a run of `align`.
        data: pairs; of several partners of a sample, one is kept.
        module: the user's own image tower, of the trained architecture; None if the run has none.
        device: "cpu", "cuda" or "mps".

    Returns:
        The task, with the weights that the towers started from; `(n,)` the row of side b that is
        kept for each row of side a; the width of the joint space.

    Raises:
        UserError: the data or the towers cannot be read.
    """
    request = read_resolved(run.read_settings(), PairSettings)
    source = open_pairs(data, request.columns)
    say(source.describe())
    partners = source.draw(request.seed, 0, np.arange(len(source.a)))
    source = replace(source, start=np.arange(len(source.a) + 1), partners=partners)
    wanted = TowerSettings(image_tower=module)
    spec, towers = open_towers(run, wanted, (), source, resume=True)
    batch = min(request.batch_size or len(source.a), len(source.a))
    plan = plan_pairs(
        replace(request, batch_size=batch),
        source,
        frozen=spec.frozen,
        pretrained=False,
        device=device,
        workers=None,
    )
    model = build_model(spec, towers, plan)
    tokenizer = tokenizer_of(spec, towers, run.text)
    inputs = PairInputs(spec, towers, tokenizer, plan, torch.device(device))
    a, b = inputs.training(source.a), inputs.training(source.b)
    task = PairTask(model, source, a, b, plan, ScoredPairs(source, a, b))
    return task, partners, spec.width


def _training_sample(source: PairSource, inputs: PairInputs) -> ScoredPairs:
    """Choose training pairs to score, where there are no validation pairs."""
    rows = np.sort(np.argsort(source.a.ids, kind="stable")[:SCORED_PAIRS])
    return ScoredPairs(source, *inputs.plain(source), rows)
