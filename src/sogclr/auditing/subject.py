"""What is audited: stored views of a data set, embedded, and the loss with its table.

Embeddings are made as in training (random views, batch statistics, dropout), since that is what
the table was filled from.
"""

import copy
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..common.console import say, track
from ..common.errors import UserError, one_line
from ..common.options import Device
from ..data.batches.loaders import BatchPlan, MicroBatch
from ..data.open_images import open_source
from ..distributed.launch import choose_device
from ..losses import GlobalClipLoss, GlobalContrastiveLoss, SigLipLoss
from ..losses.normalizer import NormalizerTable
from ..losses.temperature import detached
from ..models.encoders import PROJECTION, EncoderSpec, build_encoder
from ..planning.images import Request, plan_run
from ..runs.folder import Run, is_pair_run
from ..runs.load import load_encoder
from ..runs.resume import request_of, usual_settings
from ..training.build_images import build_task
from ..training.build_pairs import build_run_task
from .expected_gradient import at_rest
from .population import Population

__all__ = ["Subject", "subject_of", "tables_of"]

FEWEST = 16  # samples: below, there is nothing to average over
OPERATIONS = 1.3e12  # vectors times vectors times numbers that two cores multiply in minutes
FRESH = 1 << 20  # the first epoch here: its views are none that the run has seen


@dataclass(frozen=True)
class Subject:
    """See the module.

    Attributes:
        name: for people.
        population: the stored views.
        references: `(S, n, R, d)`, other views, to hold a run's table against; None where the
            table is empty, to be filled with the stored ones.
        loss: of a global contrastive objective, on the CPU, its temperatures at rest.
        batch_size: of the run, or what a run would take.
        folder: of the run, if it is one.
    """

    name: str
    population: Population
    references: Tensor | None
    loss: Any
    batch_size: int
    folder: Path | None

    @property
    def trained(self) -> bool:
        """Whether the loss has the table of a run."""
        return self.references is not None


@dataclass(frozen=True)
class _Found:
    """A task with its weights, the row of side b that each of a is with, and the vectors' width."""

    task: Any
    partners: np.ndarray | None = None
    width: int = PROJECTION

    @property
    def sides(self) -> int:
        return 1 if self.partners is None else 2


def subject_of(
    run: Any,
    data: Any,
    *,
    samples: int,
    views: int | None,
    batch_size: int | None,
    temperature: float | None,
    module: nn.Module | None,
    device: Device,
) -> Subject:
    """Of a run's folder, or of an encoder before training; see `sogclr.audit`."""
    kind = choose_device(device)
    is_run = not isinstance(run, nn.Module) and Path(run).exists()
    if is_run and (batch_size or temperature):
        raise UserError("audit: a run has its batch size and temperature; leave them out")
    if is_run:
        name, found = Path(run).resolve().name, _trained(Run(run), data, module, kind)
    else:
        name = type(run).__name__ if isinstance(run, nn.Module) else str(run)
        found = _untrained(run, data, batch_size, temperature, kind)
    loss = found.task.loss
    if isinstance(loss, SigLipLoss):
        raise UserError("audit: siglip judges each pair by itself: it has no normalizer to audit")
    # How an anchor is weighed, and among how many, is not how well its normalizer is known.
    loss.effective_negatives = loss.memory = None
    filled = is_run and isinstance(loss, GlobalContrastiveLoss | GlobalClipLoss)
    rows = _chosen(found, samples, filled)
    views = views or (4 if len(rows) <= 25_000 else 2)
    if views < 2 or views % 2:
        raise UserError(f"views: must be even and at least 2, got {views}")
    features = _embed(found, rows, 2 * views if filled else views, torch.device(kind))
    kept = ~features.isnan().any(dim=3).any(dim=2).any(dim=0)  # (n,), what could be read
    features, rows = features[:, kept], rows[kept.numpy()]
    _require(len(rows))
    loss = at_rest((loss if filled else _empty(found)).cpu())
    population = _population(features[:, :, :views], rows, found.partners, loss)
    references = features[:, :, views:] if filled else None
    batch = found.task.plan.batch_size
    return Subject(name, population, references, loss, batch, Path(run) if is_run else None)


def _trained(run: Run, data: Any, module: nn.Module | None, device: str) -> _Found:
    """The task of a run, as its checkpoint has it."""
    settings = run.read_settings()
    if settings["resolved"].get("epoch_samples") is not None:
        raise UserError(
            f"audit: {run.folder} was trained on a stream, and rows of its table are shared by "
            "samples that are not listed anywhere; audit an encoder instead"
        )
    state = run.read_checkpoint()
    module = copy.deepcopy(module)
    if is_pair_run(run.folder):
        found = _Found(*build_run_task(run, data, module, device))
    else:
        source = open_source(data)
        say(source.describe())
        request = request_of(settings, Request)
        batch = min(request.batch_size or len(source), len(source))
        plan = plan_run(replace(request, batch_size=batch), source, device, None)
        found = _Found(build_task(source, plan, *load_encoder(run.folder, module)))
    try:
        told = found.task.restore(state, run)
    except RuntimeError as error:
        raise UserError(f"encoder: does not fit {run.folder}: {one_line(error)}") from error
    if told is not None:
        say(told)
    return found


