"""`sogclr.evaluate`: open the run and the data, measure, and print the report."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from rich.table import Table
from torch import nn

from ..common.console import cell, result, say
from ..common.errors import UserError
from ..common.options import Device, PairProtocol, Protocol, split_names
from ..data.image_source import ImageSource
from ..data.open_images import Data, open_images
from ..data.open_pairs import are_pairs, open_pairs
from ..data.tables.read import is_table, read_table
from ..distributed.launch import choose_device
from ..evaluation.images import ImageReport, RandomViews, measure_images
from ..evaluation.pairs import PairReport, measure_retrieval
from ..evaluation.random_views import MOST_IMAGES
from ..evaluation.retrieval import Retrieval
from ..evaluation.sts import SentenceSimilarity, measure_sts
from ..evaluation.zero_shot import TEMPLATES, ZeroShot, measure_zero_shot
from ..models.encoders import EncoderSpec, width_of
from ..models.pair_encoder import PairEncoder
from ..planning.settings_images import ImageSettings
from ..runs.folder import Run, is_pair_run
from ..runs.load import load_encoder, load_projector
from ..runs.resume import read_resolved
from ..runs.towers import load_pairs
from .early_checks import require_unused

__all__ = ["evaluate"]

DEFAULT_PROTOCOLS = "knn,linear,views"


def evaluate(
    run: str | Path,
    data: Any,
    test: "Data | None",
    protocol: str | Sequence[str] | None,
    columns: str | Sequence[str] | None,
    templates: str | None,
    module: nn.Module | None,
    device: Device,
    workers: int | None,
) -> ImageReport | PairReport:
    """See `sogclr.evaluate`."""
    if is_pair_run(run):
        require_unused({"test": test}, f"{run} is a run on pairs")
        return _evaluate_pairs(run, data, protocol, columns, templates, module, device)
    unused = {"columns": columns, "templates": templates}
    require_unused(unused, f"{run} was trained on images alone")
    return _evaluate_images(run, data, test, protocol or DEFAULT_PROTOCOLS, module, device, workers)


def _evaluate_images(
    run: str | Path,
    data: Data,
    test: "Data | None",
    protocol: str | Sequence[str],
    module: nn.Module | None,
    device: Device,
    workers: int | None,
) -> ImageReport:
    protocols = _choose_protocols(protocol)
    # Load the run before the data, so that a wrong folder is reported at once.
    trained, spec = load_encoder(run, copy.deepcopy(module))
    untrained, _ = load_encoder(run, module, initial=True)
    views = _read_random_views(run, trained, spec) if "views" in protocols else None
    has_classes = protocols != ("views",)
    train_source = _open_source(data, has_classes)
    test_source = None if test is None else _open_source(test, has_classes)
    if test_source is not None and has_classes:
        _require_same_classes(train_source, test_source)
    report = measure_images(
        untrained,
        trained,
        spec,
        train_source,
        test_source,
        protocols,
        views,
        device=choose_device(device),
        workers=workers,
    )
    how = "(leave-one-out kNN, 5-fold linear)" if test_source is None else "on --test"
    result(f"accuracy {how}")
    result(_image_table(report, protocols))
    if views is not None:
        result(_explain_views(report, views, len(test_source or train_source)))
    return report


def _read_random_views(run: str | Path, trained: nn.Module, spec: EncoderSpec) -> RandomViews:
    """Read how a run compares views, and its projector if it has a checkpoint."""
    settings = read_resolved(Run(run).read_settings(), ImageSettings)
    if settings.temperature is None:
        raise UserError(f"run: {Run(run).settings} is damaged (it has no temperature)")
    norm = "batch" if settings.norm == "auto" else settings.norm
    projector = load_projector(run, width_of(trained, spec.image_size), norm)
    if projector is None:
        say(f"{run} has no checkpoint, which holds the projector: F and F2 are left out")
    augmentation = settings.views.resolved(spec.image_size)
    return RandomViews(augmentation, settings.temperature, projector)


def _evaluate_pairs(
    run: str | Path,
    data: Any,
    protocol: str | Sequence[str] | None,
    columns: str | Sequence[str] | None,
    templates: str | None,
    module: nn.Module | None,
    device: Device,
) -> PairReport:
    chosen = _choose_pair_protocol(data, protocol)
    if chosen == "zero-shot":
        require_unused({"columns": columns}, "zero-shot classification reads a folder")
    else:
        require_unused({"templates": templates}, f"{chosen} has no names of classes")
    encoder = load_pairs(run, module).to(choose_device(device))
    if chosen == "zero-shot":
        return PairReport(zero_shot=_measure_zero_shot(encoder, data, templates))
    if chosen == "sts":
        return PairReport(sts=_measure_sts(encoder, data, columns))
    source = open_pairs(data, columns)
    say(source.describe())
    retrieval = measure_retrieval(encoder, source)
    result(_retrieval_table(retrieval, source.columns))
    return PairReport(retrieval=retrieval)


def _measure_zero_shot(encoder: PairEncoder, data: Data, templates: str | None) -> ZeroShot:
    sentences = TEMPLATES if templates is None else templates.split("|")
    measured = measure_zero_shot(encoder, open_images(data), sentences)
    result(
        f"zero-shot accuracy {measured.accuracy:.2%} of {measured.images:,} images in "
        f"{len(measured.classes)} classes"
    )
    return measured


def _measure_sts(
    encoder: PairEncoder, data: Any, columns: str | Sequence[str] | None
) -> SentenceSimilarity:
    table = read_table(data)
    if "score" not in table.columns:
        raise UserError(
            f"data: {table.name} has no column score; it has {', '.join(table.columns)}"
        )
    source = open_pairs(data, columns)
    if source.kinds[0] == "image":
        raise UserError(f"data: {source.name} holds images; sts is for two texts, try retrieval")
    measured = measure_sts(encoder, table, source.columns)
    result(f"Spearman correlation {measured.correlation:.4f} over {measured.pairs:,} pairs")
    return measured


def _choose_protocols(requested: str | Sequence[str]) -> tuple[Protocol, ...]:
    names = split_names(requested)
    protocols = {protocol: protocol for protocol in get_args(Protocol)}
    for name in names:
        if name not in protocols:
            raise UserError(f"--protocol: {name!r} is unknown; give knn, linear or both, or views")
    return tuple(protocols[name] for name in names)


def _choose_pair_protocol(data: Any, requested: str | Sequence[str] | None) -> PairProtocol:
    """Return the requested protocol, or the one that fits the kind of data."""
    names = split_names(requested or ())
    protocols: dict[str, PairProtocol] = {protocol: protocol for protocol in get_args(PairProtocol)}
    if len(names) > 1 or (names and names[0] not in protocols):
        raise UserError(
            f"--protocol: {','.join(names)!r} does not fit a run on pairs; give one of "
            f"{', '.join(protocols)}"
        )
    if names:
        return protocols[names[0]]
    if not are_pairs(data):
        return "zero-shot"
    has_scores = is_table(data) and "score" in read_table(data).columns
    return "sts" if has_scores else "retrieval"


def _open_source(data: Data, has_classes: bool) -> ImageSource:
    source = open_images(data)
    if has_classes and source.labels is None:
        raise UserError(
            f"data: {source.describe()}: no labels; put each class in a sub-folder, or give every "
            "sample of shards a part cls; or add --protocol views, which needs none"
        )
    say(source.describe())
    return source


def _require_same_classes(train: ImageSource, test: ImageSource) -> None:
    if train.classes != test.classes:
        unknown = sorted(set(test.classes or []) ^ set(train.classes or []))
        raise UserError(
            f"--test: its classes differ from those of the data: {', '.join(unknown[:5])} "
            "on one side only"
        )


def _image_table(report: ImageReport, protocols: Sequence[Protocol]) -> Table:
    table = Table()
    table.add_column("features")
    for protocol in protocols:
        table.add_column(protocol, justify="right")
    for name in ("raw_pixels", "untrained", "trained"):
        accuracy = getattr(report, name)
        cells = [f"{getattr(accuracy, protocol):.2%}" for protocol in protocols]
        table.add_row(name.replace("_", " "), *cells)
    return table


def _explain_views(report: ImageReport, views: RandomViews, images: int) -> str:
    text = (
        "views: how often a random view is nearest to the other view of its image, among "
        f"{min(images, MOST_IMAGES):,} images."
    )
    scores = report.projections
    if scores is None:
        return text
    return (
        f"{text} Projections: the same {scores.recall:.2%}; the exact objective at tau "
        f"{views.temperature:g}: F {scores.objective:+.4f}, F2 {scores.objective2:+.4f} (lower is "
        "better; compare at equal tau)."
    )


def _retrieval_table(retrieval: Retrieval, columns: tuple[str, str]) -> Table:
    table = Table()
    table.add_column("retrieval")
    for name in ("R@1", "R@5", "R@10", "median rank", "queries"):
        table.add_column(name, justify="right")
    a, b = columns
    for name, direction in ((f"{a} to {b}", retrieval.a_to_b), (f"{b} to {a}", retrieval.b_to_a)):
        recalls = [f"{value:.1%}" for value in direction.recall.values()]
        table.add_row(cell(name), *recalls, f"{direction.median_rank:g}", f"{direction.queries:,}")
    table.caption = f"sum of the six recalls: {retrieval.total:.1f}"
    return table
