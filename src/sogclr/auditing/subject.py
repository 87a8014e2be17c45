"""The subject of an audit: embedded views of a data set, and a loss with its table."""

import copy
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..common.console import say
from ..common.errors import UserError, one_line
from ..common.options import Device
from ..common.stored_fields import ANOTHER_VERSION
from ..data.open_images import open_images
from ..distributed.device import choose_device
from ..losses import GlobalClipLoss, GlobalContrastiveLoss, SigLipLoss
from ..losses.normalizer_table import NormalizerTable
from ..losses.temperature import read_tau
from ..models.encoders import PROJECTION, EncoderSpec, build_encoder
from ..planning.images import plan_run
from ..planning.settings_images import ImageSettings
from ..runs.folder import Run, is_pair_run
from ..runs.load import load_encoder
from ..runs.resume import read_resolved
from ..training.build_images import build_task
from ..training.build_pairs import build_run_task
from .embed_views import embed_views
from .expected_gradient import train_with_fixed_temperatures
from .population import Population

__all__ = ["Subject", "open_subject", "tables_of"]

FEWEST_SAMPLES = 16  # averages over fewer samples say nothing
MULTIPLICATIONS = 1.3e12  # between all pairs of vectors; takes minutes on two CPU cores


@dataclass(frozen=True)
class Subject:
    """The embedded samples and the loss that an audit measures.

    Attributes:
        name: the run's or the encoder's name in the title of the picture.
        population: the stored views.
        references: `(S, n, R, d)`, further views, from which the reference values of a run's
            table are estimated; None if the table is empty and must be filled first.
        loss: a global contrastive loss on the CPU, in training mode with fixed temperatures.
        batch_size: the batch size of the run, or the one that `pretrain` would use.
        folder: the folder of the run; None for an encoder before training.
        batches: `(n, R)` the batches in which the samples were embedded, see `embed_views`; None if
            that is unknown.
    """

    name: str
    population: Population
    references: Tensor | None
    loss: Any
    batch_size: int
    folder: Path | None
    batches: Tensor | None = None

    @property
    def trained(self) -> bool:
        """Return whether the loss has the table of a run."""
        return self.references is not None


@dataclass(frozen=True)
class _TaskWithPartners:
    """A task with its weights.

    Attributes:
        task: what the run trains.
        partners: `(n,)`, for each sample of side a the row of its partner on side b; None for
            images alone.
        width: dimension of the embeddings.
    """

    task: Any
    partners: np.ndarray | None = None
    width: int = PROJECTION

    @property
    def sides(self) -> int:
        """The number of sides, 1 for images, 2 for pairs."""
        return 1 if self.partners is None else 2


