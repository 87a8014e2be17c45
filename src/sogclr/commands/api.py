"""The verbs (`pretrain`, `align`, ...) from Python and, with the same words, as commands.

Signatures, documentation and defaults only; what does the work is imported when it is called,
so that `sogclr --help` answers at once.
"""

from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from ..common.options import (
    Augmentation,
    Damaged,
    Device,
    Method,
    Optimizer,
    PairMethod,
    Precision,
    Tau,
)

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from ..auditing.measure import Audit
    from ..data.open_images import Data
    from ..evaluation.images import ImageReport
    from ..evaluation.pairs import PairReport
    from ..runs.resume import Result
    from .embed import Embeddings
    from .search import Match

    Encoder = str | nn.Module
    OtherData = Data
    OwnModule = nn.Module | None
    Run: TypeAlias = str | Path
    Audited: TypeAlias = str | Path | nn.Module
    Folder: TypeAlias = str | Path
    Pairs: TypeAlias = Any
    OtherPairs: TypeAlias = Any
    Report: TypeAlias = ImageReport | PairReport
    Matches: TypeAlias = list[Match]
    Protocols = str | tuple[str, ...] | None
    Freeze = str | tuple[str, ...]
    Query = str
else:  # what a command line can say
    from tyro.conf import Positional, Suppress, arg

    Encoder = Folder = OtherData = OtherPairs = Freeze = str
    Protocols = str | None
    Data = Annotated[str, Positional, arg(metavar="DATA")]
    Pairs = Annotated[str, Positional, arg(metavar="TABLE")]
    Query = Annotated[str, Positional, arg(metavar="QUERY")]
    Run = Audited = Annotated[str, Positional, arg(metavar="RUN")]
    OwnModule = Suppress[str | None]
    Audit = Embeddings = Matches = Report = Result = Any

USUAL_VIEWS = Augmentation()

