"""What is audited: stored views of a data set, embedded, and the loss with its table.

Embeddings are made as in training (random views, batch statistics, dropout), since that is what
the table was filled from.
"""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from .. import verbs
from ..data.loading import BatchPlan, MicroBatch
from ..data.source import open_source
from ..devices import choose_device
from ..errors import UserError
from ..identity import carry_over
from ..losses import GlobalContrastiveLoss, SigLipLoss, TwoWayGlobalContrastiveLoss
from ..normalizer import NormalizerTable
from ..planning import Request, plan_run
from ..pretraining import build_task
from ..progress import say, track
from ..runs import Run, is_of_pairs
from ..session import request_of
from ..settings import Device
from .expected import at_rest
from .population import Population

__all__ = ["Subject", "subject_of", "tables_of"]

FEWEST = 16  # samples: below, there is nothing to average over
VECTORS = 100_000  # samples times views that two cores compare in minutes
FRESH = 1 << 20  # the first epoch here: its views are none that the run has seen


@dataclass(frozen=True)
class Subject:
    """See the module.

    Attributes:
        name: for people.
        population: the stored views.
        loss: of a global contrastive objective, on the CPU, its temperatures at rest.
        batch_size: of the run, or what a run would take.
        trained: whether the loss has the table of a run; else its table is empty.
        folder: of the run, if it is one.
    """

    name: str
    population: Population
    loss: Any
    batch_size: int
    trained: bool
    folder: Path | None


@dataclass(frozen=True)
class _Found:
    """A task with its weights, its batch size, and the row of side b that each of a is with."""

    task: Any
    batch_size: int
    partners: np.ndarray | None
    seed: int


