"""The commands (`pretrain`, `align`, ...) as Python functions, which the command line calls too.

This file holds arguments and documentation only. A function imports its implementation when it is
called, so that `sogclr --help` answers at once.
"""

from dataclasses import replace
from typing import Any

from ..common.options import Device
from ..planning.settings import MachineArguments
from ..planning.settings_images import ImageSettings, PretrainArguments
from ..planning.settings_pairs import AlignArguments, PairSettings
from ..runs.resume import require_new
from .argument_types import (
    Audit,
    Audited,
    Columns,
    Data,
    Embeddings,
    File,
    Matches,
    OtherData,
    OwnModule,
    Protocols,
    Query,
    Report,
    Result,
    Run,
    Text,
)
from .arguments import takes
from .early_checks import require_data, require_encoder, require_model, unwrap_encoder

__all__ = ["align", "audit", "embed", "evaluate", "pretrain", "search"]


@takes(PretrainArguments)
def pretrain(arguments: PretrainArguments) -> Result:
    """Learn an encoder from unlabelled images.

    Settings that are left out are derived from data and machine, and printed with the reason.

    Returns:
        The folder of the run, whether it is complete, its last metrics, or a forecast of it.

    Raises:
        sogclr.UserError: An error that the user can correct; one line says how.
    """
    encoder: Any = unwrap_encoder(arguments.encoder)
    module = None if isinstance(encoder, str) else encoder
    name = encoder if module is None else f"custom:{type(module).__name__}"
    settings = ImageSettings.from_arguments(replace(arguments, encoder=name))
    require_data(arguments.data)
    if not arguments.resume:
        require_new(arguments.out)
        require_encoder(settings.encoder, "encoder")
    from .pretrain import pretrain as run_pretraining

    return run_pretraining(arguments, settings, module)


@takes(AlignArguments)
def align(arguments: AlignArguments) -> Result:
    """Learn a joint space of images and texts, or of two kinds of text, from pairs.

    Settings that are left out are derived from data and machine, and printed with the reason.

    Returns:
        The folder of the run, whether it is complete, its last metrics, or a forecast of it.

    Raises:
        sogclr.UserError: An error that the user can correct; one line says how.
    """
    arguments = replace(arguments, image_tower=unwrap_encoder(arguments.image_tower))
    settings = PairSettings.from_arguments(arguments)
    require_data(arguments.data)
    require_data(arguments.val, "val")
    if not arguments.resume:
        require_new(arguments.out)
        require_encoder(settings.image_tower, "image_tower")
        require_model(settings.model, settings.pretrained)
    from .align import align as run_alignment

    return run_alignment(arguments, settings)


def evaluate(
    run: Run,
    data: Data,
    *,
    test: OtherData | None = None,
    protocol: Protocols = None,
    columns: Columns | None = None,
    templates: Text | None = None,
    per_class: bool = False,
    encoder: OwnModule = None,
    device: Device = "auto",
    workers: int | None = None,
) -> Report:
    """Measure what a run has learned, on data with labels or on pairs.

    A run of `pretrain` is measured on labelled images, beside raw pixels and the untrained encoder.
    knn: 20 neighbours by cosine similarity, votes weighted with temperature 0.1. linear: logistic
    regression on standardized features, its penalty chosen on a split. Without `test`, knn leaves
    one image out and linear cross-validates in five folds. views: how often a random view is
    nearest to the other view of its image, among at most 10,000, and F and F2 of the projections.

    A classifier of `finetune` is measured by its accuracy. A run of `align` is measured in one of
    three ways. retrieval: R@1, R@5, R@10 and median rank
    between the sides of pairs. zero-shot: labelled images are classified by the names of their
    classes. sts: rank correlation of similarities with the column `score` of sentence pairs.

    The result is added to evaluations.jsonl in the folder of the run.

    Args:
        run: Folder of the run.
        data: Labelled images: a folder whose sub-folders are the labels, shards with labels, or
            `digits`; views needs no labels. Or pairs: a table, or shards with captions.
        test: Other labelled images, with the same labels, to test on. Default: test on `data`.
        protocol: What to measure: one or more of knn, linear and views, with commas between them;
            retrieval, zero-shot or sts. From Python also a sequence. Default: knn,linear,views,
            of images without labels views, or what suits the pairs or images.
        columns: Names of the table's two columns, with a comma between them. From Python also a
            sequence. Default: guessed from the usual names.
        templates: Sentences for zero-shot classification with {} for the name of the class,
            separated by |. Default: seven templates of CLIP.
        per_class: Print the accuracy of the trained encoder on each class, too.
        encoder: An nn.Module of the architecture that was trained, if the run trained your own.
        device: Device to compute on. auto is cuda if there is one, else mps, else cpu.
        workers: Number of processes that load samples. Default: 0 on a CPU and for data in memory,
            else one per CPU core, at most 8.

    Returns:
        For a run of `pretrain`, an `ImageReport`: `report.trained.knn` is an accuracy in [0, 1].
        For a run of `align`, a `PairReport`: `report.retrieval`, `report.zero_shot` or
        `report.sts`. For a classifier a `Classified`: `report.accuracy`.

    Raises:
        sogclr.UserError: An error that the user can correct; one line says how.
    """
    MachineArguments(workers=workers)
    require_data(data)
    require_data(test, "test")
    from .evaluate import evaluate as run_evaluation

    return run_evaluation(
        run, data, test, protocol, columns, templates, encoder, device, workers, per_class
    )