__all__ = ["align", "audit", "embed", "evaluate", "pretrain", "search"]


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
    gamma_decay_visits: int | None = None,
    effective_negatives: float | None = None,
    memory_size: int | None = None,
    queue_size: int | None = None,
    momentum: float | None = None,
    accumulate: int = 1,
    optimizer: Optimizer = "auto",
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    pretrained: bool = False,
    weights: str | None = None,
    views: Augmentation = USUAL_VIEWS,
    precision: Precision = "auto",
    device: Device = "auto",
    workers: int | None = None,
    on_damaged: Damaged = "skip",
    table_rows: int | None = None,
    epoch_samples: int | None = None,
    seed: int = 0,
    checkpoint_seconds: float = 120.0,
    shard_model: bool = False,
    resume: bool = False,
) -> Result:
    """Learn an encoder from unlabelled images.

    What is left out is derived from the data and the machine, and printed with its reason.

    Args:
        data: A folder of images (flat or nested; JPEG, PNG, WebP), webdataset shards (a .tar
            file, a pattern like 'photos-{000..099}.tar', or a folder of them), a stream of such
            by URL ('https://host/photos-{000..099}.tar'), or `digits`. From
            Python also an array or tensor of images, or a pair (images, labels). Labels, from
            sub-folders, parts of samples or given, are used only to report kNN accuracy.
        out: The folder of the run: checkpoint, encoder, metrics, curves.
        method: sogclr (a normalizer remembered per sample), simclr or dcl (in-batch ones), or
            moco (a queue of keys of earlier batches, made by a second, averaged encoder).
        encoder: A timm name or `small` (trains on a CPU). From Python also your own nn.Module,
            (B, 3, S, S) to (B, d). Default: small on a CPU, resnet18 up to 64 px, else resnet50.
        batch_size: Images in one forward pass. Default: at most 256, with 32 batches an epoch.
        epochs: Passes over the data.
        image_size: Side of the training images in pixels. Default: the images' usual one.
        temperature: Of the loss. Default: 0.2 up to 64 px, 0.1 above.
        gamma_min: SogCLR: smallest weight of a new estimate in a sample's normalizer.
        gamma_decay_visits: SogCLR: visits over which the weight falls there along a cosine, instead
            of as 1/visits.
        queue_size: MoCo: keys in the queue, the negatives of every query. Default: a sixteenth
            of the images, between 4,096 and 65,536, but no more than there are.
        momentum: MoCo: of the average that makes the keys, per step. Default: 0.99, for
            100,000 steps and more 0.999.
        effective_negatives: SogCLR: with how many negatives of average weight a positive
            competes, like in a batch of one more. Default: all, as published. 255
            where trained towers or encoders are fine-tuned.
        memory_size: SogCLR: how many images of earlier batches the batch's are told from as well.
            Default: none, for earlier features must compare with new ones.
        accumulate: Forward passes whose gradients make one optimizer step. With sogclr and
            moco they aim where one large batch would, with the others where small ones do.
        optimizer: lars, sgd or adamw.
        learning_rate: At its peak. Default: the optimizer's times the square root of
            batch_size x accumulate.
        weight_decay: Not applied to biases and norms.
        pretrained: Start from timm's pretrained weights.
        weights: Start from this file of weights (safetensors or torch).
        views: How the two views of an image are drawn. Default: as SimCLR does at this size.
        precision: Of the forward pass. Default: bf16-mixed where the device multiplies bfloat16
            itself (GPUs and newer CPUs), else 32-true.
        device: cpu, cuda or mps.
        workers: Loader processes.
        on_damaged: Whether to skip and name what is damaged (shards from there on, images), or to
            refuse to start.
        table_rows: Of a stream, with sogclr: rows of the table of normalizers, into which samples
            are hashed; 8 bytes each. With ten a sample, a tenth of them share a row.
        epoch_samples: Of a stream: how many samples make an epoch.
        seed: Of weights, order and views.
        checkpoint_seconds: At least this long between checkpoints.
        shard_model: Under torchrun: each process holds a part of the weights and of the
            optimizer's state, and no copy, for models too large for a device.
        resume: Go on with the run in `out`, exactly as if it had not been interrupted.

    Returns:
        Where the run is, whether it is complete, and its last metrics.

    Raises:
        sogclr.UserError: bad input, in one line that says what to do.
    """
    from ..planning.images import Request
    from .pretrain import pretrain as run

    name = encoder if isinstance(encoder, str) else f"custom:{type(encoder).__name__}"
    request = Request(
        method=method,
        encoder=name,
        batch_size=batch_size,
        epochs=epochs,
        image_size=image_size,
        temperature=temperature,
        gamma_min=gamma_min,
        gamma_decay_visits=gamma_decay_visits,
        effective_negatives=effective_negatives,
        memory_size=memory_size,
        accumulate=accumulate,
        optimizer=optimizer,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        pretrained=pretrained,
        weights=weights,
        precision=precision,
        views=views,
        seed=seed,
        on_damaged=on_damaged,
        table_rows=table_rows,
        epoch_samples=epoch_samples,
        queue_size=queue_size,
        momentum=momentum,
    )
    return run(
        data,
        out,
        request,
        module=None if isinstance(encoder, str) else encoder,
        device=device,
        workers=workers,
        checkpoint_seconds=checkpoint_seconds,
        shard_model=shard_model,
        resume=resume,
    )


