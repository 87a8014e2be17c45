"""The task of images alone: two views of each are told from those of all others."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from ..data.batches.loaders import Batch, BatchPlan, Epochs, view_batches
from ..data.image_source import ImageSource
from ..data.views.pipeline import encoder_inputs
from ..data.views.resident import ResidentImages
from ..data.views.static import static_inputs, view_parameters
from ..evaluation.embed_images import embed_images
from ..evaluation.knn import knn_accuracy
from ..losses import DecoupledContrastiveLoss, GlobalContrastiveLoss, MoCoLoss, NTXentLoss
from ..losses.contrast import ContrastiveLoss, Scale
from ..models.encoders import PROJECTION, ContrastiveModel, EncoderSpec
from ..models.momentum import MomentumModel
from ..planning.images import Plan
from ..runs.changed_data import Fingerprint, fingerprint
from ..runs.folder import Run
from .task import Outcome, Task

__all__ = ["TwoViewTask", "ViewsTask", "build_loss"]

KNN_SAMPLES = 2_000  # enough for +-1 % and seconds on a CPU

# Gradients do not depend on the batch size then, and filed results stand.
SCALE: Scale = "temperature"


def build_loss(plan: Plan, num_samples: int) -> ContrastiveLoss:
    """The loss of the plan's method; all take `(view1, view2, index)`, MoCo's keys before index."""
    tau = plan.temperature
    if plan.request.method == "simclr":
        return NTXentLoss(tau, scale=SCALE)
    if plan.request.method == "dcl":
        return DecoupledContrastiveLoss(tau, scale=SCALE)
    if plan.queue_size is not None:
        return MoCoLoss(plan.queue_size, PROJECTION, temperature=tau, scale=SCALE)
    return GlobalContrastiveLoss(
        num_samples,
        temperature=tau,
        gamma_min=plan.request.gamma_min,
        gamma_decay_visits=plan.request.gamma_decay_visits,
        effective_negatives=plan.request.effective_negatives,
        memory_size=plan.request.memory_size or None,
        scale=SCALE,
    )


class ViewsTask(Task):
    """What does not depend on where the images come from.

    Args:
        model: encoder and projector, initialized; with their average if the method wants one.
        spec: of the encoder.
        plan: what to do.
        num_samples: rows of the loss.
    """

    images: ResidentImages | None = None

    def __init__(
        self,
        model: ContrastiveModel | MomentumModel,
        spec: EncoderSpec,
        plan: Plan,
        num_samples: int,
    ) -> None:
        self.model: ContrastiveModel | MomentumModel = model
        self.spec, self.plan = spec, plan
        self.loss = build_loss(plan, num_samples)
        # A user's own module may change its mind from step to step, which no graph would notice.
        self.static = not plan.encoder.startswith("custom:")

    def forward(self, model: nn.Module, batch: Batch, device: torch.device) -> Outcome:
        views, rows = self._views(batch, device), torch.from_numpy(batch.plan.rows)
        return self._outcome(self._compare(model, views, self.told(batch)), rows)

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        parameters = view_parameters(batch.draws, self.plan.views, self.plan.image_size)
        return self.told(batch), batch.crops, torch.from_numpy(parameters)

    def compute(self, model: nn.Module, *inputs: Tensor) -> tuple[Tensor, ...]:
        told, *views = inputs
        return self._compare(model, self._static_views(told, *views), told)

    def outcome(self, batch: Batch, results: tuple[Tensor, ...]) -> Outcome:
        return self._outcome(results, torch.from_numpy(batch.plan.rows))

    def told(self, batch: Batch) -> Tensor:
        """Who the samples are, as `value` takes it: `(b,)` rows."""
        return torch.from_numpy(batch.plan.rows)

    def value(self, sides: list[Tensor], told: Tensor) -> Tensor:
        """The loss of what is compared, `(b, d)` each."""
        return self.loss(*sides, told)

    def _compare(self, model: nn.Module, views: Tensor, told: Tensor) -> tuple[Tensor, ...]:
        """The loss, features `(2b, width)`, and projections `(b, d)` of either view."""
        features, *compared = model(views)  # (2b, width), (2b, d); and keys (2b, d)
        sides = [side for z in compared for side in z.chunk(2)]  # (b, d) each
        value = self.value(sides, told)
        return value, features.detach(), *(side.detach() for side in sides[:2])

    def _outcome(self, results: tuple[Tensor, ...], rows: Tensor) -> Outcome:
        loss, features, *projections = results
        first, second = features.chunk(2)
        return Outcome(loss, (first, second), (projections[0], projections[1]), (rows, rows))

    def prime(self, device: torch.device) -> None:
        """What has to be done before the first step: see `MomentumModel.prime`."""
        if not isinstance(self.model, MomentumModel):
            return
        for batch in self.loader(self.first_batches(), pin_memory=False):
            if len(batch.plan.rows):
                self.model.prime(self._views(batch, device))
                return

    def first_batches(self) -> Epochs:
        """An epoch of whole batches, the same in every process."""
        raise NotImplementedError

    def after_step(self) -> None:
        if isinstance(self.model, MomentumModel):
            self.model.update()

    def write_model(self, run: Run, weights: dict[str, Tensor]) -> None:
        own = "query.encoder." if isinstance(self.model, MomentumModel) else "encoder."
        encoder = {k.removeprefix(own): v for k, v in weights.items() if k.startswith(own)}
        run.write_encoder(encoder, self.spec)

    def _views(self, batch: Batch, device: torch.device) -> Tensor:
        """`(2b, 3, S, S)`, first all first views, then all second views."""
        if device.type == "cuda":
            inputs = (each.to(device, non_blocking=True) for each in self.inputs(batch))
            return self._static_views(*inputs)
        crops, spec = batch.crops.to(device), self.spec  # (2b, 3, S, S)
        return encoder_inputs(crops, batch.draws, self.plan.views, spec.mean, spec.std)

    def _static_views(self, told: Tensor, crops: Tensor, parameters: Tensor) -> Tensor:
        """The same, by a number of kernels that does not depend on the draws."""
        if self.images is not None:
            crops = self.images.crops(told.repeat(2), crops, self.plan.image_size)
        return static_inputs(crops, parameters, self.plan.views, self.spec.mean, self.spec.std)


class TwoViewTask(ViewsTask):
    """Of a source whose images can be read in any order.

    Args:
        model, spec, plan: as of `ViewsTask`.
        source: the data.
        images: the data, where it is on the device already.
    """

    def __init__(
        self,
        model: ContrastiveModel | MomentumModel,
        spec: EncoderSpec,
        source: ImageSource,
        plan: Plan,
        images: ResidentImages | None = None,
    ) -> None:
        super().__init__(model, spec, plan, len(source))
        self.source, self.images, self.names = source, images, source.names

    def loader(self, plan: BatchPlan, *, pin_memory: bool) -> Iterable[Batch]:
        return view_batches(
            self.source,
            plan,
            image_size=self.plan.image_size,
            crop_min=self.plan.views.crop_min or 0.0,
            workers=self.plan.workers,
            pin_memory=pin_memory,
            images=self.images,
        )

    def first_batches(self) -> BatchPlan:
        return BatchPlan(self.source.ids, self.plan.batch_size, 1, 1, self.plan.request.seed)

    def identity(self) -> dict[str, Fingerprint]:
        return {"": fingerprint(self.source.ids, self.source.marks)}

    def score(self, device: torch.device) -> dict[str, float]:
        """Leave-one-out kNN accuracy on a fixed sample of the training images, given labels."""
        if self.source.labels is None:
            return {}
        rows = np.sort(np.argsort(self.source.ids, kind="stable")[:KNN_SAMPLES])
        embedded = embed_images(
            self.model.encoder, self.source, self.spec, rows, device=device, quiet=True
        )
        labels = torch.from_numpy(self.source.labels[embedded.indices])
        return {"knn": knn_accuracy(torch.from_numpy(embedded.vectors), labels)}
