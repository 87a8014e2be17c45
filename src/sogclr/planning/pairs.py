"""What a run on pairs will do: what was not said is derived here, each value with its reason."""

import math
from dataclasses import dataclass, replace

from ..common.errors import UserError
from ..common.options import (
    Augmentation,
    ConcretePrecision,
    Damaged,
    Optimizer,
    PairMethod,
    Precision,
    Tau,
)
from ..data.hashed_rows import collision_rate
from ..data.pair_source import PairSource
from ..data.tar.stream_pairs import PairStream
from .images import (
    Reasons,
    check_request,
    loader_workers,
    resolve_precision,
    share_among_processes,
    usual_batch_size,
)
from .recipe import Recipe, recipe

__all__ = ["CLIP_VIEWS", "PairPlan", "PairRequest", "plan_pairs"]

# As CLIP: a crop of nearly everything; what a caption says may hang on colour and on sides.
CLIP_VIEWS = Augmentation(crop_min=0.9, flip=0.0, color=0.0, gray=0.0, blur=0.0)

# Shares of the usual learning rate, which is AdamW's 2e-3 at batch 64. Fine-tuning wants 1e-5 to
# 5e-5; heads on frozen towers did best with 2.5e-4 on Flickr8k, 20 epochs.
FINE_TUNING = 0.01
HEADS_ALONE = 0.125

# What is told from each other in all where towers are frozen: batches of 16 and 64 gained by it on
# Flickr8k, one of 128 did not; rows of 64 steps ago did harm.
ROWS = 256


@dataclass(frozen=True)
class PairRequest:
    """What was asked for: the settings of `sogclr.align` that decide the result, towers apart."""

    method: PairMethod
    columns: str | None
    batch_size: int | None
    epochs: int
    image_size: int | None
    temperature: float | None
    temperature_mode: Tau
    rho: float | None
    gamma_min: float
    gamma_decay_visits: int | None
    dropout: float | None
    accumulate: int
    optimizer: Optimizer
    learning_rate: float | None
    weight_decay: float | None
    precision: Precision
    views: Augmentation
    seed: int
    effective_negatives: float | None = None
    memory_size: int | None = None
    on_damaged: Damaged = "skip"
    table_rows: int | None = None
    epoch_samples: int | None = None


@dataclass(frozen=True)
class PairPlan:
    """A request with nothing left open, and why each derived value is what it is."""

    request: PairRequest
    batch_size: int
    temperature: float
    rho: float | None
    memory_size: int | None
    dropout: float
    precision: ConcretePrecision
    workers: int
    views: Augmentation
    recipe: Recipe
    reasons: list[tuple[str, str, str]]

    def resolved(self) -> PairRequest:
        """The request with nothing left open: what a resumed run goes by."""
        return replace(
            self.request,
            batch_size=self.batch_size,
            temperature=self.temperature,
            rho=self.rho,
            memory_size=self.memory_size,
            dropout=self.dropout,
            precision=self.precision,
            views=self.views,
            optimizer=self.recipe.optimizer,
            learning_rate=self.recipe.learning_rate,
            weight_decay=self.recipe.weight_decay,
        )