def align(
    data: Pairs,
    out: Folder,
    *,
    val: OtherPairs | None = None,
    columns: str | None = None,
    method: PairMethod = "sogclr",
    model: str | None = None,
    pretrained: str | None = None,
    image_tower: Encoder | None = None,
    image_weights: str | None = None,
    text_tower: str | None = None,
    width: int | None = None,
    freeze: Freeze = "",
    batch_size: int | None = None,
    epochs: int = 30,
    image_size: int | None = None,
    temperature: float | None = None,
    temperature_mode: Tau = "constant",
    rho: float | None = None,
    gamma_min: float = 0.2,
    gamma_decay_visits: int | None = None,
    effective_negatives: float | None = None,
    memory_size: int | None = None,
    dropout: float | None = None,
    accumulate: int = 1,
    optimizer: Optimizer = "auto",
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    views: Augmentation = USUAL_VIEWS,
    precision: Precision = "auto",
    device: Device = "auto",
    workers: int | None = None,
    on_damaged: Damaged = "skip",
    table_rows: int | None = None,
    epoch_samples: int | None = None,
    seed: int = 0,
    checkpoint_seconds: float = 120.0,
    shard_model: bool = False,
    resume: bool = False,
) -> Result:
    """Learn a joint space of images and texts, or of two kinds of text, from pairs.

    What is left out is derived from the data and the machine, and printed with its reason.

    Args:
        data: A table of pairs (CSV, TSV, JSONL, Parquet; image paths relative to it), a folder
            that Hugging Face datasets saved, or hf:owner/name. An image in several rows has
            several captions. Or webdataset shards with images and captions (parts jpg and txt,
            or json), on this machine or a stream of them by URL
            ('https://host/pairs-{000..099}.tar'). From Python also a mapping of column names
            to lists.
        out: The folder of the run: checkpoint, towers, metrics, curves.
        val: Such pairs that are held back, on this machine; retrieval on them is reported while
            training.
        columns: Of a table: the names of two columns with a comma between. Default: guessed and
            printed.
        method: sogclr (a normalizer remembered per sample and side), clip, dcl or siglip.
        model: An open_clip model by name, its folder, or a file with its configuration.
        pretrained: Its weights: a tag of open_clip or a file.
        image_tower: Instead of a model: an image tower by timm name, with its published weights.
            From Python also your own nn.Module, (B, 3, S, S) to (B, w).
        image_weights: File of weights for the image tower, instead of the published ones.
        text_tower: A text tower by Hugging Face name, or its folder. Default: a small one.
        width: Of the joint space. Default: the model's; 256 for joined towers.
        freeze: image, text or both with a comma between: only heads of these are trained, and
            their features are computed once and kept; of a stream, at every step.
        batch_size: Pairs in one forward pass. Default: at most 256, with 32 batches an epoch.
        epochs: Passes over the images, each with one of its captions.
        image_size: Side of the images in pixels. Default: the tower's.
        temperature: Of the loss; where it is learned, at the start. Default: 0.05.
        temperature_mode: constant, learned, or individual (one a sample, iSogCLR).
        rho: Weight of tau in what a learned temperature minimizes (FastCLIP v3, iSogCLR).
            Default: none, so that F/tau is minimized (CLIP, FastCLIP v0).
        gamma_min: SogCLR: smallest weight of a new estimate in a sample's normalizer.
        gamma_decay_visits: SogCLR: visits over which the weight falls there along a cosine, instead
            of as 1/visits.
        dropout: In the heads. Default: 0.3 where both towers are frozen, else none.
        effective_negatives: SogCLR: with how many negatives of average weight a positive
            competes, like in a batch of one more. Default: all, as published. 255
            where trained towers or encoders are fine-tuned.
        memory_size: SogCLR: how many pairs of earlier batches the batch's are told from as well.
            Default: where both towers are frozen, 256 with the batch; else 0, for earlier rows
            must compare with new ones.
        accumulate: Forward passes whose gradients make one optimizer step. With sogclr they
            aim where one large batch would, with the others where many small ones do.
        optimizer: lars, sgd or adamw.
        learning_rate: At its peak. Default: the optimizer's times the square root of
            batch_size x accumulate; an eighth for heads alone, a hundredth where trained towers
            are tuned.
        weight_decay: Not applied to biases and norms.
        views: How images that are trained on are cropped and changed. Default: as CLIP does.
        precision: Of the forward pass. Default: bf16-mixed where the device multiplies bfloat16
            itself (GPUs and newer CPUs), 32-true elsewhere and for heads alone.
        device: cpu, cuda or mps.
        workers: Loader processes.
        on_damaged: Whether to skip and name what is damaged (shards from there on, images, rows of
            a table), or to refuse to start.
        table_rows: Of a stream, with sogclr: rows of the table of normalizers of either side,
            into which images and captions are hashed; 8 bytes each.
        epoch_samples: Of a stream: how many pairs make an epoch.
        seed: Of weights, order, captions and views.
        checkpoint_seconds: At least this long between checkpoints.
        shard_model: Under torchrun: each process holds a part of the weights and of the
            optimizer's state, and no copy, for models too large for a device.
        resume: Go on with the run in `out`, exactly as if it had not been interrupted.

    Returns:
        Where the run is, whether it is complete, and its last metrics.

    Raises:
        sogclr.UserError: bad input, in one line that says what to do.
    """
    from ..models.build_towers import TowerRequest
    from ..planning.pairs import PairRequest
    from .align import align as run

    request = PairRequest(
        method=method,
        columns=columns,
        batch_size=batch_size,
        epochs=epochs,
        image_size=image_size,
        temperature=temperature,
        temperature_mode=temperature_mode,
        rho=rho,
        gamma_min=gamma_min,
        gamma_decay_visits=gamma_decay_visits,
        effective_negatives=effective_negatives,
        memory_size=memory_size,
        dropout=dropout,
        accumulate=accumulate,
        optimizer=optimizer,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        precision=precision,
        views=views,
        seed=seed,
        on_damaged=on_damaged,
        table_rows=table_rows,
        epoch_samples=epoch_samples,
    )
    towers = TowerRequest(
        model=model,
        pretrained=pretrained,
        image_tower=image_tower,
        image_weights=image_weights,
        text_tower=text_tower,
        width=width,
        image_size=image_size,
    )
    return run(
        data,
        out,
        request,
        towers,
        freeze=freeze,
        val=val,
        device=device,
        workers=workers,
        checkpoint_seconds=checkpoint_seconds,
        shard_model=shard_model,
        resume=resume,
    )


