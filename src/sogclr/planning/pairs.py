"""Plan a run on pairs: derive each value that was left open, with the reason for it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..common.errors import UserError
from ..common.options import Augmentation, ConcretePrecision, split_names
from ..data.hashed_rows import collision_rate
from ..data.pair_source import PairSource
from ..data.tar.stream_pairs import PairStream
from ..distributed.device import loader_workers, resolve_precision
from .derive import (
    Reasons,
    check_count,
    choose_batch_size,
    explain_sharing,
    plan_recipe,
    plan_rho,
)
from .recipe import Recipe
from .settings_pairs import PairSettings

__all__ = ["CLIP_VIEWS", "PairPlan", "frozen_kinds", "plan_pairs"]

# As CLIP: a crop of nearly the whole image. A caption may name a color or a side, so both stay.
CLIP_VIEWS = Augmentation(crop_min=0.9, flip=0.0, color=0.0, gray=0.0, blur=0.0)

# Shares of the usual learning rate, which is AdamW's 2e-3 at batch size 64. Fine-tuning needs 1e-5
# to 5e-5; heads on frozen towers did best with 2.5e-4 on Flickr8k, 20 epochs.
FINE_TUNING = 0.01
HEADS_ALONE = 0.125

# Number of pairs in the batch and its memory together, if all towers are frozen. On Flickr8k it
# improved batches of 16 and 64, not one of 128; features from 64 steps earlier did harm.
BATCH_AND_MEMORY = 256


@dataclass(frozen=True)
class PairPlan:
    """The settings of a run, all with values, and the reasons for those that were derived.

    Attributes:
        request: The settings as they were given.
        rho: None unless the temperature is learned with a weight.
        memory_size: None unless the method is sogclr.
        reasons: `(setting, value, reason)` of each setting, to be printed.
    """

    request: PairSettings
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

    def resolved(self) -> PairSettings:
        """Fill the derived values into the settings, as a resumed run takes them."""
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


def frozen_kinds(freeze: str | Sequence[str], kinds: tuple[str, str]) -> tuple[str, ...]:
    """Parse which towers are frozen.

    Args:
        freeze: Kinds of towers, in a sequence or separated by commas.
        kinds: The kinds of both sides, "image" or "text".

    Returns:
        The frozen kinds, in the order of the sides.

    Raises:
        UserError: A name is not the kind of a side.
    """
    names = split_names(freeze)
    for name in names:
        if name not in kinds:
            raise UserError(
                f"--freeze: {name!r} is not a side of these pairs: "
                f"{', '.join(dict.fromkeys(kinds))}"
            )
    return tuple(kind for kind in dict.fromkeys(kinds) if kind in names)


def plan_pairs(
    request: PairSettings,
    source: PairSource | PairStream,
    *,
    frozen: tuple[str, ...],
    pretrained: bool,
    device: str,
    workers: int | None,
) -> PairPlan:
    """Derive the settings that were left open; refuse settings that cannot work with this data.

    Args:
        request: The settings as they were given.
        source: The pairs.
        frozen: Kinds of the towers that are not trained: "image", "text".
        pretrained: Whether towers that are trained start from trained weights.
        device: "cpu", "cuda" or "mps".
        workers: Number of loader processes; None to derive it.

    Raises:
        UserError: Too few pairs for the settings.
    """
    n = source.sizes[0]
    check_count(request, n, "pair")
    if source.sizes[1] < 2:
        raise UserError(
            f"data: all {n:,} pairs have the same text, which has nothing to be contrasted with; "
            "give at least two texts"
        )
    reasons = Reasons()
    explain = reasons.explain

    batch_size = request.batch_size or choose_batch_size(n)
    explain(
        "batch size",
        request.batch_size,
        batch_size,
        "for 32 batches an epoch, from 16 to 256",
    )
    explain_sharing(batch_size, request.table_rows or max(source.sizes), reasons)
    batch = batch_size * request.accumulate
    if request.accumulate > 1:
        reasons.note("accumulate", request.accumulate, f"{batch} samples a step")
    if isinstance(source, PairStream) and request.table_rows is not None:
        _note_collisions(source, request.table_rows, reasons)

    temperature = request.temperature or (0.1 if request.method == "siglip" else 0.05)
    explain("temperature", request.temperature, temperature, "usual for pairs")
    rho = plan_rho(request, n, max(source.sizes), reasons)
    heads_only = set(source.kinds) <= set(frozen)
    memory_size = _plan_memory(request, n, batch_size, heads_only, reasons)
    dropout = _plan_dropout(request, heads_only, reasons)

    views = request.views.over(CLIP_VIEWS)
    if source.kinds[0] == "image" and "image" not in frozen:
        values = ", ".join(f"{k} {v:g}" for k, v in vars(views).items())
        explain("views", None, values, "CLIP's: nearly the whole image")

    share, base = 1.0, "base"
    if pretrained:
        share, base = FINE_TUNING, "fine-tuning's base"
    if heads_only:
        share, base = HEADS_ALONE, "base for heads alone"
    recipe = plan_recipe(request, batch, reasons, share, base)
    # Frozen towers of a stream compute in every step, so they keep the fast precision.
    in_memory = heads_only and isinstance(source, PairSource)
    return PairPlan(
        request=request,
        batch_size=batch_size,
        temperature=temperature,
        rho=rho,
        memory_size=memory_size,
        dropout=dropout,
        precision=_plan_precision(request, in_memory, device, reasons),
        workers=_plan_workers(workers, in_memory, source.local, device, reasons),
        views=views,
        recipe=recipe,
        reasons=reasons.lines,
    )


def _plan_memory(
    request: PairSettings, n: int, batch_size: int, heads_only: bool, reasons: Reasons
) -> int | None:
    """Derive the size of sogclr's memory from the number `n` of pairs."""
    given = memory_size = request.memory_size
    if request.method != "sogclr":
        return given
    if memory_size is None:
        memory_size = max(0, min(BATCH_AND_MEMORY, n) - batch_size) if heads_only else 0
    reason = "features of earlier batches come from older weights"
    if heads_only:
        reason = f"{BATCH_AND_MEMORY} pairs with the batch, since both towers are frozen"
    reasons.explain("memory size", given, memory_size, reason)
    return memory_size


