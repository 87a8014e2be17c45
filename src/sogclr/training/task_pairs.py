"""The task of pairs: both sides of a pair are pulled together, apart from all other pairs."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.batches.schedule import ShuffledSchedule
from ..data.pair_source import PairSource
from ..evaluation.retrieval import Retrieval, retrieval
from ..losses import (
    ClipLoss,
    DecoupledClipLoss,
    GlobalClipLoss,
    SigLipLoss,
)
from ..losses.base import Scale
from ..losses.temperature import ConstantTemperature, LearnedTemperature
from ..models.tower_features import compute_features
from ..models.tower_inputs import Inputs
from ..models.towers import PairModel
from ..planning.pairs import PairPlan
from ..runs.changed_data import Fingerprint, fingerprint
from ..runs.folder import Run
from ..runs.towers import write_trained
from .build_temperature import build_temperature
from .pair_batches import PairBatch, loss_indices, pair_batches
from .task import Outcome, Task

__all__ = ["PairTask", "ScoredPairs", "SidesTask", "build_loss"]

# Losses are comparable across batch sizes on this scale, which recorded results use too.
SCALE: Scale = "temperature"
SCORED_PAIRS = 1_000  # training pairs that are scored where there are no validation pairs


def build_loss(plan: PairPlan, sizes: tuple[int, int]) -> nn.Module:
    """Build the loss of the plan's method; all losses take `(a, b, index, index_b=)`.

    Args:
        plan: the plan of the run.
        sizes: the numbers of table rows of both sides.
    """
    request = plan.request
    if request.method == "siglip":
        return SigLipLoss(plan.temperature)
    temperature = build_temperature(request.temperature_mode, plan.temperature, plan.rho)
    if request.method == "clip":
        return ClipLoss(temperature, scale=SCALE)
    if request.method == "dcl":
        return DecoupledClipLoss(temperature, scale=SCALE)
    return GlobalClipLoss(
        sizes,
        temperature=temperature,
        level=request.normalizer == "level",
        gamma_min=request.gamma_min,
        gamma_decay_visits=request.gamma_decay_visits,
        effective_negatives=request.effective_negatives,
        memory_size=plan.memory_size or None,
        scale=SCALE,
    )


def _temperature_now(loss: Any) -> tuple[float, float | None]:
    """Read tau (the mean of individual ones) and SigLIP's bias (None for other losses)."""
    if isinstance(loss, SigLipLoss):
        return math.exp(-loss.log_scale.item()), loss.bias.item()
    temperature = loss.temperature_a
    if isinstance(temperature, ConstantTemperature):
        return temperature.value, None
    if isinstance(temperature, LearnedTemperature):
        return math.exp(temperature.log_temperature.item()), None
    # Leave out rows without a visit: no sample of a stream may have them.
    visited = loss.normalizer_a.visits[:-1] > 0
    tau = temperature.tau[:-1][visited].mean() if visited.any() else temperature.tau[0]
    return float(tau), None


class ScoredPairs:
    """Pairs that are embedded now and then to score the towers.

    Args:
        source: the pairs.
        a: makes the inputs of side a.
        b: makes the inputs of side b.
        rows: `(m,)` the samples of side a that are scored; all by default.
    """

    def __init__(
        self, source: PairSource, a: Inputs, b: Inputs, rows: np.ndarray | None = None
    ) -> None:
        self.source, self.a, self.b = source, a, b
        self.rows = np.arange(len(source.a)) if rows is None else rows
        self._reported: set[str] = set()

    def score(self, model: PairModel, device: torch.device) -> Retrieval:
        """Evaluate retrieval in both directions."""
        kind_a, kind_b = model.kinds
        was_training = model.training
        model.eval()
        source = self.source
        partners = source.partners[np.isin(source.owners(), self.rows)]
        a = compute_features(
            lambda x: model.side(kind_a, x)[1],
            source.a,
            self.a,
            device,
            rows=self.rows,
            reported=self._reported,
        )
        b = compute_features(
            lambda x: model.side(kind_b, x)[1], source.b, self.b, device, rows=partners
        )
        model.train(was_training)
        return retrieval(a, b, source, self.rows)


class SidesTask(Task):
    """The task of pairs, wherever they come from.

    Args:
        model: the trained parts of the towers.
        a, b: make the inputs of both sides; only `to_model` is used here.
        plan: the plan of the run.
        sizes: the numbers of table rows of both sides.
        scored: the pairs to score now and then; None for no scores.
    """

    def __init__(
        self,
        model: PairModel,
        a: Any,
        b: Any,
        plan: PairPlan,
        sizes: tuple[int, int],
        scored: ScoredPairs | None,
    ) -> None:
        self.model: PairModel = model
        self.a, self.b, self.plan, self.scored = a, b, plan, scored
        self.loss = build_loss(plan, sizes)

    def prepare(self, batch: PairBatch) -> tuple[Any, ...]:
        """Return `(b,)` indices of both sides and, not yet on the device, their inputs."""
        return *loss_indices(batch), batch.a, batch.b

    def forward(self, model: nn.Module, inputs: tuple[Any, ...], device: torch.device) -> Outcome:
        index, index_b, a, b, *sample_keys = inputs
        towers_inputs = self.a.to_model(a, device), self.b.to_model(b, device)
        (features_a, z_a), (features_b, z_b) = model(*towers_inputs)  # (b, w), (b, d) each
        names = dict(zip(("sample_key", "sample_key_b"), sample_keys, strict=False))
        loss = self.loss(z_a, z_b, index, index_b=index_b, **names)
        features = features_a.detach(), features_b.detach()
        return Outcome(loss, features, (z_a.detach(), z_b.detach()), (index, index_b))

    def write_model(self, run: Run, weights: dict[str, Tensor]) -> None:
        write_trained(run, weights, *_temperature_now(self.loss))

    def score(self, device: torch.device) -> dict[str, float]:
        if self.scored is None:
            return {}
        result = self.scored.score(self.model, device)
        return {"R@1": (result.a_to_b.recall[1] + result.b_to_a.recall[1]) / 2}


class PairTask(SidesTask):
    """The task of pairs that can be read in any order.

    Args:
        model, plan, scored: see `SidesTask`.
        source: the pairs.
        a, b: make the inputs of both sides.
    """

    def __init__(
        self,
        model: PairModel,
        source: PairSource,
        a: Inputs,
        b: Inputs,
        plan: PairPlan,
        scored: ScoredPairs,
    ) -> None:
        super().__init__(model, a, b, plan, source.sizes, scored)
        self.source, self.names = source, source.a.names

    def loader(self, schedule: ShuffledSchedule, *, pin_memory: bool) -> Iterable[Any]:
        return pair_batches(
            self.source,
            schedule,
            self.a,
            self.b,
            workers=self.plan.workers,
            pin_memory=pin_memory,
        )

    def fingerprints(self) -> dict[str, Fingerprint]:
        source = self.source
        return {
            "_a": fingerprint(source.a.ids, source.a.marks),
            "_b": fingerprint(source.b.ids, source.b.marks),
        }
