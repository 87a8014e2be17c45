"""The task of pairs: an image (or text) and its text are told from all others."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.batches.loaders import BatchPlan
from ..data.pair_source import PairSource
from ..evaluation.retrieval import Retrieval, retrieval
from ..losses import (
    ClipLoss,
    DecoupledClipLoss,
    GlobalClipLoss,
    SigLipLoss,
)
from ..losses.contrast import Scale
from ..losses.temperature import (
    ConstantTemperature,
    IndividualTemperature,
    LearnedTemperature,
    Temperature,
)
from ..models.tower_features import compute_features
from ..models.tower_inputs import Inputs
from ..models.towers import PairModel
from ..planning.pairs import PairPlan
from ..runs.changed_data import Fingerprint, fingerprint
from ..runs.folder import Run
from ..runs.towers import write_trained
from .pair_batches import PairBatch, loss_indices, pair_batches
from .task import Outcome, Task

__all__ = ["PairTask", "ScoredPairs", "SidesTask", "build_loss"]

SCORED_PAIRS = 1_000  # pairs of the training data that are scored where nothing is held back

# Gradients do not depend on the batch size then, and filed results stand.
SCALE: Scale = "temperature"


def build_loss(plan: PairPlan, sizes: tuple[int, int]) -> nn.Module:
    """The loss of the plan's method; all take `(a, b, index, index_b)`."""
    request = plan.request
    if request.method == "siglip":
        return SigLipLoss(plan.temperature)
    temperature = _temperature(plan)
    if request.method == "clip":
        return ClipLoss(temperature, scale=SCALE)
    if request.method == "dcl":
        return DecoupledClipLoss(temperature, scale=SCALE)
    return GlobalClipLoss(
        sizes,
        temperature=temperature,
        gamma_min=request.gamma_min,
        gamma_decay_visits=request.gamma_decay_visits,
        effective_negatives=request.effective_negatives,
        memory_size=plan.memory_size or None,
        scale=SCALE,
    )


def _temperature(plan: PairPlan) -> float | Temperature:
    kind, tau, rho = plan.request.temperature_mode, plan.temperature, plan.rho
    if kind == "constant":
        return tau
    if kind == "learned":
        return LearnedTemperature(tau, rho=rho, minimum=min(0.01, tau))
    assert rho is not None
    return IndividualTemperature(tau, rho=rho, minimum=min(0.005, tau))


def _temperature_now(loss: Any) -> tuple[float, float | None]:
    """tau, its mean where it is one a sample, and SigLIP's bias."""
    if isinstance(loss, SigLipLoss):
        return math.exp(-loss.log_scale.item()), loss.bias.item()
    temperature = loss.temperature_a
    if isinstance(temperature, ConstantTemperature):
        return temperature.value, None
    if isinstance(temperature, LearnedTemperature):
        return math.exp(temperature.log_temperature.item()), None
    # Rows of a stream may be nobody's.
    met = loss.normalizer_a.visits[:-1] > 0
    return float(temperature.tau[:-1][met].mean() if met.any() else temperature.tau[0]), None


class ScoredPairs:
    """Pairs that are embedded to score the towers.

    Args:
        source: the pairs.
        a: inputs of its images or texts.
        b: inputs of its texts.
        rows: of side a that count; all by default.
    """

    def __init__(
        self, source: PairSource, a: Inputs, b: Inputs, rows: np.ndarray | None = None
    ) -> None:
        self.source, self.a, self.b = source, a, b
        self.rows = np.arange(len(source.a)) if rows is None else rows
        self._told: set[str] = set()

    def score(self, model: PairModel, device: torch.device) -> Retrieval:
        """Retrieval in both directions."""
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
            told=self._told,
        )
        b = compute_features(
            lambda x: model.side(kind_b, x)[1], source.b, self.b, device, rows=partners
        )
        model.train(was_training)
        return retrieval(a, b, source, self.rows)


class SidesTask(Task):
    """What does not depend on where the pairs come from.

    Args:
        model: what is trained of the towers.
        a, b: inputs of both sides, of which the half on the device is asked for.
        plan: what to do.
        sizes: rows of the loss, of either side.
        held: what is scored now and then, if anything.
    """

    def __init__(
        self,
        model: PairModel,
        a: Any,
        b: Any,
        plan: PairPlan,
        sizes: tuple[int, int],
        held: ScoredPairs | None,
    ) -> None:
        self.model: PairModel = model
        self.a, self.b, self.plan, self.held = a, b, plan, held
        self.loss = build_loss(plan, sizes)

    def forward(self, model: nn.Module, batch: PairBatch, device: torch.device) -> Outcome:
        inputs = self.a.to_model(batch.a, device), self.b.to_model(batch.b, device)
        (features_a, z_a), (features_b, z_b) = model(*inputs)
        rows = loss_indices(batch)
        loss = self.loss(z_a, z_b, rows[0], index_b=rows[1], **self.keys(batch))
        return Outcome(
            loss, (features_a.detach(), features_b.detach()), (z_a.detach(), z_b.detach()), rows
        )

    def keys(self, batch: Any) -> dict[str, Tensor]:
        """What the loss is told beside rows."""
        return {}

    def write_model(self, run: Run, weights: dict[str, Tensor]) -> None:
        write_trained(run, weights, *_temperature_now(self.loss))

    def score(self, device: torch.device) -> dict[str, float]:
        if self.held is None:
            return {}
        found = self.held.score(self.model, device)
        return {"R@1": (found.a_to_b.recall[1] + found.b_to_a.recall[1]) / 2}


class PairTask(SidesTask):
    """Of pairs that can be read in any order.

    Args:
        model, plan, held: as of `SidesTask`.
        source: the pairs.
        a, b: inputs of both sides.
    """

    def __init__(
        self,
        model: PairModel,
        source: PairSource,
        a: Inputs,
        b: Inputs,
        plan: PairPlan,
        held: ScoredPairs,
    ) -> None:
        super().__init__(model, a, b, plan, source.sizes, held)
        self.source, self.names = source, source.a.names

    def loader(self, plan: BatchPlan, *, pin_memory: bool) -> Iterable[Any]:
        return pair_batches(
            self.source,
            plan,
            self.a,
            self.b,
            workers=self.plan.workers,
            pin_memory=pin_memory,
        )

    def identity(self) -> dict[str, Fingerprint]:
        source = self.source
        return {
            "_a": fingerprint(source.a.ids, source.a.marks),
            "_b": fingerprint(source.b.ids, source.b.marks),
        }