def embed(
    run: Run,
    data: Data,
    *,
    out: File,
    normalize: bool = False,
    columns: Columns | None = None,
    encoder: OwnModule = None,
    device: Device = "auto",
    workers: int | None = None,
) -> Embeddings:
    """Write the embeddings of samples, with ids, names and labels, to a .npz or .parquet file.

    A run of `align` gives unit vectors of the joint space. For pairs both sides are embedded, and
    an array (or column) `side` says a or b. Of up to 100,000 samples, .parquet has all that
    Embedding Atlas shows: coordinates, neighbours, thumbnails and log u. The command that opens it
    is printed.

    Args:
        run: Folder of the run.
        data: Images: a folder, shards, or `digits`. For a run of `align` also pairs: a table, or
            shards with captions.
        out: File to write: .npz with the arrays ids, paths (of texts the texts), vectors, labels
            and normalized; or .parquet with the columns path, text, image, label, log_u, x, y,
            neighbors, id and vector. What the data does not have is left out.
        normalize: Scale vectors to length 1, which those of `align` have anyway.
        columns: Names of the table's two columns, with a comma between them. From Python also a
            sequence. Default: guessed from the usual names.
        encoder: An nn.Module of the architecture that was trained, if the run trained your own.
        device: Device to compute on. auto is cuda if there is one, else mps, else cpu.
        workers: Number of processes that load samples. Default: 0 on a CPU and for data in memory,
            else one per CPU core, at most 8.

    Returns:
        What was written: ids, names, vectors, labels.

    Raises:
        sogclr.UserError: An error that the user can correct; one line says how.
    """
    MachineArguments(workers=workers)
    require_data(data)
    from .embed import embed as run_embedding

    return run_embedding(
        run,
        data,
        out=out,
        scale_to_unit=normalize,
        columns=columns,
        module=encoder,
        device=device,
        workers=workers,
    )


def search(
    run: Run,
    query: Query,
    *,
    data: OtherData | None = None,
    top: int = 12,
    out: File | None = None,
    encoder: OwnModule = None,
    device: Device = "auto",
) -> Matches:
    """Find the samples nearest to a picture or, by the towers of a run of `align`, to a sentence.

    Prints the best matches, with the first caption of each. If they are images, a picture of them
    is written too. `sogclr serve` searches in a browser.

    Args:
        run: Folder of the run.
        query: The path of an image file, the name of an image in the data, or a sentence, which
            only a run of `align` takes.
        data: Samples to search: a folder or shards of images, or a table of pairs, of which the
            images (or the second texts) are searched. Default: what the run was trained on.
        top: Number of matches.
        out: File of the picture. Default: search.png in the folder of the run.
        encoder: An nn.Module of the image tower's architecture, if the run trained your own.
        device: Device to compute on. auto is cuda if there is one, else mps, else cpu.

    Returns:
        Names and similarities, best first.

    Raises:
        sogclr.UserError: An error that the user can correct; one line says how.
    """
    require_data(data)
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
    out: File | None = None,
    encoder: OwnModule = None,
    device: Device = "auto",
) -> Audit:
    """Measure how far the gradient of a batch is from the gradient of all data.

    The reference is the exact gradient of the global objective by the embeddings. It is compared
    with the average gradients of batches of 8 to 4,096 samples, which estimate the normalizers from
    the batch, and with the gradient of SogCLR, which takes them from the run's table. The result
    says which batch size the table is worth; audit.json has the numbers. 50,000 embedded images
    take two cores ten minutes.

    Args:
        run: Folder of the run. To audit before training: the name of an encoder, whose table is
            then filled by its own embeddings. From Python also an nn.Module.
        data: Data that the run was trained on: images (a folder, shards, `digits`) or pairs (a
            table, shards). For an encoder before training: images.
        samples: Largest number of samples, drawn at random; fewer for pairs with wide vectors.
        views: Number of random views per sample, even, that stand for all views. Default: 4, or 2
            for more than 25,000 samples.
        batch_size: Batch size of SogCLR, only for an encoder before training. Default: the one
            that `pretrain` would derive.
        temperature: Temperature of the loss, only for an encoder before training. Default: the one
            that `pretrain` would derive.
        out: File of the picture. Default: audit.png in the folder of the run, or the current one.
        encoder: An nn.Module of the architecture that was trained, if the run trained your own.
        device: Device to embed the samples on. auto is cuda if there is one, else mps, else cpu.

    Returns:
        All that was measured.

    Raises:
        sogclr.UserError: An error that the user can correct; one line says how.
    """
    require_data(data)
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
