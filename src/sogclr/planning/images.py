"""What a run will do: everything that was not said is derived here, each with its reason."""

import math
import os
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..common.environment import processes
from ..common.errors import UserError
from ..common.options import Augmentation, ConcretePrecision, Damaged, Method, Optimizer, Precision
from ..data.hashed_rows import collision_rate
from ..data.image_source import ImageSource
from ..data.tar.stream import StreamSource
from ..losses.normalizer_sharded import COPIED
from .recipe import Recipe, recipe

__all__ = [
    "Plan",
    "Reasons",
    "Request",
    "check_request",
    "loader_workers",
    "plan_run",
    "resolve_precision",
    "share_among_processes",
    "usual_batch_size",
]


@dataclass(frozen=True)
class Request:
    """What was asked for: the settings of `sogclr.pretrain` that decide the result."""

    method: Method
    encoder: str
    batch_size: int | None
    epochs: int
    image_size: int | None
    temperature: float | None
    gamma_min: float
    gamma_decay_visits: int | None
    accumulate: int
    optimizer: Optimizer
    learning_rate: float | None
    weight_decay: float | None
    pretrained: bool
    weights: str | None
    precision: Precision
    views: Augmentation
    seed: int
    effective_negatives: float | None = None
    memory_size: int | None = None
    queue_size: int | None = None
    momentum: float | None = None
    on_damaged: Damaged = "skip"
    table_rows: int | None = None
    epoch_samples: int | None = None


@dataclass(frozen=True)
class Plan:
    """A request with nothing left open, and why each derived value is what it is.

    `reasons` is a list of `(setting, value, reason)` for people; `queue_size` and `momentum` are
    None unless the method is moco.
    """

    request: Request
    encoder: str
    batch_size: int
    image_size: int
    temperature: float
    precision: ConcretePrecision
    workers: int
    views: Augmentation
    recipe: Recipe
    queue_size: int | None
    momentum: float | None
    reasons: list[tuple[str, str, str]]

    def resolved(self) -> Request:
        """The request with nothing left open: what a resumed run goes by."""
        return replace(
            self.request,
            encoder=self.encoder,
            batch_size=self.batch_size,
            image_size=self.image_size,
            temperature=self.temperature,
            precision=self.precision,
            views=self.views,
            optimizer=self.recipe.optimizer,
            learning_rate=self.recipe.learning_rate,
            weight_decay=self.recipe.weight_decay,
            queue_size=self.queue_size,
            momentum=self.momentum,
        )


