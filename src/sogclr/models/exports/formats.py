"""The formats to which a model can be exported, and why it cannot be to others."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from ...common.errors import UserError
from ...common.options import ExportFormat
from ..image_encoder import ImageEncoder
from ..pair_encoder import PairEncoder

__all__ = ["exportable_formats", "refuse", "require_exportable", "require_installed", "why_not"]

Model = ImageEncoder | PairEncoder

# The packages that a format needs, and the extra that installs them.
NEEDED: dict[ExportFormat, tuple[tuple[str, ...], str]] = {
    "onnx": (("onnx", "onnxscript", "onnxruntime"), "export"),
    "openclip": (("open_clip",), "pairs"),
    "sentence-transformers": (("sentence_transformers",), "sentence-transformers"),
}
# Hugging Face models whose layers sentence-transformers loads as they are.
PLAIN_TEXT_MODELS = ("bert", "roberta", "xlm-roberta")
POOLERS = {
    "mean_pooler": "mean",
    "max_pooler": "max",
    "cls_last_hidden_state_pooler": "cls",
}


def require_installed(name: ExportFormat) -> None:
    """Refuse a format whose packages are missing.

    Raises:
        UserError: a package is not installed; the message names the extra.
    """
    packages, extra = NEEDED.get(name, ((), ""))
    for package in packages:
        if find_spec(package) is None:
            raise UserError(
                f"--format {name}: needs {package}, which is not installed: "
                f"pip install 'sogclr[{extra}]'"
            )


def require_exportable(model: Model, name: ExportFormat) -> None:
    """Refuse a format that does not have this model.

    Raises:
        UserError: the format lacks it; the message names the formats that work.
    """
    if (reason := why_not(model, name)) is not None:
        raise refuse(model, name, reason)


def refuse(model: Model, name: ExportFormat, reason: str) -> UserError:
    """Make the error that says why a model cannot be exported, and to which formats it can be."""
    works = ", ".join(other for other in exportable_formats(model) if other != name)
    return UserError(f"--format {name}: {reason}; formats that work: {works}")


def exportable_formats(model: Model) -> list[ExportFormat]:
    """List the formats that have a model."""
    return [name for name in _REASONS if why_not(model, name) is None]


def why_not(model: Model, name: ExportFormat) -> str | None:
    """Say why a format does not have a model; None if it has."""
    return _REASONS[name](model)


def _nothing_against(model: Model) -> None:
    """Traced formats hold operations and need no names."""


def _not_timm(model: Model) -> str | None:
    if isinstance(model, PairEncoder):
        return "a run of align has towers, and timm has encoders of images alone"
    spec = model.spec
    if spec.name in ("small", "custom"):
        own = "an encoder of your own" if spec.name == "custom" else "the small encoder"
        return f"{own} is no model of timm"
    if spec.small_stem:
        return f"timm does not build {spec.name} with a stem for small images"
    if spec.norm == "group":
        return f"timm does not build {spec.name} with group normalization"
    return None


def _not_open_clip(model: Model) -> str | None:
    if isinstance(model, ImageEncoder):
        return "a run of pretrain has no text tower"
    if model.spec.custom:
        return "open_clip cannot build an image tower of your own"
    if model.spec.vision is None:
        return "a run on two sides of texts has no image tower"
    return None


def _not_sentence_transformers(model: Model) -> str | None:
    if isinstance(model, ImageEncoder):
        return "a run of pretrain has no text tower"
    text: dict[str, Any] = model.spec.text
    if "hf_model_name" not in text:
        return "the text tower is open_clip's, and only one of Hugging Face can be loaded there"
    body: Any = model.towers["text"].body
    kind = body.config.model_type
    if kind not in PLAIN_TEXT_MODELS:
        return f"the text tower is a {kind}; {', '.join(PLAIN_TEXT_MODELS)} can be loaded there"
    pooler = text.get("hf_pooler_type", "mean_pooler")
    if pooler not in POOLERS:
        return f"the text tower ends in a {pooler}, which is not known there"
    if text.get("tokenizer_mode") or text.get("tokenizer_kwargs", {}).get("strip_sep_token"):
        return "the tokenizer changes tokens in a way that is not known there"
    return None


_REASONS: dict[ExportFormat, Callable[[Model], str | None]] = {
    "onnx": _nothing_against,
    "torchscript": _nothing_against,
    "openclip": _not_open_clip,
    "sentence-transformers": _not_sentence_transformers,
    "timm": _not_timm,
}
