"""Compose the page of a run: open run and data, embed samples, build all sections."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ...common.errors import UserError
from ...data.image_source import ImageSource
from ...data.open_pairs import open_samples
from ...data.pair_source import PairSource
from ...data.tar.urls import is_url
from ...runs.folder import Run
from ...runs.load import load_encoder
from ...runs.stored_samples import StoredSamples, read_known_samples
from ...runs.towers import load_pairs
from .alike import neighbours_section
from .crowded import crowding_section
from .curves import curves_section
from .findings import copies_section, misfits_section, outliers_section, suspects_section
from .found_pairs import matches_section, retrieval_section
from .labelled import NO_LABELS, LabelledSamples, results_section
from .map import map_section
from .overview import (
    audit_section,
    loading_section,
    next_section,
    plan_section,
    run_section,
    views_section,
)
from .page import Section
from .pair_samples import PairSamples, embed_pair_samples, embed_side_samples
from .record import RunRecord
from .samples import Samples, draw_rows, embed_image_samples

__all__ = ["DataToShow", "compose_sections", "open_data"]

NEEDING_DATA = (
    "Results",
    "Nearest neighbours",
    "Map of the embedding",
    "Crowded and lonely samples",
    "Outliers",
    "Near duplicates",
)
REMOTE = ("hf:", "hf-hub:")


@dataclass(frozen=True)
class DataToShow:
    """The data of a page.

    Attributes:
        source: images or pairs; None if there are none.
        about: a description of the source, or why there is none.
        name: what a user types to name the data, for commands that the page shows.
    """

    source: ImageSource | PairSource | None
    about: str
    name: str = "DATA"


@dataclass
class _Embedded:
    """The embedded samples of a page.

    Attributes:
        samples: images, or side a of pairs.
        pairs: the pairs, if these are pairs.
        sections: sections that only this kind of data has, first the results.
    """

    samples: Samples
    pairs: PairSamples | None = None
    sections: list[Section] = field(default_factory=list)

    @property
    def sides(self) -> list[Samples]:
        """Return the samples of each side."""
        return [self.samples] if self.pairs is None else [self.pairs.a, self.pairs.b]


def open_data(record: RunRecord, data: Any, columns: Any) -> DataToShow:
    """Open the data of a page: what was given, or else what the run was trained on.

    Args:
        record: the run.
        data: images or pairs; None for the data that the run was trained on, if it is here.
        columns: names of the columns of a table, or None.

    Raises:
        UserError: the data that was given cannot be opened.
    """
    if data is not None:
        source = open_samples(data, columns, pairs=record.is_pairs)
        name = str(data) if isinstance(data, str | Path) else "DATA"
        return DataToShow(source, source.describe(), name)
    if record.data is None:
        why = "The run does not say where its data is; name it: sogclr report RUN DATA."
        return DataToShow(None, why)
    if is_url(record.data) or record.data.startswith(REMOTE):
        why = f"The run was trained on {record.data}, which is not on this machine."
        return DataToShow(None, why)
    try:
        columns = columns or getattr(record.settings, "columns", None)
        source = open_samples(record.data, columns, pairs=record.is_pairs)
    except UserError as error:
        return DataToShow(None, f"The data of the run cannot be opened ({error}).")
    return DataToShow(source, source.describe(), record.data)


def compose_sections(
    record: RunRecord, data: DataToShow, *, most: int, module: nn.Module | None, device: str
) -> list[Section]:
    """Build all sections of the page of a run.

    Args:
        record: the run.
        data: the data to look at.
        most: largest number of samples to embed.
        module: the user's own encoder, which stays as it is; or None.
        device: "cpu", "cuda" or "mps".
    """
    own, rest = _sections_of_data(record, data, most, module, device)
    return [
        run_section(record, data.about),
        *own[:1],
        curves_section(record),
        plan_section(record),
        views_section(record),
        *own[1:],
        *rest,
        audit_section(record),
        loading_section(record),
        next_section(record, data.name),
    ]


def _sections_of_data(
    record: RunRecord, data: DataToShow, most: int, module: nn.Module | None, device: str
) -> tuple[list[Section], list[Section]]:
    """Build the sections that need data; if that is not possible, each says why."""
    if data.source is None:
        return _all_missing(data.about)
    try:
        embedded = _embed(record, data.source, most, module, device)
    except UserError as error:
        return _all_missing(str(error))
    samples = embedded.samples
    if not len(samples):
        return _all_missing("none of the samples could be read")
    shared: list[Callable[[], Section]] = [
        lambda: neighbours_section(samples),
        lambda: map_section(samples),
        lambda: crowding_section(embedded.sides, record.settings.method),
        lambda: outliers_section(samples),
        lambda: copies_section(samples),
    ]
    return embedded.sections, [build() for build in shared]


def _all_missing(reason: str) -> tuple[list[Section], list[Section]]:
    results, *others = NEEDING_DATA
    return [Section(results, missing=reason)], [Section(name, missing=reason) for name in others]


def _embed(
    record: RunRecord,
    source: ImageSource | PairSource,
    most: int,
    module: nn.Module | None,
    device: str,
) -> _Embedded:
    run = record.run
    stored = read_known_samples(run)
    if not record.is_pairs:
        if isinstance(source, PairSource):
            raise UserError("data: the run was trained on images alone; give images")
        return _embed_images(run, source, stored.get(""), most, module, device)
    encoder = load_pairs(run.folder, copy.deepcopy(module)).to(device)
    if isinstance(source, ImageSource):
        if "image" not in encoder.towers:
            raise UserError("data: the run was trained on two texts; give a table")
        rows = draw_rows(source.ids, most)
        samples = embed_side_samples(encoder, source, stored.get("a"), rows)
        return _Embedded(samples, sections=_label_sections(samples, []))
    if source.kinds != encoder.spec.kinds:
        kinds = " and ".join(encoder.spec.kinds)
        raise UserError(f"data: the run was trained on {kinds}, this is another kind of pairs")
    pairs = embed_pair_samples(encoder, source, stored, most=most)
    return _Embedded(
        pairs.a, pairs, [retrieval_section(pairs), matches_section(pairs), misfits_section(pairs)]
    )


def _embed_images(
    run: Run,
    source: ImageSource,
    stored: StoredSamples | None,
    most: int,
    module: nn.Module | None,
    device: str,
) -> _Embedded:
    encoder, spec = load_encoder(run.folder, copy.deepcopy(module))
    samples = embed_image_samples(
        encoder.to(device), spec, source, stored, most=most, device=device
    )
    results = results_section(samples, _load_untrained(run, module), spec, device)
    return _Embedded(samples, sections=_label_sections(samples, [results]))


def _load_untrained(run: Run, module: nn.Module | None) -> nn.Module | None:
    try:
        return load_encoder(run.folder, copy.deepcopy(module), initial=True)[0]
    except UserError:
        return None


def _label_sections(samples: Samples, results: list[Section]) -> list[Section]:
    names = ("Confusion of classes", "Suspected wrong labels")
    if not results:
        reason = "retrieval is measured on pairs; sogclr evaluate classifies images by sentences"
        results = [Section("Results", missing=reason)]
    if samples.labels is None:
        return [*results, *(Section(name, missing=NO_LABELS) for name in names)]
    labelled = LabelledSamples(samples)
    return [*results, labelled.confusion_section(), suspects_section(samples)]
