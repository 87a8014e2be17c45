"""The commands (`pretrain`, `align`, ...) as Python functions; the command line calls the same.

Only arguments and documentation stand here. What does the work is imported when it is called, so
that `sogclr --help` answers at once.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from ..common.options import Augmentation, Device
from ..planning.settings import Folder
from ..planning.settings_images import ImageSettings, PretrainArguments
from ..planning.settings_pairs import AlignArguments, PairSettings
from ..runs.resume import require_new
from .arguments import takes
from .early_checks import require_data, require_encoder

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from ..auditing.measure import Audit
    from ..data.image_source import Data
    from .result import Result
    from .search import Match

    OtherData = Data
    OwnModule = nn.Module | None
    Run: TypeAlias = str | Path
    Audited: TypeAlias = str | Path | nn.Module
    File: TypeAlias = str | Path
    OtherPairs: TypeAlias = Any
    Report: TypeAlias = Any
    Matches: TypeAlias = list[Match]
    Protocols = str | tuple[str, ...] | None
    Columns = str
    Text = str
    Query = str
else:  # what the command line accepts, and how its help names the value
    from tyro.conf import Suppress

    Data = OtherData = Annotated[str, "DATA"]
    OtherPairs = Annotated[str, "TABLE"]
    File = Annotated[str, "FILE"]
    Columns = Annotated[str, "A,B"]
    Text = Annotated[str, "TEXT"]
    Query = Annotated[str, "QUERY"]
    Run = Audited = Annotated[str, "RUN"]
    Protocols = Annotated[str, "NAMES"] | None
    OwnModule = Suppress[str | None]
    Audit = Matches = Report = Result = Any

__all__ = ["Augmentation", "align", "audit", "embed", "evaluate", "pretrain", "search"]


@takes(PretrainArguments)
def pretrain(arguments: PretrainArguments) -> "Result":
    """Learn an encoder from unlabelled images.

    Settings that are left out are derived from the data and the machine, and printed with the
    reason.

    Returns:
        The folder of the run, whether the run is complete, and its last metrics.

    Raises:
        sogclr.UserError: An error that the user can correct; one line says how.
    """
    encoder: Any = arguments.encoder
    own = None if isinstance(encoder, str) else encoder
    name = encoder if own is None else f"custom:{type(own).__name__}"
    settings = ImageSettings.of(replace(arguments, encoder=name))
    require_data(arguments.data)
    if not arguments.resume:
        require_new(arguments.out)
        require_encoder(settings.encoder, "encoder")
    from .pretrain import pretrain as run

    return run(
        arguments.data,
        arguments.out,
        settings,
        module=own,
        device=arguments.device,
        workers=arguments.workers,
        checkpoint_seconds=arguments.checkpoint_seconds,
        shard_model=arguments.shard_model,
        resume=arguments.resume,
    )


@takes(AlignArguments)
def align(arguments: AlignArguments) -> "Result":
    """Learn a joint space of images and texts, or of two kinds of text, from pairs.

    Settings that are left out are derived from the data and the machine, and printed with the
    reason.

    Returns:
        The folder of the run, whether the run is complete, and its last metrics.

    Raises:
        sogclr.UserError: An error that the user can correct; one line says how.
    """
    settings = PairSettings.of(arguments)
    require_data(arguments.data)
    require_data(arguments.val, "val")
    if not arguments.resume:
        require_new(arguments.out)
        require_encoder(settings.image_tower, "image_tower")
    from .align import align as run

    return run(
        arguments.data,
        arguments.out,
        settings,
        freeze=arguments.freeze,
        val=arguments.val,
        device=arguments.device,
        workers=arguments.workers,
        checkpoint_seconds=arguments.checkpoint_seconds,
        shard_model=arguments.shard_model,
        resume=arguments.resume,
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
        What was measured: accuracies in [0, 1] by features and protocol, or a report on pairs.

    Raises:
        sogclr.UserError: bad input, in one line that says what to do.
    """
    from ..runs.folder import is_of_pairs

    if is_of_pairs(run):
        from ..evaluation.pair_report import evaluate_pairs

        return evaluate_pairs(run, data, protocol, encoder, device, columns, templates)
    from ..evaluation.images import evaluate as run_evaluation

    return run_evaluation(run, data, test, protocol or "knn,linear", encoder, device, workers)


def embed(
    run: Run,
    data: Data,
    *,
    out: Folder,
    columns: str | None = None,
    encoder: OwnModule = None,
    device: Device = "auto",
    workers: int | None = None,
) -> None:
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

    Raises:
        sogclr.UserError: bad input, in one line that says what to do.
    """
    from .embed import embed as run_embedding

    run_embedding(run, data, out, columns, encoder, device, workers)


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