def evaluate(
    run: Run,
    data: Data,
    *,
    test: OtherData | None = None,
    protocol: Protocols = None,
    columns: str | None = None,
    templates: str | None = None,
    encoder: OwnModule = None,
    device: Device = "auto",
    workers: int | None = None,
) -> Report:
    """Measure what a run has learned, on data with labels or pairs.

    A run of `pretrain`: labelled images are classified with frozen features, beside raw pixels
    and the untrained encoder. knn: 20 neighbours by cosine similarity, votes weighted with
    temperature 0.1. linear: logistic regression on standardized features, its penalty chosen on
    a split of the training part. Without `test`, kNN leaves one out and the linear probe is
    cross-validated in five folds.

    A run of `align`: retrieval between the sides of pairs (R@1, R@5, R@10, median rank);
    zero-shot classification of labelled images by the names of their classes; sts, the rank
    correlation of similarities with the column `score` of a table of sentence pairs.

    Args:
        run: The folder of a run.
        data: Labelled images (a folder with sub-folders as labels, shards with labels, or
            `digits`), or pairs (a table, or shards with captions).
        test: Other labelled images to test on, with the same labels.
        protocol: knn, linear or both with a comma between; retrieval, zero-shot or sts. Default:
            what fits the run and the data.
        columns: Of a table: the names of two columns with a comma between.
        templates: Of zero-shot classification: sentences with {} for the class, separated by |.
            Default: seven of CLIP's.
        encoder: Where the run trained your own nn.Module: one of that architecture.
        device: cpu, cuda or mps.
        workers: Loader processes.

    Returns:
        For a run of `pretrain`, an `ImageReport`: `report.trained.knn` is an accuracy in [0, 1].
        For a run of `align`, a `PairReport`: `report.retrieval`, `report.zero_shot` or
        `report.sts`.

    Raises:
        sogclr.UserError: bad input, in one line that says what to do.
    """
    from .evaluate import evaluate as run_evaluation

    return run_evaluation(
        run,
        data,
        test=test,
        protocol=protocol,
        columns=columns,
        templates=templates,
        module=encoder,
        device=device,
        workers=workers,
    )


