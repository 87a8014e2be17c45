"""The model card of a run, README.md of its repository: data, plan, results, how to load it.

It holds numbers, names of models that libraries know, and nothing else of the run: names of
classes, captions, columns and paths stay here.
"""

from dataclasses import fields
from typing import Any

from .. import __version__
from ..common.errors import UserError
from ..common.options import Augmentation, ExportFormat
from ..evaluation.pages.record import RunRecord
from ..models.exports.preprocessing import Preprocessing
from ..models.image_encoder import ImageEncoder
from ..models.pair_encoder import PairEncoder
from ..runs.evaluations import read_evaluations
from ..runs.published import public_settings
from ..runs.stored_samples import read_samples

__all__ = ["render_card"]

Model = ImageEncoder | PairEncoder

PLAN = (
    "method", "encoder", "image_tower", "image_size", "pretrained", "epochs", "batch_size",
    "accumulate", "temperature", "temperature_mode", "normalizer", "effective_negatives",
    "memory_size", "optimizer", "learning_rate", "weight_decay", "norm", "precision", "seed",
)  # fmt: skip
PUBLIC_DATA = ("hf:", "hf-hub:")
# `sogclr evaluate` measures these. A key says where the number stands in evaluations.jsonl.
MEASURES: dict[tuple[str, ...], str] = {
    **{
        (kind, protocol): title + ("" if kind == "trained" else f", {kind.replace('_', ' ')}")
        for protocol, title in (
            ("knn", "kNN accuracy"),
            ("linear", "linear probe"),
            ("views", "R@1 of random views"),
        )
        for kind in ("trained", "untrained", "raw_pixels")
    },
    **{
        ("retrieval", way, "recall", depth): f"R@{depth}, {words}"
        for way, words in (("a_to_b", "first to second"), ("b_to_a", "second to first"))
        for depth in ("1", "5", "10")
    },
    ("zero_shot", "accuracy"): "zero-shot accuracy",
    ("sts", "correlation"): "Spearman correlation with scores",
}


def render_card(
    record: RunRecord,
    model: Model | None,
    name: str,
    written: list[ExportFormat],
    missing: dict[str, str],
) -> str:
    """Render the model card.

    Args:
        record: the run.
        model: its model; None if it is a module of the user's own.
        name: the repository, owner/name.
        written: the formats of other libraries that the repository has.
        missing: why it has not those of others, by the name of the library.
    """
    from huggingface_hub import ModelCard, ModelCardData
    from jinja2 import Environment, PackageLoader, StrictUndefined

    kinds = _kinds(model, record)
    if kinds == {"image"}:
        task, what = "image-feature-extraction", "An encoder of images"
    elif kinds == {"image", "text"}:
        task, what = "zero-shot-image-classification", "Two towers, for images and texts"
    else:
        task, what = "sentence-similarity", "A tower for texts"
    data = ModelCardData(
        library_name=written[0].replace("openclip", "open_clip") if written else "sogclr",
        pipeline_tag=task,
        tags=["sogclr", "contrastive-learning"],
    )
    environment = Environment(
        loader=PackageLoader("sogclr.commands"),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    settings = public_settings(record.settings)
    content = environment.get_template("model_card.md.jinja").render(
        title=name.partition("/")[2],
        what=what,
        version=__version__,
        command="align" if record.is_pairs else "pretrain",
        method=f", method {settings.method}",
        output=_describe_output(model),
        data=_describe_data(record, kinds),
        plan=_list_plan(settings),
        results=_list_results(record),
        preprocessing=_describe_preprocessing(model, kinds),
        kinds=kinds,
        is_own=model is None,
        name=name,
        written=written,
        missing=sorted(missing.items()),
    )
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n{content}")
    return str(card)


def _kinds(model: Model | None, record: RunRecord) -> set[str]:
    if isinstance(model, PairEncoder):
        return set(model.spec.kinds)
    return {"image", "text"} if record.is_pairs else {"image"}


def _describe_output(model: Model | None) -> str:
    if model is None:
        return "The architecture is a module of its author, which this repository does not hold."
    count = sum(weights.numel() for weights in model.parameters()) / 1e6
    if isinstance(model, PairEncoder):
        return f"{count:.1f} M parameters; unit vectors of width {model.spec.width}."
    return f"{model.spec.name}, {count:.1f} M parameters."


def _describe_data(record: RunRecord, kinds: set[str]) -> str:
    """Name data that everyone can get, and count samples; a path of this machine is no name."""
    name = "Data that is not named here"
    if record.data == "digits":
        name = "The handwritten digits of scikit-learn"
    elif record.data is not None and record.data.startswith(PUBLIC_DATA):
        name = f"`{record.data}`"
    try:
        counts = [len(samples.ids) for samples in read_samples(record.run).values()]
    except UserError:  # a run whose checkpoint was deleted
        counts = []
    words = ["images", "texts"] if "image" in kinds else ["texts", "texts"]
    counted = [f"{count:,} {word}" for count, word in zip(counts, words, strict=False)]
    return f"{name}: {' with '.join(counted)}." if counted else f"{name}."


def _list_plan(settings: Any) -> list[tuple[str, str]]:
    named = {field.name: getattr(settings, field.name) for field in fields(settings)}
    rows = [
        (name.replace("_", " "), f"{value:g}" if isinstance(value, float) else str(value))
        for name in PLAN
        if (value := named.get(name)) not in (None, False, "auto")
    ]
    views: Augmentation = settings.views
    chosen = {field.name: getattr(views, field.name) for field in fields(views)}
    drawn = [f"{k.replace('_', ' ')} {v:g}" for k, v in chosen.items() if v is not None]
    return [*rows, ("views", ", ".join(drawn))] if drawn else rows


def _list_results(record: RunRecord) -> list[tuple[str, str, str]]:
    """List what `sogclr evaluate` has measured: the latest value of each measure and data."""
    found: dict[tuple[str, str], str] = {}
    for line in read_evaluations(record.run):
        on = "data of the training" if line.get("data") == record.data else "other data"
        if line.get("data") == "digits":
            on = "digits"
        if line.get("test") is not None:
            on = "data held back for a test"
        for measure, value in _measures(line):
            found[measure, on] = value
    return [(measure, on, value) for (measure, on), value in found.items()]


def _measures(line: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the measures of one evaluation, with their values."""
    values = [(title, _number(line, *keys)) for keys, title in MEASURES.items()]
    return [(title, f"{value:.3f}") for title, value in values if value is not None]


def _number(value: Any, *keys: str) -> float | None:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None


def _describe_preprocessing(model: Model | None, kinds: set[str]) -> str:
    if model is None or "image" not in kinds:
        return "Loading executes nothing of this repository."
    made = Preprocessing.of(model)
    return (
        f"Images: the shorter side becomes {made.shorter_side} px ({made.resampling}), the centre "
        f"of {made.image_size} px is cut out, mean {made.mean}, std {made.std}. Loading executes "
        "nothing of this repository."
    )