def subject_of(
    run: str | Path | nn.Module,
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
    if isinstance(run, nn.Module) or not Path(run).exists():
        name, folder = (run if isinstance(run, str) else type(run).__name__), None
        found = _untrained(run, data, batch_size, temperature, kind)
    elif batch_size or temperature:
        raise UserError("audit: a run has its batch size and temperature; leave them out")
    else:
        name, folder = Path(run).resolve().name, Path(run)
        found = _trained(Run(run), data, module, kind)
    if isinstance(found.task.loss, SigLipLoss):
        raise UserError("audit: siglip judges each pair by itself: it has no normalizer to audit")
    trained = isinstance(found.task.loss, GlobalContrastiveLoss | TwoWayGlobalContrastiveLoss)
    trained = trained and folder is not None
    rows = _chosen(found, samples, trained)
    views = views or (4 if 4 * len(rows) <= VECTORS else 2)
    if views < 2 or views % 2:
        raise UserError(f"views: must be even and at least 2, got {views}")
    features = _embed(found, rows, views, torch.device(kind))
    loss = at_rest(found.task.loss.cpu() if trained else _empty(found))
    population = _population(features, rows, found.partners, loss)
    return Subject(name, population, loss, found.batch_size, trained, folder)


def _trained(run: Run, data: Any, module: nn.Module | None, device: str) -> _Found:
    """The task of a run, as its checkpoint has it."""
    settings = run.read_settings()
    state = run.read_checkpoint()
    partners = None
    task: Any
    if is_of_pairs(run.folder):
        from ..pairs.aligning import task_of

        task, partners = task_of(run, data, module, device)
    else:
        source = open_source(data)
        say(source.describe())
        request = request_of(settings, Request)
        batch = min(request.batch_size or len(source), len(source))
        # Its weights are in the checkpoint.
        request = replace(request, batch_size=batch, pretrained=False, weights=None)
        task = build_task(source, plan_run(request, source, device, 0), module)
    task.model.load_state_dict(state["model"])
    loss_state, told = carry_over(
        state["loss"], task.loss.state_dict(), state["data"], task.identity(), run
    )
    task.loss.load_state_dict(loss_state)
    if told is not None:
        say(told)
    return _Found(task, task.plan.batch_size, partners, task.plan.request.seed)


def _untrained(
    encoder: Any, data: Any, batch_size: int | None, temperature: float | None, device: str
) -> _Found:
    """The task that `sogclr.pretrain` would start from."""
    usual = {
        name: parameter.default
        for name, parameter in inspect.signature(verbs.pretrain).parameters.items()
        if name in Request.__dataclass_fields__
    }
    named = isinstance(encoder, str)
    asked = {
        "encoder": encoder if named else f"custom:{type(encoder).__name__}",
        "batch_size": batch_size,
        "temperature": temperature,
    }
    source = open_source(data)
    say(source.describe())
    plan = plan_run(Request(**{**usual, **asked}), source, device, 0)
    task = build_task(source, plan, None if named else encoder)
    return _Found(task, plan.batch_size, None, plan.request.seed)


def _chosen(found: _Found, samples: int, trained: bool) -> np.ndarray:
    """Rows to look at: of those that the table knows, if there is one."""
    rows = np.arange(len(found.task.names))
    if trained:
        known, partners = tables_of(found.task.loss), (rows, found.partners)
        for table, own in zip(known, partners, strict=False):
            assert own is not None
            rows = rows[(table.visits[own[rows]] > 0).numpy()]
        if left_out := len(found.task.names) - len(rows):
            say(f"left out: {left_out:,} samples that the table has not met yet")
    if len(rows) < FEWEST:
        raise UserError(f"data: {len(rows)} samples are too few to audit; give {FEWEST} or more")
    chance = np.random.default_rng(found.seed)
    return np.sort(chance.permutation(rows)[: max(samples, FEWEST)])


def _embed(found: _Found, rows: np.ndarray, views: int, device: torch.device) -> Tensor:
    """Unit vectors `(S, n, V, d)` on the CPU; NaN for what cannot be read."""
    task, sides = found.task, 1 if found.partners is None else 2
    model = task.model.to(device, memory_format=torch.channels_last).train()
    task.loss.to(device)
    # Two views come with each visit of an image, one of either side with each visit of a pair.
    visits = _Visits(rows, found.batch_size, views * sides // 2, found.seed)
    place = np.empty(len(task.names), dtype=np.int64)
    place[rows] = np.arange(len(rows))
    features: Tensor | None = None
    loader = track(task.loader(visits, pin_memory=False), "embedding", total=len(visits))
    with torch.no_grad():
        for batch in loader:
            if not len(batch.plan.rows):
                continue
            outcome = task.forward(model, batch, device)
            pair = [normalize(z.float(), dim=-1).cpu() for z in outcome.projections]
            if features is None:
                shape = (sides, len(rows), views, pair[0].shape[1])
                features = torch.full(shape, torch.nan)
            own, epoch = torch.from_numpy(place[batch.plan.rows]), batch.plan.epoch - FRESH
            for i, z in enumerate(pair):
                side, view = (i, epoch) if sides == 2 else (0, 2 * epoch + i)
                features[side, own, view] = z
    if features is None:
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
    kept = ~features.isnan().any(dim=3).any(dim=2).any(dim=0)  # (n,), what could be read
    table_rows = torch.from_numpy(np.stack(sides))[:, kept]  # (S, n)
    temperatures = [temperature for _, temperature in loss.sides()]
    taus = [_plain(tau(own)) for tau, own in zip(temperatures, table_rows, strict=True)]
    # Pairs that share a text are no negatives of each other.
    return Population(features[:, kept], table_rows, table_rows[-1], taus)


def _plain(tau: float | Tensor) -> float | Tensor:
    """One temperature is a number; one a sample stays `(n,)`."""
    if isinstance(tau, Tensor):
        return tau.detach() if tau.ndim else tau.item()
    return tau


def _empty(found: _Found) -> Any:
    """The global loss with the temperature of a loss that keeps no table."""
    n = len(found.task.names)
    if found.partners is None:
        return GlobalContrastiveLoss(n, temperature=found.task.loss.temperature)
    sizes = (n, int(found.partners.max()) + 1)
    return TwoWayGlobalContrastiveLoss(sizes, temperature=found.task.loss.temperature_a)


def tables_of(loss: Any) -> list[NormalizerTable]:
    """The tables of a loss, one a side."""
    return [kept for kept, _ in loss.sides() if isinstance(kept, NormalizerTable)]