def open_subject(
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
    """Open a run, or an encoder before training, and embed the data; see `sogclr.audit`."""
    kind = choose_device(device)
    is_run = not isinstance(run, nn.Module) and Path(run).exists()
    if is_run and (batch_size or temperature):
        raise UserError("audit: a run has its batch size and temperature; leave them out")
    if is_run:
        name, opened = Path(run).resolve().name, _open_run(Run(run), data, module, kind)
    else:
        name = type(run).__name__ if isinstance(run, nn.Module) else str(run)
        opened = _open_encoder(run, data, batch_size, temperature, kind)
    loss = opened.task.loss
    if isinstance(loss, SigLipLoss):
        raise UserError("audit: siglip judges each pair by itself: it has no normalizer to audit")
    # Both change the weights and the number of an anchor's negatives, not its normalizer's error.
    loss.effective_negatives = loss.memory = None
    has_table = is_run and isinstance(loss, GlobalContrastiveLoss | GlobalClipLoss)
    indices = _choose_samples(opened, samples, has_table)
    views = views or (4 if len(indices) <= 25_000 else 2)
    if views < 2 or views % 2:
        raise UserError(f"--views: must be even and at least 2, got {views}")
    embedded = 2 * views if has_table else views
    features, batches = embed_views(
        opened.task, indices, opened.sides, embedded, torch.device(kind)
    )
    readable = ~features.isnan().any(dim=3).any(dim=2).any(dim=0)  # (n,)
    features, batches = features[:, readable], batches[readable]
    indices = indices[readable.numpy()]
    _require_enough(len(indices))
    loss = train_with_fixed_temperatures((loss if has_table else _loss_with_table(opened)).cpu())
    population = _make_population(features[:, :, :views], indices, opened.partners, loss)
    references = features[:, :, views:] if has_table else None
    batch = opened.task.plan.batch_size
    folder = Path(run) if is_run else None
    return Subject(name, population, references, loss, batch, folder, batches)


def tables_of(loss: Any) -> list[NormalizerTable]:
    """Return the table of each side of a loss."""
    return [table for table, _ in loss.sides() if isinstance(table, NormalizerTable)]


def _open_run(run: Run, data: Any, module: nn.Module | None, device: str) -> _TaskWithPartners:
    """Build the task of a run and restore its checkpoint."""
    settings = run.read_settings()
    if settings["resolved"].get("epoch_samples") is not None:
        raise UserError(
            f"audit: {run.folder} was trained on a stream, and rows of its table are shared by "
            "samples that are not listed anywhere; audit an encoder instead"
        )
    state = run.read_checkpoint()
    module = copy.deepcopy(module)
    if is_pair_run(run.folder):
        opened = _TaskWithPartners(*build_run_task(run, data, module, device))
    else:
        source = open_images(data)
        say(source.describe())
        request = read_resolved(settings, ImageSettings)
        batch = min(request.batch_size or len(source), len(source))
        plan = plan_run(replace(request, batch_size=batch), source, device, None)
        encoder, spec = load_encoder(run.folder, module)
        task = build_task(source, plan, encoder, spec, torch.device(device))
        opened = _TaskWithPartners(task)
    try:
        message = opened.task.restore(state, run)
    except RuntimeError as error:
        raise UserError(
            f"run: {run.checkpoint} does not fit ({one_line(error)}); {ANOTHER_VERSION}"
        ) from error
    if message is not None:
        say(message)
    return opened


def _open_encoder(
    encoder: Any, data: Any, batch_size: int | None, temperature: float | None, device: str
) -> _TaskWithPartners:
    """Build the task that `sogclr.pretrain` would start from."""
    is_module = isinstance(encoder, nn.Module)
    if not is_module and os.sep in str(encoder):
        raise UserError(f"run: {encoder} does not exist; give a run's folder or an encoder's name")
    settings = ImageSettings(
        encoder=f"custom:{type(encoder).__name__}" if is_module else str(encoder),
        batch_size=batch_size,
        temperature=temperature,
    )
    source = open_images(data)
    say(source.describe())
    plan = plan_run(settings, source, device, None)
    torch.manual_seed(plan.request.seed)
    if is_module:
        # A copy, since embedding moves the module and updates its batch statistics.
        spec = EncoderSpec("custom", plan.image_size)
        module = copy.deepcopy(encoder)
    else:
        module, spec = build_encoder(plan.encoder, plan.image_size, norm=plan.norm)
    return _TaskWithPartners(build_task(source, plan, module, spec, torch.device(device)))


def _choose_samples(opened: _TaskWithPartners, samples: int, has_table: bool) -> np.ndarray:
    """Draw the samples to compare, `(n,)` positions, from those that the table has visited."""
    indices = np.arange(len(opened.task.names))
    if has_table:
        rows_by_side = (indices, opened.partners)
        for table, rows in zip(tables_of(opened.task.loss), rows_by_side, strict=False):
            assert rows is not None
            indices = indices[(table.visits[rows[indices]] > 0).numpy()]
        if left_out := len(opened.task.names) - len(indices):
            say(f"left out: {left_out:,} samples that the table has not met yet")
    _require_enough(len(indices))
    # Two views of each sample, all against all, on each side.
    most = int(math.sqrt(MULTIPLICATIONS / opened.sides / opened.width)) // 2
    count = max(min(samples, most), FEWEST_SAMPLES)
    if count < len(indices):
        say(f"{count:,} of {len(indices):,} samples, drawn at random")
    draw = np.random.default_rng(opened.task.plan.request.seed)
    return np.sort(draw.permutation(indices)[:count])


def _require_enough(count: int) -> None:
    if count < FEWEST_SAMPLES:
        raise UserError(
            f"data: {count} samples are too few to audit; give {FEWEST_SAMPLES} or more"
        )


def _make_population(
    features: Tensor, indices: np.ndarray, partners: np.ndarray | None, loss: Any
) -> Population:
    sides = [indices] if partners is None else [indices, partners[indices]]
    rows = torch.from_numpy(np.stack(sides))  # (S, n)
    temperatures = [temperature for _, temperature in loss.sides()]
    taus = [
        read_tau(temperature(side_rows))
        for temperature, side_rows in zip(temperatures, rows, strict=True)
    ]
    # Grouped by the row of the last side: pairs with the same text are not negatives.
    return Population(features, rows, rows[-1], taus)


def _loss_with_table(opened: _TaskWithPartners) -> Any:
    """Make a global loss with an empty table and the temperature of a loss without a table."""
    n, loss = len(opened.task.names), opened.task.loss
    if opened.partners is None:
        return GlobalContrastiveLoss(n, temperature=loss.temperature, scale="temperature")
    sizes = (n, int(opened.partners.max()) + 1)
    return GlobalClipLoss(sizes, temperature=loss.temperature_a, scale="temperature")
