"""`sogclr.evaluate`: open the run and the data, measure, and print the report."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from torch import nn

from ..common.console import result, say
from ..common.errors import UserError
from ..common.options import Device, PairProtocol, Protocol, split_names
from ..data.choose_labels import require_labels, require_same_classes
from ..data.image_source import NO_LABEL, ImageSource, summarize
from ..data.open_images import Data, open_images
from ..data.open_pairs import are_pairs, open_pairs
from ..data.tables.read import is_table, read_table
from ..distributed.device import choose_device
from ..evaluation.classified import Classified, measure_classifier
from ..evaluation.images import ImageReport, RandomViews, measure_images
from ..evaluation.pairs import PairReport, measure_retrieval
from ..evaluation.sts import SentenceSimilarity, measure_sts
from ..evaluation.zero_shot import TEMPLATES, ZeroShot, measure_zero_shot
from ..models.encoders import EncoderSpec, width_of
from ..models.pair_encoder import PairEncoder
from ..planning.settings_images import ImageSettings
from ..runs.classifiers import is_classifier
from ..runs.evaluations import append_evaluation
from ..runs.folder import Run, is_pair_run
from ..runs.load import load_classifier, load_encoder, load_projector
from ..runs.resume import read_resolved
from ..runs.towers import load_pairs
from .early_checks import require_unused
from .evaluation_tables import (
    describe_classified,
    describe_zero_shot,
    explain_accuracy,
    explain_views,
    image_table,
    per_class_table,
    retrieval_table,
)

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
    per_class: bool,
) -> ImageReport | PairReport | Classified:
    """See `sogclr.evaluate`."""
    report: ImageReport | PairReport | Classified
    if is_classifier(run):
        unused = {"test": test, "protocol": protocol, "columns": columns, "templates": templates}
        require_unused(unused, f"{run} is a classifier")
        report = _evaluate_classifier(run, data, module, device, workers)
        if per_class:
            result(per_class_table(report.per_class))
    elif is_pair_run(run):
        require_unused({"test": test}, f"{run} is a run on pairs")
        report = _evaluate_pairs(run, data, protocol, columns, templates, module, device, per_class)
    else:
        unused = {"columns": columns, "templates": templates}
        require_unused(unused, f"{run} was trained on images alone")
        source = data
        if protocol is None:
            source = open_images(data)
            protocol = DEFAULT_PROTOCOLS
            if source.labels is None:
                protocol = "views"
                say("no labels: knn and linear are left out; sub-folders would be labels")
        protocols = _choose_protocols(protocol)
        if protocols == ("views",):
            require_unused({"per_class": per_class or None}, "views has no classes")
        report = _evaluate_images(run, source, test, protocols, module, device, workers)
        if per_class:
            result(per_class_table(report.per_class))
    append_evaluation(Run(run), report, data=data, test=test)
    return report


def _evaluate_classifier(
    run: str | Path, data: Data, module: nn.Module | None, device: Device, workers: int | None
) -> Classified:
    model = load_classifier(run, module)
    source = open_images(data)
    require_labels(source)
    say(source.describe())
    if unknown := sorted(set(source.classes or []) - set(model.classes)):
        raise UserError(f"data: the classifier does not know the classes {summarize(unknown)}")
    rows = np.flatnonzero(source.labels != NO_LABEL)
    chosen = choose_device(device)
    measured = measure_classifier(model.to(chosen), source, rows, device=chosen, workers=workers)
    result(describe_classified(measured))
    return measured


def _evaluate_images(
    run: str | Path,
    data: Data,
    test: "Data | None",
    protocols: tuple[Protocol, ...],
    module: nn.Module | None,
    device: Device,
    workers: int | None,
) -> ImageReport:
    # Load the run before the data, so that a wrong folder is reported at once.
    trained, spec = load_encoder(run, copy.deepcopy(module))
    untrained, _ = load_encoder(run, module, initial=True)
    views = _read_random_views(run, trained, spec) if "views" in protocols else None
    has_classes = protocols != ("views",)
    train_source = _open_source(data, has_classes)
    test_source = None if test is None else _open_source(test, has_classes)
    if test_source is not None and has_classes:
        require_same_classes(train_source, test_source)
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
    result(image_table(report, protocols))
    if has_classes:
        result(explain_accuracy(report, protocols, tested_alone=test_source is not None))
    if views is not None:
        result(explain_views(report, views.temperature))
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
    per_class: bool,
) -> PairReport:
    chosen = _choose_pair_protocol(data, protocol)
    if chosen == "zero-shot":
        require_unused({"columns": columns}, "zero-shot classification reads a folder")
    else:
        unused = {"templates": templates, "per_class": per_class or None}
        require_unused(unused, f"{chosen} has no names of classes")
    encoder = load_pairs(run, module).to(choose_device(device))
    if chosen == "zero-shot":
        zero_shot = _measure_zero_shot(encoder, data, templates)
        if per_class:
            result(per_class_table(zero_shot.per_class))
        return PairReport(zero_shot=zero_shot)
    if chosen == "sts":
        return PairReport(sts=_measure_sts(encoder, data, columns))
    source = open_pairs(data, columns)
    say(source.describe())
    retrieval = measure_retrieval(encoder, source)
    result(retrieval_table(retrieval, source.columns))
    return PairReport(retrieval=retrieval)


def _measure_zero_shot(encoder: PairEncoder, data: Data, templates: str | None) -> ZeroShot:
    sentences = TEMPLATES if templates is None else templates.split("|")
    measured = measure_zero_shot(encoder, open_images(data), sentences)
    result(describe_zero_shot(measured))
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
    if has_classes:
        require_labels(source, "; or add --protocol views, which needs none")
    say(source.describe())
    return source
