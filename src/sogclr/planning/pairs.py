"""The plan of a run on pairs: what was left open is derived here, each value with its reason."""

from dataclasses import dataclass, replace

from ..common.options import Augmentation, ConcretePrecision
from ..data.hashed_rows import collision_rate
from ..data.pair_source import PairSource
from ..data.tar.stream_pairs import PairStream
from ..distributed.launch import loader_workers, resolve_precision
from .derive import Reasons, check_count, explain_sharing, plan_rho, usual_batch_size
from .recipe import Recipe, choose_recipe
from .settings_pairs import PairSettings

__all__ = ["CLIP_VIEWS", "PairPlan", "plan_pairs"]

# As CLIP: a crop of nearly the whole image. A caption may name a color or a side, so both stay.
CLIP_VIEWS = Augmentation(crop_min=0.9, flip=0.0, color=0.0, gray=0.0, blur=0.0)

# Shares of the usual learning rate, which is AdamW's 2e-3 at batch size 64. Fine-tuning needs 1e-5
# to 5e-5; heads on frozen towers did best with 2.5e-4 on Flickr8k, 20 epochs.
FINE_TUNING = 0.01
HEADS_ALONE = 0.125

# Number of pairs in the batch and its memory together, if all towers are frozen. On Flickr8k it
# improved batches of 16 and 64, not one of 128; features from 64 steps earlier did harm.
CONTRASTED = 256


@dataclass(frozen=True)
class PairPlan:
    """Settings with nothing left open, and why each derived value is what it is.

    Attributes:
        request: The settings as they were given.
        rho: None unless the temperature is learned with a weight.
        memory_size: None unless the method is sogclr.
        reasons: `(setting, value, reason)`, for people.
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


def plan_pairs(
    request: PairSettings,
    source: PairSource | PairStream,
    *,
    frozen: tuple[str, ...],
    pretrained: bool,
    device: str,
    workers: int | None,
) -> PairPlan:
    """Derive settings that were left open, and refuse those that cannot work with this data.

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
    reasons = Reasons()
    explain = reasons.explain

    batch_size = request.batch_size or usual_batch_size(n)
    explain("batch size", request.batch_size, batch_size, "at most 256, and 32 batches an epoch")
    explain_sharing(batch_size, request.table_rows or max(source.sizes), reasons)
    batch = batch_size * request.accumulate
    if request.accumulate > 1:
        reasons.note("accumulate", request.accumulate, f"{batch} samples a step")

    if isinstance(source, PairStream) and request.table_rows is not None:
        _note_collisions(source, request.table_rows, reasons)

    usual = {"siglip": 0.1, "clip": 0.05}.get(request.method, 0.05)
    temperature = request.temperature or usual
    explain("temperature", request.temperature, temperature, "usual for pairs")
    rho = plan_rho(request, n, max(source.sizes), reasons)

    all_frozen = set(source.kinds) <= set(frozen)
    memory_size = request.memory_size
    if request.method == "sogclr":
        if memory_size is None:
            memory_size = max(0, min(CONTRASTED, n) - batch_size) if all_frozen else 0
        explain(
            "memory size",
            request.memory_size,
            memory_size,
            f"{CONTRASTED} pairs with the batch, since both towers are frozen"
            if all_frozen
            else "features of earlier batches come from older weights",
        )
    # Only heads of named towers have a hidden layer, after which dropout has a place.
    hidden = request.image_tower is not None or request.text_tower is not None
    usual = 0.3 if all_frozen and hidden else 0.0
    dropout = usual if request.dropout is None else request.dropout
    explain("dropout", request.dropout, dropout, "in the heads, if only they are trained")

    views = request.views.over(CLIP_VIEWS)
    if source.kinds[0] == "image" and "image" not in frozen:
        values = ", ".join(f"{k} {v:g}" for k, v in vars(views).items())
        explain("views", None, values, "CLIP's: nearly the whole image")

    name = "adamw" if request.optimizer == "auto" else request.optimizer
    explain("optimizer", request.optimizer, name, "the most forgiving")
    share, base = (
        (HEADS_ALONE, "base for heads alone")
        if all_frozen
        else (FINE_TUNING, "fine-tuning's base")
        if pretrained
        else (1.0, "base")
    )
    chosen = choose_recipe(name, batch, request.learning_rate, request.weight_decay, share)
    explain(
        "learning rate",
        request.learning_rate,
        chosen.learning_rate,
        f"{base} times the square root of the batch, {batch}",
    )
    explain("weight decay", request.weight_decay, chosen.weight_decay, f"usual for {name}")

    # A stream's features are not stored: its frozen towers take nearly all of the time.
    stored = all_frozen and isinstance(source, PairSource)
    heads_only = stored and request.precision == "auto"
    precision = resolve_precision("32-true" if heads_only else request.precision, device)
    fastest = f"fastest that is safe on {device}"
    explain("precision", request.precision, precision, "for heads alone" if heads_only else fastest)
    if workers is None and stored:
        loaders, reason = 0, "features are in memory"
    else:
        loaders = loader_workers(source.local, device, workers)
        reason = "what this data and device need"
    explain("loader workers", workers, loaders, reason)
    return PairPlan(
        request=request,
        batch_size=batch_size,
        temperature=temperature,
        rho=rho,
        memory_size=memory_size,
        dropout=dropout,
        precision=precision,
        workers=loaders,
        views=views,
        recipe=chosen,
        reasons=reasons.lines,
    )


def _note_collisions(source: PairStream, table_rows: int, reasons: Reasons) -> None:
    """Add what part of the samples of each side shares rows with other samples."""
    sides = zip(("images", "captions"), source.sizes, strict=True)
    shares = [f"{collision_rate(n, table_rows):.1%} of {n:,} {kind}" for kind, n in sides]
    remark = f"for each side; {' and '.join(shares)} share a row"
    reasons.note("table rows", f"{table_rows:,}", remark)