def _untrained(
    encoder: Any, data: Any, batch_size: int | None, temperature: float | None, device: str
) -> _Found:
    """The task that `sogclr.pretrain` would start from."""
    own = isinstance(encoder, nn.Module)
    if not own and os.sep in str(encoder):
        raise UserError(f"run: {encoder} does not exist; give a run's folder or an encoder's name")
    usual = usual_settings("pretrain")
    asked = {name: usual[name] for name in Request.__dataclass_fields__} | {
        "encoder": f"custom:{type(encoder).__name__}" if own else str(encoder),
        "batch_size": batch_size,
        "temperature": temperature,
    }
    source = open_source(data)
    say(source.describe())
    plan = plan_run(Request(**asked), source, device, None)
    torch.manual_seed(plan.request.seed)
    if own:  # a copy: the user's own keeps its place, mode and statistics
        return _Found(
            build_task(source, plan, copy.deepcopy(encoder), EncoderSpec("custom", plan.image_size))
        )
    return _Found(build_task(source, plan, *build_encoder(plan.encoder, plan.image_size)))


def _chosen(found: _Found, samples: int, filled: bool) -> np.ndarray:
    """Rows to look at: as many as can be compared, of those that the table knows."""
    rows = np.arange(len(found.task.names))
    if filled:
        own = (rows, found.partners)
        for table, place in zip(tables_of(found.task.loss), own, strict=False):
            assert place is not None
            rows = rows[(table.visits[place[rows]] > 0).numpy()]
        if left_out := len(found.task.names) - len(rows):
            say(f"left out: {left_out:,} samples that the table has not met yet")
    _require(len(rows))
    most = int(math.sqrt(OPERATIONS / found.sides / found.width)) // 2  # of two views each
    count = max(min(samples, most), FEWEST)
    if count < len(rows):
        say(f"{count:,} of {len(rows):,} samples, drawn at random")
    return np.sort(np.random.default_rng(found.task.plan.request.seed).permutation(rows)[:count])


def _require(count: int) -> None:
    if count < FEWEST:
        raise UserError(f"data: {count} samples are too few to audit; give {FEWEST} or more")


def _embed(found: _Found, rows: np.ndarray, views: int, device: torch.device) -> Tensor:
    """Unit vectors `(S, n, V, d)` on the CPU; NaN for what cannot be read."""
    task, sides = found.task, found.sides
    model = task.model.to(device, memory_format=torch.channels_last).train()
    task.loss.to(device)
    # Two views come with each visit of an image, one of either side with each visit of a pair.
    plan = task.plan
    visits = _Visits(rows, plan.batch_size, views * sides // 2, plan.request.seed)
    place = np.empty(len(task.names), dtype=np.int64)
    place[rows] = np.arange(len(rows))
    features, told = torch.empty(0), set[str]()
    with torch.no_grad():
        for batch in track(task.loader(visits, pin_memory=False), "embedding", total=len(visits)):
            for name, reason in batch.unreadable:
                if name not in told:
                    say(f"left out {name}: {reason}")
                told.add(name)
            if not len(batch.plan.rows):
                continue
            outcome = task.forward(model, batch, device)
            pair = [normalize(z.float(), dim=-1).cpu() for z in outcome.projections]
            if not len(features):
                features = torch.full((sides, len(rows), views, pair[0].shape[1]), torch.nan)
            own, epoch = torch.from_numpy(place[batch.plan.rows]), batch.plan.epoch - FRESH
            for i, z in enumerate(pair):
                side, view = (i, epoch) if sides == 2 else (0, 2 * epoch + i)
                features[side, own, view] = z
    if not len(features):
        raise UserError("data: none of the images can be read")
    return features


class _Visits(BatchPlan):
    """Every chosen row once an epoch, in random order."""

    def __init__(self, rows: np.ndarray, batch_size: int, epochs: int, seed: int) -> None:
        super().__init__(rows.astype(np.uint64), batch_size, 1, epochs, seed)
        self.rows = rows

    def __iter__(self) -> Iterator[MicroBatch]:
        for batch in super().__iter__():
            yield replace(batch, rows=self.rows[batch.rows], epoch=FRESH + batch.epoch)


def _population(
    features: Tensor, rows: np.ndarray, partners: np.ndarray | None, loss: Any
) -> Population:
    sides = [rows] if partners is None else [rows, partners[rows]]
    table_rows = torch.from_numpy(np.stack(sides))  # (S, n)
    temperatures = [temperature for _, temperature in loss.sides()]
    taus = [detached(tau(own)) for tau, own in zip(temperatures, table_rows, strict=True)]
    # Pairs that share a text are no negatives of each other.
    return Population(features, table_rows, table_rows[-1], taus)


def _empty(found: _Found) -> Any:
    """The global loss with the temperature of a loss that keeps no table."""
    n = len(found.task.names)
    if found.partners is None:
        return GlobalContrastiveLoss(
            n, temperature=found.task.loss.temperature, scale="temperature"
        )
    sizes = (n, int(found.partners.max()) + 1)
    return GlobalClipLoss(sizes, temperature=found.task.loss.temperature_a, scale="temperature")


def tables_of(loss: Any) -> list[NormalizerTable]:
    """The tables of a loss, one a side."""
    return [kept for kept, _ in loss.sides() if isinstance(kept, NormalizerTable)]