def _plan_dropout(request: PairSettings, heads_only: bool, reasons: Reasons) -> float:
    """Derive the dropout of the heads."""
    # Only heads of named towers have a hidden layer, after which dropout has a place.
    has_hidden = request.image_tower is not None or request.text_tower is not None
    usual = 0.3 if heads_only and has_hidden else 0.0
    dropout = usual if request.dropout is None else request.dropout
    reasons.explain("dropout", request.dropout, dropout, "in the heads, if only they are trained")
    return dropout


def _plan_precision(
    request: PairSettings, in_memory: bool, device: str, reasons: Reasons
) -> ConcretePrecision:
    """Derive the precision; `in_memory` if heads are trained on features in memory."""
    exact = in_memory and request.precision == "auto"
    precision = resolve_precision("32-true" if exact else request.precision, device)
    reason = "for heads alone" if exact else f"fastest that is safe on {device}"
    reasons.explain("precision", request.precision, precision, reason)
    return precision


def _plan_workers(
    given: int | None, in_memory: bool, local: bool, device: str, reasons: Reasons
) -> int:
    """Derive the number of loader processes; `in_memory` if no tower reads samples."""
    if given is None and in_memory:
        workers, reason = 0, "features are in memory"
    else:
        workers, reason = loader_workers(local, device, given), "what this data and device need"
    reasons.explain("loader workers", given, workers, reason)
    return workers


def _note_collisions(source: PairStream, table_rows: int, reasons: Reasons) -> None:
    """Note the share of the samples of each side that share their row with another sample."""
    sides = zip(("images", "captions"), source.sizes, strict=True)
    shares = [f"{collision_rate(n, table_rows):.1%} of {n:,} {kind}" for kind, n in sides]
    remark = f"for each side; {' and '.join(shares)} share a row"
    reasons.note("table rows", f"{table_rows:,}", remark)
