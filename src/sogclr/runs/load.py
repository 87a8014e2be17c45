"""Load the trained model of a run."""

from pathlib import Path

from torch import nn

from ..common.errors import UserError
from ..common.options import ConcreteNorm
from ..models.classifier import ImageClassifier
from ..models.encoders import EncoderSpec, build_projector, rebuild_encoder
from ..models.image_encoder import ImageEncoder
from ..models.pair_encoder import PairEncoder
from ..models.wrapped import load_plain, plain_state
from .classifiers import is_classifier, read_head
from .download import download_run, is_on_hub
from .folder import Run, is_pair_run
from .stored import read_json
from .towers import load_pairs

__all__ = ["load", "load_classifier", "load_encoder", "load_projector"]


def load(
    run: str | Path, encoder: nn.Module | None = None, *, initial: bool = False
) -> ImageEncoder | ImageClassifier | PairEncoder:
    """Load the trained model of a run: an `nn.Module` in eval mode, on the CPU.

    A run of `align` gives a `PairEncoder`: `encode_image`, `encode_text`, `to_open_clip`.
    A run of `pretrain` gives an `ImageEncoder`: `encode_image`, `preprocess`, and `encoder`, the
    trained module itself.
    A classifier of `finetune` gives an `ImageClassifier`, which has `classify`, too.

    Args:
        run: the run's folder; or `"hf:owner/name"`, a model that `sogclr push` has put on the
            Hugging Face hub, with `@` and a branch, tag or commit if you want one.
        encoder: your own encoder (or image tower), of the trained architecture; needed if the
            run trained a module of your own. Its weights are overwritten.
        initial: whether to load the encoder as it was before training, for comparison.

    Raises:
        UserError: the folder is not a run, has saved no model yet, or `encoder` does not fit; or
            the model cannot be fetched, or holds what sogclr does not load.
    """
    if is_on_hub(run):
        run = download_run(str(run))
    if is_pair_run(run):
        return load_pairs(run, encoder)
    if is_classifier(run):
        if initial:
            raise UserError("initial: a classifier has no encoder before training; load its run's")
        return load_classifier(run, encoder)
    model, spec = load_encoder(run, encoder, initial=initial)
    return ImageEncoder(model, spec)


def load_encoder(
    run: str | Path, encoder: nn.Module | None = None, *, initial: bool = False
) -> tuple[nn.Module, EncoderSpec]:
    """Load the encoder of a run of `pretrain`, and its description; arguments as of `load`."""
    files = Run(run)
    files.read_settings()
    weights = files.initial if initial else files.encoder
    if not weights.is_file():
        if files.checkpoint.exists():
            raise UserError(f"run: {weights} is missing; put the file back")
        raise UserError(f"run: {files.folder} has saved no encoder yet; go on with --resume")
    spec = EncoderSpec.from_dict(read_json(files.encoder_spec), f"run: {files.encoder_spec}")
    state = files.read_weights(weights)
    if encoder is None:
        if spec.name == "custom":
            raise UserError(
                f"run: {files.folder} trained a module of your own; "
                "pass one of the same architecture: sogclr.load(run, encoder=module)"
            )
        encoder = rebuild_encoder(spec)
    try:
        load_plain(encoder, state)
    except RuntimeError as error:
        lines = str(error).split("\n\t")
        raise UserError(f"encoder: does not fit {weights}: {lines[-1].strip()}") from error
    return encoder.eval(), spec


def load_classifier(run: str | Path, encoder: nn.Module | None = None) -> ImageClassifier:
    """Load a classifier of `finetune`, in eval mode; arguments as of `load`."""
    head, classes = read_head(Run(run))
    model, spec = load_encoder(run, encoder)
    return ImageClassifier(model, head, spec, classes)


def load_projector(run: str | Path, width: int, norm: ConcreteNorm) -> nn.Module | None:
    """Load the projector of a run of `pretrain`, in eval mode; None if it has no checkpoint.

    Args:
        run: the run's folder.
        width: the number of features of its encoder.
        norm: the kind of its normalization.

    Raises:
        UserError: the checkpoint cannot be read, or is of another encoder.
    """
    files = Run(run)
    if not files.checkpoint.exists():
        return None
    weights = files.read_checkpoint(mapped=True).get("model")
    if not isinstance(weights, dict):
        raise UserError(f"run: {files.checkpoint} is no checkpoint of sogclr")
    parts = {name.removeprefix("query."): value for name, value in plain_state(weights).items()}
    own = {k.removeprefix("projector."): v for k, v in parts.items() if k.startswith("projector.")}
    projector = build_projector(width, norm=norm)
    try:
        load_plain(projector, own)
    except RuntimeError as error:
        lines = str(error).split("\n\t")
        raise UserError(
            f"run: the projector in {files.checkpoint} does not fit: {lines[-1].strip()}"
        ) from error
    return projector.eval()
