"""The verbs: `pretrain`, `evaluate`, `embed`, from Python and, with the same words, as commands.

Signatures, documentation and defaults only; what does the work is imported when it is called,
so that `sogclr --help` answers at once.
"""

from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from .settings import Device, Method, Optimizer, Precision, Protocol, Views

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from .data.source import Data
    from .evaluation.report import Report
    from .pretraining import Result

    Encoder = str | nn.Module
    OtherData = Data
    OwnModule = nn.Module | None
    Run: TypeAlias = str | Path
    Folder: TypeAlias = str | Path
    Protocols = str | tuple[Protocol, ...]
else:  # what a command line can say
    from tyro.conf import Positional, Suppress, arg

    Encoder = Folder = OtherData = Protocols = str
    Data = Annotated[str, Positional, arg(metavar="DATA")]
    Run = Annotated[str, Positional, arg(metavar="RUN")]
    OwnModule = Suppress[str | None]
    Report = Result = Any

USUAL_VIEWS = Views()

__all__ = ["embed", "evaluate", "pretrain"]


def pretrain(
    data: Data,
    out: Folder,
    *,
    method: Method = "sogclr",
    encoder: Encoder = "auto",
    batch_size: int | None = None,
    epochs: int = 100,
    image_size: int | None = None,
    temperature: float | None = None,
    gamma_min: float = 0.2,
    gamma_decay: int | None = None,
    accumulate: int = 1,
    optimizer: Optimizer = "auto",
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    pretrained: bool = False,
    weights: str | None = None,
    views: Views = USUAL_VIEWS,
    precision: Precision = "auto",
    device: Device = "auto",
    workers: int | None = None,
    seed: int = 0,
    checkpoint_seconds: float = 120.0,
    resume: bool = False,
) -> Result:
    """Learn an encoder from unlabelled images.

    What is left out is derived from the data and the machine, and printed with its reason.

    Args:
        data: A folder of images (flat or nested; JPEG, PNG, WebP), or `digits`. From Python also
            an array or tensor of images, or a pair (images, labels). Labels, from sub-folders
            or given, are used only to report kNN accuracy.
        out: The folder of the run: checkpoint, encoder, metrics, curves.
        method: sogclr (a normalizer remembered per sample), simclr or dcl (in-batch ones).
        encoder: A timm name or `small` (trains on a CPU). From Python also your own nn.Module,
            (B, 3, S, S) to (B, d). Default: small on a CPU, resnet18 up to 64 px, else resnet50.
        batch_size: Images in one forward pass. Default: at most 256, with 32 batches an epoch.
        epochs: Passes over the data.
        image_size: Side of the training images in pixels. Default: the images' usual one.
        temperature: Of the loss. Default: 0.2 up to 64 px, 0.1 above.
        gamma_min: SogCLR: smallest weight of a new estimate in a sample's normalizer.
        gamma_decay: SogCLR: visits over which the weight falls there along a cosine, instead
            of as 1/visits.
        accumulate: Forward passes whose gradients make one optimizer step. With sogclr they
            act as one large batch, with the others as many small ones.
        optimizer: lars, sgd or adamw.
        learning_rate: At its peak. Default: the optimizer's times the square root of
            batch_size x accumulate.
        weight_decay: Not applied to biases and norms.
        pretrained: Start from timm's pretrained weights.
        weights: Start from this file of weights (safetensors or torch).
        views: How the two views of an image are drawn. Default: as SimCLR does at this size.
        precision: Of the forward pass. Default: bf16-mixed on GPUs that have it, else 32-true.
        device: cpu, cuda or mps.
        workers: Loader processes.
        seed: Of weights, order and views.
        checkpoint_seconds: At least this long between checkpoints.
        resume: Go on with the run in `out`, exactly as if it had not been interrupted.

    Returns:
        Where the run is, whether it is complete, and its last metrics.

    Raises:
        sogclr.UserError: bad input, in one line that says what to do.
    """
    from .planning import Request
    from .pretraining import pretrain as run

    name = encoder if isinstance(encoder, str) else f"custom:{type(encoder).__name__}"
    request = Request(
        method=method,
        encoder=name,
        batch_size=batch_size,
        epochs=epochs,
        image_size=image_size,
        temperature=temperature,
        gamma_min=gamma_min,
        gamma_decay=gamma_decay,
        accumulate=accumulate,
        optimizer=optimizer,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        pretrained=pretrained,
        weights=weights,
        precision=precision,
        views=views,
        seed=seed,
    )
    return run(
        data,
        out,
        request,
        module=None if isinstance(encoder, str) else encoder,
        device=device,
        workers=workers,
        checkpoint_seconds=checkpoint_seconds,
        resume=resume,
    )


def evaluate(
    run: Run,
    data: Data,
    *,
    test: OtherData | None = None,
    protocol: Protocols = "knn,linear",
    encoder: OwnModule = None,
    device: Device = "auto",
    workers: int | None = None,
) -> Report:
    """Classify labelled images with frozen features, beside raw pixels and the untrained encoder.

    kNN: 20 neighbours by cosine similarity, votes weighted with temperature 0.1. Linear: logistic
    regression on standardized features, its penalty chosen on a split of the training part.
    Without `test`, kNN leaves one out and the linear probe is cross-validated in five folds.

    Args:
        run: The folder of a run.
        data: Labelled images: a folder with sub-folders as labels, or `digits`.
        test: Other labelled images to test on, with the same labels.
        protocol: knn or linear, or both, separated by a comma.
        encoder: Where the run trained your own nn.Module: one of that architecture.
        device: cpu, cuda or mps.
        workers: Loader processes.

    Returns:
        Accuracies in [0, 1] by features and protocol.

    Raises:
        sogclr.UserError: bad input, in one line that says what to do.
    """
    from .evaluation.report import evaluate as run_evaluation

    return run_evaluation(run, data, test, protocol, encoder, device, workers)


def embed(
    run: Run,
    data: Data,
    *,
    out: Folder,
    encoder: OwnModule = None,
    device: Device = "auto",
    workers: int | None = None,
) -> None:
    """Write the embeddings of images: ids, paths and vectors, to .npz or .parquet.

    Args:
        run: The folder of a run.
        data: Images: a folder, or `digits`.
        out: File to write: .npz with arrays ids, paths, vectors; or .parquet with such columns.
        encoder: Where the run trained your own nn.Module: one of that architecture.
        device: cpu, cuda or mps.
        workers: Loader processes.

    Raises:
        sogclr.UserError: bad input, in one line that says what to do.
    """
    from .embedding import embed as run_embedding

    run_embedding(run, data, out, encoder, device, workers)
