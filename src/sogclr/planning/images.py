"""Plan a run on images: derive each value that was left open, with the reason for it."""

import os
from dataclasses import dataclass, replace

from ..common.errors import UserError
from ..common.options import Augmentation, ConcreteNorm, ConcretePrecision
from ..data.hashed_rows import collision_rate
from ..data.image_source import ImageSource
from ..data.tar.stream import StreamSource
from ..distributed.device import loader_workers, resolve_precision
from ..models.patches import patch_named, whole_patches
from .derive import (
    Reasons,
    check_count,
    choose_batch_size,
    explain_sharing,
    plan_recipe,
    plan_rho,
)
from .recipe import Recipe
from .settings_images import ImageSettings

__all__ = ["Plan", "plan_run"]


@dataclass(frozen=True)
class Plan:
    """The settings of a run, all with values, and the reasons for those that were derived.

    Attributes:
        request: The settings as they were given.
        rho: None unless the temperature is learned with a weight.
        queue_size, momentum: None unless the method is moco.
        reasons: `(setting, value, reason)` of each setting, to be printed.
    """

    request: ImageSettings
    encoder: str
    norm: ConcreteNorm
    batch_size: int
    image_size: int
    temperature: float
    rho: float | None
    precision: ConcretePrecision
    workers: int
    views: Augmentation
    recipe: Recipe
    queue_size: int | None
    momentum: float | None
    reasons: list[tuple[str, str, str]]

    def resolved(self) -> ImageSettings:
        """Return the settings with the derived values filled in; a resumed run uses them."""
        return replace(
            self.request,
            encoder=self.encoder,
            norm=self.norm,
            batch_size=self.batch_size,
            image_size=self.image_size,
            temperature=self.temperature,
            rho=self.rho,
            precision=self.precision,
            views=self.views,
            optimizer=self.recipe.optimizer,
            learning_rate=self.recipe.learning_rate,
            weight_decay=self.recipe.weight_decay,
            queue_size=self.queue_size,
            momentum=self.momentum,
        )


def plan_run(
    request: ImageSettings, source: ImageSource | StreamSource, device: str, workers: int | None
) -> Plan:
    """Derive the settings that were left open; refuse settings that cannot work with this data.

    Args:
        request: The settings as they were given.
        source: The data.
        device: "cpu", "cuda" or "mps".
        workers: Number of loader processes; None to derive it.

    Raises:
        UserError: Too few images for the settings.
    """
    check_count(request, len(source), "image")
    n = len(source)
    reasons = Reasons()
    explain = reasons.explain
    image_size, encoder = _plan_encoder(request, source, device, reasons)

    batch_size = request.batch_size or choose_batch_size(n)
    explain(
        "batch size",
        request.batch_size,
        batch_size,
        "for 32 batches an epoch, from 16 to 256",
    )
    explain_sharing(batch_size, request.table_rows or n, reasons)
    norm = _plan_norm(request, reasons)
    batch = batch_size * request.accumulate
    if request.accumulate > 1:
        reasons.note("accumulate", request.accumulate, f"{batch} samples a step")
    if request.table_rows is not None:
        share = collision_rate(n, request.table_rows)
        reasons.note(
            "table rows", f"{request.table_rows:,}", f"{share:.1%} of {n:,} samples share a row"
        )

    temperature = request.temperature or (0.2 if image_size <= 64 else 0.1)
    explain("temperature", request.temperature, temperature, "0.2 up to 64 px, 0.1 above")
    rho = plan_rho(request, n, n, reasons)
    queue_size = momentum = None
    if request.method == "moco":
        queue_size, momentum = _plan_moco(request, n, batch, reasons)

    views = _plan_views(request, source.augmentation, image_size, reasons)
    recipe = plan_recipe(request, batch, reasons)
    explain("warm-up", None, "a tenth", "of the run, 10 epochs at most; then a cosine to zero")
    precision = resolve_precision(request.precision, device)
    explain("precision", request.precision, precision, f"fastest that is safe on {device}")
    return Plan(
        request=request,
        encoder=encoder,
        norm=norm,
        batch_size=batch_size,
        image_size=image_size,
        temperature=temperature,
        rho=rho,
        precision=precision,
        workers=_plan_workers(workers, source.local, device, reasons),
        views=views,
        recipe=recipe,
        queue_size=queue_size,
        momentum=momentum,
        reasons=reasons.lines,
    )