def embed(
    run: Run,
    data: Data,
    *,
    out: Folder,
    columns: str | None = None,
    encoder: OwnModule = None,
    device: Device = "auto",
    workers: int | None = None,
) -> Embeddings:
    """Write embeddings: ids, names and vectors, to .npz or .parquet.

    Of a run of `align`, vectors are unit vectors of the joint space; a table gives both sides,
    with a column (or arrays) `side`, a or b.

    Args:
        run: The folder of a run.
        data: Images: a folder, shards, or `digits`; or, for a run of `align`, also pairs: a
            table, or shards with captions.
        out: File to write: .npz with arrays ids, paths, vectors; or .parquet with such columns.
        columns: Of a table: the names of two columns with a comma between.
        encoder: Where the run trained your own nn.Module: one of that architecture.
        device: cpu, cuda or mps.
        workers: Loader processes.

    Returns:
        What was written: ids, names and vectors.

    Raises:
        sogclr.UserError: bad input, in one line that says what to do.
    """
    from .embed import embed as run_embedding

    return run_embedding(run, data, out, columns, encoder, device, workers)


def search(
    run: Run,
    query: Query,
    *,
    data: OtherPairs | None = None,
    top: int = 12,
    out: Folder | None = None,
    encoder: OwnModule = None,
    device: Device = "auto",
) -> Matches:
    """Find what is nearest to a sentence, or to an image, with the towers of a run of `align`.

    Prints the best matches; of images, writes a picture of them too.

    Args:
        run: The folder of a run of `align`.
        query: A sentence, or an image file.
        data: What is searched: a folder or shards of images, or a table of pairs (its images,
            or its second texts). Default: the pairs that the run was trained on.
        top: How many matches.
        out: The picture. Default: search.png in the run.
        encoder: Where the run has an image tower of your own: one of that architecture.
        device: cpu, cuda or mps.

    Returns:
        Names and similarities, best first.

    Raises:
        sogclr.UserError: bad input, in one line that says what to do.
    """
    from .search import search as run_search

    return run_search(run, query, data, top=top, out=out, module=encoder, device=device)


def audit(
    run: Audited,
    data: Data,
    *,
    samples: int = 50_000,
    views: int | None = None,
    batch_size: int | None = None,
    temperature: float | None = None,
    out: Folder | None = None,
    encoder: OwnModule = None,
    device: Device = "auto",
) -> Audit:
    """Measure how far a batch's gradient is from that of all data at once.

    The exact gradient of the global objective by the embeddings, against the gradient that a
    batch of 8 to 4,096 gives on average when it takes its normalizers from itself, and that of
    SogCLR with the run's own table. Which in-batch batch size is the table worth? A table, a
    sentence and a picture say; the same numbers go to audit.json. Once embedded, 50,000 images take
    some ten minutes of two CPU cores.

    Args:
        run: The folder of a run; or, before training, the name of an encoder (from Python also
            an nn.Module), which is then audited with a table filled by its own embeddings.
        data: What the run was trained on: images (a folder, shards, `digits`) or pairs (a
            table, shards); images for an encoder before training.
        samples: At most this many, drawn at random; of pairs with wide vectors fewer.
        views: Random views of each sample that stand for all; even. Default: 4, of more than
            25,000 samples 2.
        batch_size: Of SogCLR, for an encoder before training. Default: what pretrain would take.
        temperature: As batch_size.
        out: The picture. Default: audit.png in the run, or here.
        encoder: Where the run trained your own nn.Module: one of that architecture.
        device: Where samples are embedded: cpu, cuda or mps.

    Returns:
        All that was measured.

    Raises:
        sogclr.UserError: bad input, in one line that says what to do.
    """
    from .audit import audit as run_audit

    return run_audit(
        run,
        data,
        samples=samples,
        views=views,
        batch_size=batch_size,
        temperature=temperature,
        out=out,
        module=encoder,
        device=device,
    )