def plan_pairs(
    request: PairRequest,
    source: PairSource | PairStream,
    *,
    frozen: tuple[str, ...],
    pretrained: bool,
    device: str,
    workers: int | None,
) -> PairPlan:
    """Derive what was left open and refuse what cannot work.

    Args:
        request: what was asked for.
        source: the pairs.
        frozen: kinds of the towers that are not trained.
        pretrained: whether towers that are trained come with trained weights.
        device: "cpu", "cuda" or "mps".
        workers: loader processes, or None.

    Raises:
        UserError: a setting out of range, or too few pairs.
    """
    n = source.sizes[0]
    check_request(request, n, workers, what="pair")
    _check(request, max(source.sizes))
    reasons = Reasons()
    derive = reasons.derive

    batch_size = request.batch_size or usual_batch_size(n)
    derive("batch size", request.batch_size, batch_size, "at most 256, and 32 batches an epoch")
    share_among_processes(batch_size, request.table_rows or max(source.sizes), reasons)
    batch = batch_size * request.accumulate
    if request.accumulate > 1:
        reasons.note("accumulate", request.accumulate, f"{batch} samples a step")

    if isinstance(source, PairStream) and request.table_rows is not None:
        _note_shares(source, request.table_rows, reasons)

    usual = {"siglip": 0.1, "clip": 0.05}.get(request.method, 0.05)
    temperature = request.temperature or usual
    derive("temperature", request.temperature, temperature, "usual for pairs")
    rho = request.rho
    if request.temperature_mode == "individual" and rho is None:
        rho = min(6.0, math.log(n) / 2)
        derive("rho", None, rho, "nats from uniform at which each sample's temperature settles")

    all_frozen = set(source.kinds) <= set(frozen)
    memory_size = request.memory_size
    if request.method == "sogclr":
        if memory_size is None:
            memory_size = max(0, min(ROWS, n) - batch_size) if all_frozen else 0
        derive(
            "memory size",
            request.memory_size,
            memory_size,
            f"with the batch, {ROWS} rows are told from each other"
            if all_frozen
            else "only frozen towers keep earlier rows comparable",
        )
    dropout = request.dropout if request.dropout is not None else 0.3 if all_frozen else 0.0
    derive("dropout", request.dropout, dropout, "in heads, where they alone are trained")

    views = request.views.over(CLIP_VIEWS)
    if source.kinds[0] == "image" and "image" not in frozen:
        shown = ", ".join(f"{k} {v:g}" for k, v in vars(views).items())
        derive("views", None, shown, "CLIP's: nearly the whole image")

    name = "adamw" if request.optimizer == "auto" else request.optimizer
    derive("optimizer", request.optimizer, name, "the most forgiving")
    share, what = (
        (HEADS_ALONE, "base for heads alone")
        if all_frozen
        else (FINE_TUNING, "fine-tuning's base")
        if pretrained
        else (1.0, "base")
    )
    chosen = recipe(name, batch, request.learning_rate, request.weight_decay, share)
    derive(
        "learning rate",
        request.learning_rate,
        chosen.learning_rate,
        f"{what} times the square root of the batch, {batch}",
    )
    derive("weight decay", request.weight_decay, chosen.weight_decay, f"usual for {name}")

    # Of a stream, features are not in memory: what computes them is all that takes time.
    stored = all_frozen and isinstance(source, PairSource)
    heads_only = stored and request.precision == "auto"
    precision = resolve_precision("32-true" if heads_only else request.precision, device)
    safe = f"fastest that is safe on {device}"
    derive("precision", request.precision, precision, "for heads alone" if heads_only else safe)
    if workers is None and stored:
        processes, why = 0, "features are in memory"
    else:
        processes = loader_workers(source.local, device, workers)
        why = "what this data and device want"
    derive("loader workers", workers, processes, why)
    return PairPlan(
        request=request,
        batch_size=batch_size,
        temperature=temperature,
        rho=rho,
        memory_size=memory_size,
        dropout=dropout,
        precision=precision,
        workers=processes,
        views=views,
        recipe=chosen,
        reasons=reasons.lines,
    )


def _note_shares(source: PairStream, table_rows: int, reasons: Reasons) -> None:
    """How many samples of either side have their row in common with others."""
    sides = zip(("images", "captions"), source.sizes, strict=True)
    shares = [f"{collision_rate(n, table_rows):.1%} of {n:,} {what}" for what, n in sides]
    shown = f"{' and '.join(shares)} share one"
    reasons.note("table rows", f"{table_rows:,}", f"of either side; {shown}")


def _check(request: PairRequest, n: int) -> None:
    if request.rho is not None and request.rho <= 0:
        raise UserError(
            f"rho: must be above 0, got {request.rho:g}: a temperature learned on the bare "
            "objective grows for ever, since its derivative is never positive"
        )
    if request.rho is not None and request.temperature_mode == "constant":
        raise UserError(
            "rho: goes with --temperature-mode learned or --temperature-mode individual"
        )
    if request.rho is not None and request.rho >= math.log(n):
        raise UserError(
            f"rho: {request.rho:g} is out of reach: a softmax over {n:,} samples is at most "
            f"{math.log(n):.1f} nats from uniform, so tau would fall for ever; give less"
        )
    if request.temperature_mode == "individual" and request.method != "sogclr":
        raise UserError(
            "temperature-mode: individual temperatures are kept per sample, with --method sogclr"
        )
    if request.temperature_mode != "constant" and request.method == "siglip":
        raise UserError(
            "temperature-mode: siglip always learns its temperature; leave out --temperature-mode"
        )
    if request.dropout is not None and not 0 <= request.dropout < 1:
        raise UserError(f"dropout: must be at least 0 and below 1, got {request.dropout:g}")
