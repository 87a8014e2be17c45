"""The task of images alone: two views of each are told from those of all others."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from .data.loading import Batch, BatchPlan, view_batches
from .data.source import ImageSource
from .data.views import encoder_inputs
from .evaluation.features import embed_rows
from .evaluation.knn import knn_accuracy
from .identity import Fingerprint, fingerprint
from .losses import DecoupledContrastiveLoss, GlobalContrastiveLoss, MoCoLoss, NTXentLoss
from .losses.anchors import ContrastiveLoss
from .models import PROJECTION, ContrastiveModel, EncoderSpec
from .momentum import MomentumModel
from .planning import Plan
from .runs import Run
from .task import Outcome, Task

__all__ = ["TwoViewTask", "build_loss"]

KNN_SAMPLES = 2_000  # enough for +-1 % and seconds on a CPU


def build_loss(plan: Plan, num_samples: int) -> ContrastiveLoss:
    """The loss of the plan's method; all take `(view1, view2, index)`, MoCo's keys before index."""
    tau = plan.temperature
    if plan.request.method == "simclr":
        return NTXentLoss(tau)
    if plan.request.method == "dcl":
        return DecoupledContrastiveLoss(tau)
    if plan.queue_size is not None:
        return MoCoLoss(plan.queue_size, PROJECTION, temperature=tau)
    return GlobalContrastiveLoss(
        num_samples,
        temperature=tau,
        gamma_min=plan.request.gamma_min,
        gamma_decay=plan.request.gamma_decay,
        candidates=plan.request.candidates,
        recent=plan.request.recent or None,
    )


class TwoViewTask(Task):
    """See the module.

    Args:
        model: encoder and projector, initialized; with their average if the method wants one.
        spec: of the encoder.
        source: the data.
        plan: what to do.
    """

    def __init__(
        self,
        model: ContrastiveModel | MomentumModel,
        spec: EncoderSpec,
        source: ImageSource,
        plan: Plan,
    ) -> None:
        self.model: ContrastiveModel | MomentumModel = model
        self.spec, self.source, self.plan = spec, source, plan
        self.loss = build_loss(plan, len(source))
        self.names = source.names

    def loader(self, plan: BatchPlan, *, pin_memory: bool) -> Iterable[Batch]:
        return view_batches(
            self.source,
            plan,
            image_size=self.plan.image_size,
            crop_min=self.plan.views.crop_min or 0.0,
            workers=self.plan.workers,
            pin_memory=pin_memory,
        )

    def prime(self, device: torch.device) -> None:
        """What has to be done before the first step: see `MomentumModel.prime`."""
        if not isinstance(self.model, MomentumModel):
            return
        plan, request = self.plan, self.plan.request
        first = BatchPlan(self.source.ids, plan.batch_size, 1, 1, request.seed)
        for batch in self.loader(first, pin_memory=False):
            if len(batch.plan.rows):
                self.model.prime(self._views(batch, device))
                return

    def forward(self, model: nn.Module, batch: Batch, device: torch.device) -> Outcome:
        # (2b, width), (2b, d); and keys (2b, d)
        features, *compared = model(self._views(batch, device))
        sides = [side for z in compared for side in z.chunk(2)]  # (b, d) each
        rows = torch.from_numpy(batch.plan.rows)
        loss = self.loss(*sides, rows)
        first, second = features.detach().chunk(2)
        return Outcome(loss, (first, second), (sides[0].detach(), sides[1].detach()), (rows, rows))

    def after_step(self) -> None:
        if isinstance(self.model, MomentumModel):
            self.model.update()

    def identity(self) -> dict[str, Fingerprint]:
        return {"": fingerprint(self.source.ids, self.source.marks)}

    def write_model(self, run: Run) -> None:
        run.write_encoder(self.model.encoder, self.spec)

    def score(self, device: torch.device) -> dict[str, float]:
        """Leave-one-out kNN accuracy on a fixed sample of the training images, given labels."""
        if self.source.labels is None:
            return {}
        rows = np.sort(np.argsort(self.source.ids, kind="stable")[:KNN_SAMPLES])
        embedding = embed_rows(
            self.model.encoder, self.source, self.spec, rows, device=device, quiet=True
        )
        labels = torch.from_numpy(self.source.labels[embedding.rows])
        return {"knn": knn_accuracy(torch.from_numpy(embedding.vectors), labels)}

    def _views(self, batch: Batch, device: torch.device) -> Tensor:
        """`(2b, 3, S, S)`, first all first views, then all second views."""
        # Elsewhere than on CUDA a copy may be read before it has arrived.
        crops = batch.crops.to(device, non_blocking=device.type == "cuda")  # (2b, 3, S, S)
        return encoder_inputs(crops, batch.draws, self.plan.views, self.spec.mean, self.spec.std)