def _plan_encoder(
    request: ImageSettings, source: ImageSource | StreamSource, device: str, reasons: Reasons
) -> tuple[int, str]:
    """Derive the image size and the encoder."""
    image_size = request.image_size or source.image_size
    usual = "small" if device == "cpu" else "resnet18" if image_size <= 64 else "resnet50"
    encoder = usual if request.encoder == "auto" else request.encoder
    patch = patch_named(encoder)
    if request.image_size is None:
        image_size = whole_patches(image_size, patch)
    reason = source.size_reason
    reason += f", in whole patches of {patch} px" if patch > 1 else ""
    reasons.explain("image size", request.image_size, f"{image_size} px", reason)
    reason = f"what {_name_device(device)} trains in reasonable time"
    reasons.explain("encoder", request.encoder, encoder, reason)
    return image_size, encoder


def _plan_norm(request: ImageSettings, reasons: Reasons) -> ConcreteNorm:
    norm: ConcreteNorm = "batch" if request.norm == "auto" else request.norm
    reason = "more accurate than without batch statistics, also at batch 16"
    reasons.explain("normalization", request.norm, norm, reason)
    return norm


def _plan_moco(request: ImageSettings, n: int, batch: int, reasons: Reasons) -> tuple[int, float]:
    """Derive the size of the queue and the momentum, between the values that MoCo published.

    MoCo has 4,096 and 0.99 for 200 epochs of CIFAR-10 (19,600 steps), 65,536 and 0.999 for 200
    epochs of ImageNet (a million steps). A sixteenth of the images, rounded down to a power of
    two, gives both of these queue sizes.

    Returns:
        The size and the momentum.

    Raises:
        UserError: The queue is larger than two views of every image.
    """
    if request.queue_size is not None and request.queue_size > 2 * n:
        raise UserError(
            f"--queue-size: must be at least 1 and at most {2 * n:,}, two views of each of the "
            f"{n:,} images, got {request.queue_size:,}"
        )
    usual = min(max(4096, 1 << (n // 16).bit_length() >> 1), 65536)
    queue_size = request.queue_size or min(usual, n)
    reason = "as in MoCo for so many images" if usual <= n else "as many as there are images"
    reasons.explain("queue size", request.queue_size, queue_size, reason)
    steps = -(-n // batch) * request.epochs
    momentum = request.momentum
    if momentum is None:
        momentum = 0.99 if steps < 100_000 else 0.999
    reasons.explain("momentum", request.momentum, momentum, "0.999 from 100,000 steps on")
    return queue_size, momentum


def _plan_views(
    request: ImageSettings, of_data: Augmentation, image_size: int, reasons: Reasons
) -> Augmentation:
    """Derive the augmentation; `of_data` are the values that this data needs, others are None."""
    views = request.views.over(of_data).resolved(image_size)
    values = ", ".join(f"{k} {v:g}" for k, v in vars(views).items())
    by_data = [k for k, v in vars(of_data).items() if v is not None]
    exceptions = f"; {', '.join(by_data)} as this data needs" if by_data else ""
    reasons.explain("views", None, values, "SimCLR's for this image size" + exceptions)
    return views


def _plan_workers(given: int | None, in_memory: bool, device: str, reasons: Reasons) -> int:
    """Derive the number of loader processes."""
    workers = loader_workers(in_memory, device, given)
    reason = f"of {os.cpu_count()} CPU cores"
    if device == "cpu":
        reason = "the encoder needs the cores"
    if in_memory:
        reason = "images are in memory"
    reasons.explain("loader workers", given, workers, reason)
    return workers


def _name_device(device: str) -> str:
    return {"cpu": "a CPU", "cuda": "a GPU", "mps": "an Apple GPU"}[device]