class Reasons:
    """What was derived and why, for people: `lines` of `(setting, value, reason)`."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, str]] = []

    def derive(self, name: str, given: object, value: object, reason: str) -> None:
        """A value, and why it is that if it was not given."""
        self.note(name, value, "as given" if given not in (None, "auto") else reason)

    def note(self, name: str, value: object, remark: str) -> None:
        """A value and a remark."""
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        self.lines.append((name, shown, remark))


def plan_run(
    request: Request, source: ImageSource | StreamSource, device: str, workers: int | None
) -> Plan:
    """Derive what was left open and refuse what cannot work.

    Args:
        request: what was asked for.
        source: the data.
        device: "cpu", "cuda" or "mps".
        workers: loader processes, or None.

    Raises:
        UserError: a setting out of range, or too few images.
    """
    check_request(request, len(source), workers)
    _check_moco(request, len(source))
    reasons = Reasons()
    derive = reasons.derive

    n = len(source)
    image_size = request.image_size or source.image_size
    derive("image size", request.image_size, f"{image_size} px", "the images' usual shorter side")

    usual = "small" if device == "cpu" else "resnet18" if image_size <= 64 else "resnet50"
    encoder = usual if request.encoder == "auto" else request.encoder
    derive(
        "encoder", request.encoder, encoder, f"what {_article(device)} trains in reasonable time"
    )

    batch_size = request.batch_size or usual_batch_size(n)
    derive("batch size", request.batch_size, batch_size, "at most 256, and 32 batches an epoch")
    share_among_processes(batch_size, request.table_rows or n, reasons)
    batch = batch_size * request.accumulate
    if request.accumulate > 1:
        reasons.note("accumulate", request.accumulate, f"{batch} samples a step")

    if request.table_rows is not None:
        share = collision_rate(n, request.table_rows)
        reasons.note(
            "table rows", f"{request.table_rows:,}", f"{share:.1%} of {n:,} samples share one"
        )

    temperature = request.temperature or (0.2 if image_size <= 64 else 0.1)
    derive("temperature", request.temperature, temperature, "0.2 up to 64 px, 0.1 above")

    queue_size = momentum = None
    if request.method == "moco":
        queue_size, momentum = _plan_moco(request, n, batch, reasons)

    views = request.views.over(source.augmentation).resolved(image_size)
    shown = ", ".join(f"{k} {v:g}" for k, v in vars(views).items())
    changed = [k for k, v in vars(source.augmentation).items() if v is not None]
    asks = f"; {', '.join(changed)} as this data asks for" if changed else ""
    derive("views", None, shown, "SimCLR's for this image size" + asks)

    name = "adamw" if request.optimizer == "auto" else request.optimizer
    derive("optimizer", request.optimizer, name, "the most forgiving")
    chosen = recipe(name, batch, request.learning_rate, request.weight_decay)
    derive(
        "learning rate",
        request.learning_rate,
        chosen.learning_rate,
        f"base times the square root of the batch, {batch}",
    )
    derive("weight decay", request.weight_decay, chosen.weight_decay, f"usual for {name}")
    derive("warm-up", None, "a tenth", "of the run, 10 epochs at most; then a cosine to zero")

    precision = resolve_precision(request.precision, device)
    derive("precision", request.precision, precision, f"fastest that is safe on {device}")

    loaders = loader_workers(source.local, device, workers)
    derive(
        "loader workers",
        workers,
        loaders,
        "images are in memory"
        if source.local
        else "the encoder needs the cores"
        if device == "cpu"
        else f"of {os.cpu_count()} CPU cores",
    )
    return Plan(
        request=request,
        encoder=encoder,
        batch_size=batch_size,
        image_size=image_size,
        temperature=temperature,
        precision=precision,
        workers=loaders,
        views=views,
        recipe=chosen,
        queue_size=queue_size,
        momentum=momentum,
        reasons=reasons.lines,
    )


def _plan_moco(request: Request, n: int, batch: int, reasons: Reasons) -> tuple[int, float]:
    """Size of the queue and momentum of its encoder, between what MoCo's authors published.

    Theirs are 4,096 and 0.99 for 200 epochs of CIFAR-10 (19,600 steps), 65,536 and 0.999 for
    those of ImageNet (a million). A sixteenth of the images, in powers of two, meets both sizes.
    """
    usual = min(max(4096, 1 << (n // 16).bit_length() >> 1), 65536)
    queue_size = request.queue_size or min(usual, n)
    reason = "MoCo's for so many images" if usual <= n else "as many as there are images"
    reasons.derive("queue size", request.queue_size, queue_size, reason)
    steps = -(-n // batch) * request.epochs
    momentum = request.momentum
    if momentum is None:
        momentum = 0.99 if steps < 100_000 else 0.999
    reasons.derive("momentum", request.momentum, momentum, "0.999 from 100,000 steps on")
    return queue_size, momentum


def check_request(request: Any, n: int, workers: int | None, what: str = "image") -> None:
    """Refuse settings that cannot work, whatever is learned from.

    Args:
        request: has at least the numbers that are looked at here.
        n: how many samples.
        workers: loader processes.
        what: a sample is.

    Raises:
        UserError: what is out of range, and what to give instead.
    """
    if n < 2:
        raise UserError(f"data: one {what} has nothing to be contrasted with; give at least two")
    if request.temperature is not None and not 0 < request.temperature < math.inf:
        raise UserError(f"temperature: must be above 0, got {request.temperature:g}; try 0.1")
    if request.batch_size is not None and request.batch_size < 2:
        raise UserError(
            f"batch size: {request.batch_size} leaves no negatives in a batch; give at least 2"
        )
    if request.batch_size is not None and request.batch_size > n:
        raise UserError(
            f"batch size: {request.batch_size} is more than the {n:,} {what}s there are"
        )
    if not 0 < request.gamma_min <= 1:
        raise UserError(f"gamma-min: must be above 0 and at most 1, got {request.gamma_min:g}")
    for name in ("epochs", "accumulate", "image_size", "gamma_decay_visits"):
        value = getattr(request, name)
        if value is not None and value < 1:
            raise UserError(f"{name.replace('_', '-')}: must be at least 1, got {value}")
    if request.learning_rate is not None and not 0 < request.learning_rate < math.inf:
        raise UserError(f"learning-rate: must be above 0, got {request.learning_rate:g}")
    if request.weight_decay is not None and not 0 <= request.weight_decay < math.inf:
        raise UserError(f"weight-decay: must not be negative, got {request.weight_decay:g}")
    if workers is not None and workers < 0:
        raise UserError(f"workers: must not be negative, got {workers}")
    if request.effective_negatives is not None and request.method != "sogclr":
        raise UserError(
            "effective-negatives: goes with --method sogclr; the others have the batch's"
        )
    if request.effective_negatives is not None and not 0 < request.effective_negatives < math.inf:
        raise UserError(
            f"effective-negatives: must be above 0, got {request.effective_negatives:g}; try 255"
        )
    if request.memory_size is not None and request.method != "sogclr":
        raise UserError("memory-size: goes with --method sogclr; moco has a --queue-size")
    if request.memory_size is not None and request.memory_size < 0:
        raise UserError(f"memory-size: must not be negative, got {request.memory_size}")
    if request.seed < 0:
        raise UserError(f"seed: must not be negative, got {request.seed}")


def _check_moco(request: Request, n: int) -> None:
    size, momentum = request.queue_size, request.momentum
    for name, value in (("queue-size", size), ("momentum", momentum)):
        if value is not None and request.method != "moco":
            raise UserError(f"{name}: goes with --method moco")
    if size is not None and not 1 <= size <= 2 * n:
        raise UserError(
            f"queue-size: must be at least 1 and at most {2 * n:,}, two views of each of the "
            f"{n:,} images, got {size:,}"
        )
    if momentum is not None and not 0 <= momentum < 1:
        raise UserError(f"momentum: must be at least 0 and below 1, got {momentum:g}")


def share_among_processes(batch_size: int, rows: int, reasons: Reasons) -> None:
    """Tell what processes share; refuse a batch that is too small for it."""
    count = processes()
    if batch_size < 2 * count:
        raise UserError(
            f"batch size: {batch_size} is shared by {count} processes, and batch normalization "
            f"needs two samples in each; give at least {2 * count}"
        )
    if count > 1:
        reasons.note("processes", count, f"the batch is shared by them, {batch_size // count} each")
        whole = rows <= COPIED
        reasons.note("table", *(("copied", "one each") if whole else ("sharded", "a part each")))


def usual_batch_size(n: int) -> int:
    """At most 256, and 32 batches an epoch."""
    size = 256
    while size > 16 and size * 32 > n:
        size //= 2
    return min(size, n)


def resolve_precision(asked: Precision, device: str) -> ConcretePrecision:
    """bf16-mixed where the device multiplies bfloat16 sooner than float32, else full."""
    if asked != "auto":
        return asked
    if device == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    # Other CPUs emulate it. Intel's without AMX have it as well, and take 1.4 times as long for a
    # ResNet-18, where AMD's take half.
    has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    vectors = has.get("avx512_bf16") and "Intel" not in str(has.get("cpu_name"))
    sooner = device == "cpu" and (has.get("amx_bf16") or vectors)
    return "bf16-mixed" if sooner else "32-true"


def loader_workers(local: bool, device: str, asked: int | None) -> int:
    """Loader processes: as many as asked for, or what suits a source (in memory or not)."""
    if asked is not None:
        return asked
    # On a CPU the encoder has all cores busy: a loader beside it makes its threads wait.
    if local or device == "cpu":
        return 0
    return min(8, os.cpu_count() or 1)


def _article(device: str) -> str:
    return {"cpu": "a CPU", "cuda": "a GPU", "mps": "an Apple GPU"}[device]
