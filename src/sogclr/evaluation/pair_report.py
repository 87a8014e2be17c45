"""`sogclr.evaluate` of a run on pairs: retrieval, zero-shot classification, sentence similarity."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from rich.table import Table as Printed
from torch import nn

from ..common.console import result, say
from ..common.errors import UserError
from ..common.options import Device, PairProtocol
from ..data.image_source import ImageSource
from ..data.open_images import open_source
from ..data.open_pairs import are_pairs, open_pairs
from ..data.pair_source import PairSource
from ..data.tables.read import Table, is_table, read_table
from ..data.texts import Texts
from ..distributed.launch import choose_device
from ..models.tower_features import cached_features, compute_features, plain_inputs
from ..models.tower_inputs import StoredFeatures
from ..runs.towers import PairEncoder, load_pairs
from .retrieval import Direction, Retrieval, retrieval

__all__ = ["PairReport", "embed_side", "evaluate_pairs"]

# CLIP's short list: their mean is nearly as good as its eighty.
TEMPLATES = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)


@dataclass(frozen=True)
class PairReport:
    """What was measured; None where it was not asked for.

    Attributes:
        retrieval: in both directions.
        zero_shot: accuracy in [0, 1].
        sts: Spearman's rank correlation of cosine similarities with the scores.
    """

    retrieval: Retrieval | None = None
    zero_shot: float | None = None
    sts: float | None = None
    classes: list[str] = field(default_factory=list)


def evaluate_pairs(
    run: Any,
    data: Any,
    protocol: str | tuple[str, ...] | None,
    module: nn.Module | None,
    device: Device,
    columns: str | None,
    templates: str | None,
) -> PairReport:
    """See `sogclr.evaluate`."""
    chosen = _protocol(data, protocol)
    encoder = load_pairs(run, module).to(choose_device(device))
    if chosen == "zero-shot":
        return _zero_shot(encoder, open_source(data), templates)
    if chosen == "sts":
        return _sts(encoder, data, columns)
    source = open_pairs(data, columns)
    say(source.describe())
    _same_kinds(encoder, source)
    a, b = (embed_side(encoder, side) for side in (source.a, source.b))
    found = retrieval(a, b, source)
    result(_retrieval_table(found, source))
    return PairReport(retrieval=found)


def embed_side(encoder: PairEncoder, side: ImageSource | Texts) -> np.ndarray:
    """Embeddings of one side in the joint space, `(n, d)`; NaN in rows that cannot be read."""
    kind = "text" if isinstance(side, Texts) else "image"
    if kind not in encoder.towers:
        raise UserError(
            f"data: the run was trained on {encoder.spec.kinds}, it has no {kind} tower"
        )
    spec = encoder.spec
    tower: Any = encoder.towers[kind]
    device = next(tower.parameters()).device
    what = f"embedding {len(side):,} {kind}s"
    if kind in spec.frozen:  # perhaps training has computed them
        found = cached_features(tower.body, kind, side, spec, encoder.tokenizer, device)
        return compute_features(tower.head, side, StoredFeatures(found, side.names), device)
    inputs = plain_inputs(side, spec, encoder.tokenizer)
    return compute_features(lambda x: tower(x)[1], side, inputs, device, what=what)


def _protocol(data: Any, asked: str | tuple[str, ...] | None) -> PairProtocol:
    """One protocol: what was asked for, or what the data is made for."""
    names = asked.split(",") if isinstance(asked, str) else list(asked or ())
    known: dict[str, PairProtocol] = {
        "retrieval": "retrieval",
        "zero-shot": "zero-shot",
        "sts": "sts",
    }
    if len(names) > 1 or (names and names[0] not in known):
        raise UserError(
            f"protocol: {','.join(names)!r} does not fit a run on pairs; give one of "
            f"{', '.join(known)}"
        )
    if names:
        return known[names[0]]
    if not are_pairs(data):
        return "zero-shot"
    scored = is_table(data) and "score" in read_table(data).columns
    return "sts" if scored else "retrieval"


def _zero_shot(encoder: PairEncoder, source: ImageSource, templates: str | None) -> PairReport:
    """Images to the class whose name, in the mean over templates, is nearest.

    Radford et al., ICML 2021, section 3.1.4.
    """
    if source.labels is None or source.classes is None:
        raise UserError(f"data: {source.describe()}: no labels; put each class in a sub-folder")
    chosen = TEMPLATES if templates is None else tuple(templates.split("|"))
    for template in chosen:
        if "{}" not in template:
            raise UserError(f"templates: {template!r} has no {{}} where the name of a class goes")
    names = [name.replace("_", " ") for name in source.classes]
    prototypes = torch.stack(
        [encoder.encode_text([t.replace("{}", name) for t in chosen]).mean(dim=0) for name in names]
    )  # (classes, d)
    images = torch.from_numpy(embed_side(encoder, source))
    readable = ~images[:, 0].isnan()
    predicted = (images[readable] @ nn.functional.normalize(prototypes, dim=1).cpu().T).argmax(
        dim=1
    )
    accuracy = float((predicted == torch.from_numpy(source.labels)[readable]).double().mean())
    result(
        f"zero-shot accuracy {accuracy:.2%} of {len(predicted):,} images in {len(names)} classes"
    )
    return PairReport(zero_shot=accuracy, classes=names)


def _sts(encoder: PairEncoder, data: Any, columns: str | None) -> PairReport:
    from scipy.stats import spearmanr

    table = read_table(data)
    if "score" not in table.columns:
        raise UserError(
            f"data: {table.name} has no column score; it has {', '.join(table.columns)}"
        )
    source = open_pairs(data, columns)
    if source.kinds[0] == "image":
        raise UserError(f"data: {source.name} holds images; sts is for two texts, try retrieval")
    first, second, scores = _scored(table, source.columns)
    a, b = (torch.from_numpy(embed_side(encoder, Texts(texts))) for texts in (first, second))
    correlation = float(spearmanr(torch.cosine_similarity(a, b).numpy(), scores).statistic)
    result(f"Spearman correlation {correlation:.4f} over {len(scores):,} pairs")
    return PairReport(sts=correlation)


def _scored(table: Table, columns: tuple[str, str]) -> tuple[list[str], list[str], list[float]]:
    """Of all rows with two texts: these, and their scores."""
    first, second, scores = [], [], []
    values = (table.columns[name] for name in (*columns, "score"))
    for row, one, other, score in zip(table.rows, *values, strict=True):
        if not all(isinstance(text, str) and text.strip() for text in (one, other)):
            continue
        first.append(" ".join(one.split()))
        second.append(" ".join(other.split()))
        try:
            scores.append(float(score))
        except (TypeError, ValueError):
            raise UserError(
                f"data: the score in row {row} of {table.name} is not a number: {score!r}"
            ) from None
    return first, second, scores


def _same_kinds(encoder: PairEncoder, source: PairSource) -> None:
    if source.kinds != encoder.spec.kinds:
        raise UserError(
            f"data: {source.name} pairs {' and '.join(source.kinds)}, "
            f"the run was trained on {' and '.join(encoder.spec.kinds)}"
        )


def _retrieval_table(found: Retrieval, source: PairSource) -> Printed:
    table = Printed()
    table.add_column("retrieval")
    for name in ("R@1", "R@5", "R@10", "median rank", "queries"):
        table.add_column(name, justify="right")
    a, b = source.columns
    for name, direction in ((f"{a} to {b}", found.a_to_b), (f"{b} to {a}", found.b_to_a)):
        table.add_row(name, *_cells(direction))
    table.caption = f"sum of the six recalls: {found.total:.1f}"
    return table


def _cells(direction: Direction) -> list[str]:
    recalls = [f"{value:.1%}" for value in direction.recall.values()]
    return [*recalls, f"{direction.median_rank:g}", f"{direction.queries:,}"]
