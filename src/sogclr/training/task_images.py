"""The task of images: two views of an image become similar, views of other images do not."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.batches.loaders import Batch, view_batches
from ..data.batches.schedule import Schedule, ShuffledSchedule
from ..data.image_source import NO_LABEL, ImageSource
from ..data.views.pipeline import encoder_inputs
from ..data.views.resident import ResidentImages
from ..data.views.static import static_inputs, view_parameters
from ..evaluation.embed_images import embed_images
from ..evaluation.knn import knn_accuracy
from ..losses import DecoupledContrastiveLoss, GlobalContrastiveLoss, MoCoLoss, NTXentLoss
from ..losses.base import ContrastiveLoss, Scale
from ..models.encoders import PROJECTION, ContrastiveModel, EncoderSpec
from ..models.momentum import MomentumModel
from ..planning.images import Plan
from ..runs.changed_data import Fingerprint, fingerprint
from ..runs.folder import Run
from .build_temperature import build_temperature
from .task import Outcome, Task, to_device

__all__ = ["TwoViewTask", "ViewsTask", "build_loss"]

KNN_SAMPLES = 2_000  # measure an accuracy to +-1 %, within seconds on a CPU

# The scale of recorded results, on which losses are comparable across batch sizes.
SCALE: Scale = "temperature"


def build_loss(plan: Plan, num_samples: int) -> ContrastiveLoss:
    """Build the loss of the plan's method.

    All losses take `(view1, view2, index)`; MoCo's takes `(query1, query2, key1, key2, index)`.

    Args:
        plan: the plan of the run.
        num_samples: the number of table rows.
    """
    request = plan.request
    tau = build_temperature(request.temperature_mode, plan.temperature, plan.rho)
    if request.method == "simclr":
        return NTXentLoss(tau, scale=SCALE)
    if request.method == "dcl":
        return DecoupledContrastiveLoss(tau, scale=SCALE)
    if plan.queue_size is not None:
        return MoCoLoss(plan.queue_size, PROJECTION, temperature=tau, scale=SCALE)
    return GlobalContrastiveLoss(
        num_samples,
        temperature=tau,
        level=request.normalizer == "level",
        gamma_min=request.gamma_min,
        gamma_decay_visits=request.gamma_decay_visits,
        effective_negatives=request.effective_negatives,
        memory_size=request.memory_size or None,
        scale=SCALE,
    )


def uses_static_views(device: torch.device) -> bool:
    """Tell whether a device applies every augmentation to every view.

    A GPU computes all of them faster than it selects the views that change; a CPU does not.
    """
    return device.type == "cuda"


class ViewsTask(Task):
    """The base of the tasks of images, which does not depend on where the images come from.

    Args:
        model: encoder and projector, initialized, with a momentum encoder if the method has one.
        spec: the description of the encoder.
        plan: the plan of the run.
        num_samples: the number of table rows.
        device: the device of the run.
    """

    images: ResidentImages | None = None

    def __init__(
        self,
        model: ContrastiveModel | MomentumModel,
        spec: EncoderSpec,
        plan: Plan,
        num_samples: int,
        device: torch.device,
    ) -> None:
        self.model: ContrastiveModel | MomentumModel = model
        self.spec, self.plan = spec, plan
        self.loss = build_loss(plan, num_samples)
        self.static_views = uses_static_views(device)
        # A user's own module may do other work in each step, which a CUDA graph cannot.
        self.fixed_work = self.static_views and not plan.encoder.startswith("custom:")

    def prepare(self, batch: Batch) -> tuple[Any, ...]:
        """Return the index `(b,)`, the crops, and the random numbers or parameters of each view."""
        index = torch.from_numpy(batch.micro_batch.rows)
        if not self.static_views:
            return index, batch.crops, batch.draws
        parameters = view_parameters(batch.draws, self.plan.views, self.plan.image_size)
        return index, batch.crops, torch.from_numpy(parameters)

    def forward(self, model: nn.Module, inputs: tuple[Any, ...], device: torch.device) -> Outcome:
        index, *view_inputs = inputs[:3]
        views = self.augment(index, *view_inputs)  # (2b, 3, S, S)
        features, *compared = model(views)  # (2b, w), (2b, d); with MoCo also keys (2b, d)
        sides = [side for z in compared for side in z.chunk(2)]  # (b, d) each
        loss = self.compute_loss(sides, index, *inputs[3:])
        features1, features2 = features.detach().chunk(2)
        projections = sides[0].detach(), sides[1].detach()
        return Outcome(loss, (features1, features2), projections, (index, index))

    def augment(self, index: Tensor, crops: Tensor, changes: Any) -> Tensor:
        """Turn crops into inputs of the encoder.

        Args:
            index: `(b,)` the rows of the images.
            crops: the crops or boxes, see `Batch`.
            changes: `(2b, DRAWS)` random numbers; for static views `(2b, P)` parameters.

        Returns:
            `(2b, 3, S, S)`, first all first views, then all second views.
        """
        spec, augmentation = self.spec, self.plan.views
        if not self.static_views:
            return encoder_inputs(crops, changes, augmentation, spec.mean, spec.std)
        if self.images is not None:
            crops = self.images.crops(index.repeat(2), crops, self.plan.image_size)
        return static_inputs(crops, changes, augmentation, spec.mean, spec.std)

    def compute_loss(
        self, sides: list[Tensor], index: Tensor, sample_key: Tensor | None = None
    ) -> Tensor:
        """Compute the loss.

        Args:
            sides: `(b, d)` projections of both views, with MoCo also keys of both views.
            index: `(b,)` the rows of the images.
            sample_key: `(b,)` the sample keys; only for a table of hashed rows.
        """
        if sample_key is None:
            return self.loss(*sides, index)
        return self.loss(*sides, index, sample_key=sample_key)

    def prime(self, device: torch.device) -> None:
        """Initialize the momentum encoder, if there is one, by one batch; see `MomentumModel`."""
        if not isinstance(self.model, MomentumModel):
            return
        for batch in self.loader(self.first_epoch(), pin_memory=False):
            if len(batch.micro_batch.rows):
                inputs = to_device(self.prepare(batch), device)
                self.model.prime(self.augment(*inputs[:3]))
                return

    def first_epoch(self) -> Schedule:
        """Return the schedule of one epoch of full batches, which all processes load."""
        raise NotImplementedError

    def after_step(self) -> None:
        if isinstance(self.model, MomentumModel):
            self.model.update()

    def write_model(self, run: Run, weights: dict[str, Tensor]) -> None:
        prefix = "query.encoder." if isinstance(self.model, MomentumModel) else "encoder."
        encoder = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        run.write_encoder(encoder, self.spec)


class TwoViewTask(ViewsTask):
    """The task of images that can be read in any order.

    Args:
        model, spec, plan, device: see `ViewsTask`.
        source: the images.
        images: the images on the device, if they are kept there.
    """

    def __init__(
        self,
        model: ContrastiveModel | MomentumModel,
        spec: EncoderSpec,
        source: ImageSource,
        plan: Plan,
        device: torch.device,
        images: ResidentImages | None = None,
    ) -> None:
        super().__init__(model, spec, plan, len(source), device)
        self.source, self.images, self.names = source, images, source.names

    def loader(self, schedule: ShuffledSchedule, *, pin_memory: bool) -> Iterable[Batch]:
        return view_batches(
            self.source,
            schedule,
            image_size=self.plan.image_size,
            crop_min=self.plan.views.crop_min or 0.0,
            workers=self.plan.workers,
            pin_memory=pin_memory,
            images=self.images,
        )

    def first_epoch(self) -> ShuffledSchedule:
        size, seed = self.plan.batch_size, self.plan.request.seed
        return ShuffledSchedule(self.source.ids, size, accumulate=1, epochs=1, seed=seed)

    def fingerprints(self) -> dict[str, Fingerprint]:
        return {"": fingerprint(self.source.ids, self.source.marks)}

    def score(self, device: torch.device) -> dict[str, float]:
        """Compute leave-one-out kNN accuracy on a fixed sample of labelled training images."""
        if self.source.labels is None:
            return {}
        order = np.argsort(self.source.ids, kind="stable")
        rows = np.sort(order[self.source.labels[order] != NO_LABEL][:KNN_SAMPLES])
        embedded = embed_images(
            self.model.encoder, self.source, self.spec, rows, device=device, quiet=True
        )
        labels = torch.from_numpy(self.source.labels[embedded.indices])
        return {"knn": knn_accuracy(torch.from_numpy(embedded.vectors), labels)}
