"""Embed a whole data set by a run, and collect all findings."""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from ...common.errors import UserError
from ...data.image_source import ImageSource
from ...data.pair_source import PairSource
from ...data.texts import Texts
from ...distributed.device import loader_workers
from ...runs.folder import Run, is_pair_run
from ...runs.load import load_encoder
from ...runs.stored_samples import StoredSamples, read_known_samples
from ...runs.towers import load_pairs
from ..embed_images import embed_images
from ..embed_pairs import embed_side
from ..pages.pair_samples import PairSamples, join_samples
from ..pages.samples import Samples
from .find import find_crowded, find_duplicates, find_outliers
from .find_mistakes import Mistakes, find_misfit_texts, find_wrong_labels
from .finding import Finding, Kind

__all__ = ["Collected", "collect_findings", "embed_all"]

FEWEST = 3  # samples


@dataclass(frozen=True)
class Collected:
    """The findings of a data set.

    Attributes:
        findings: by kind, the clearest first.
        left_out: why a kind is not listed.
    """

    findings: list[Finding]
    left_out: dict[Kind, str]


def embed_all(
    run: Run,
    source: ImageSource | PairSource,
    *,
    module: nn.Module | None,
    device: str,
    workers: int | None,
) -> Samples | PairSamples:
    """Embed all samples of a data set that can be read.

    Args:
        run: the run.
        source: images, or pairs for a run of `align`.
        module: the user's own encoder, which stays as it is; or None.
        device: "cpu", "cuda" or "mps".
        workers: number of loader processes; None to derive it.

    Raises:
        UserError: the data is of another kind than that of the run, or hardly any can be read.
    """
    stored = read_known_samples(run)
    if is_pair_run(run.folder):
        samples = _embed_with_towers(run, source, stored, module, device)
    elif isinstance(source, PairSource):
        raise UserError("data: the run was trained on images alone; give images")
    else:
        encoder, spec = load_encoder(run.folder, copy.deepcopy(module))
        processes = loader_workers(source.local, device, workers)
        found = embed_images(encoder.to(device), source, spec, device=device, workers=processes)
        samples = _as_samples(source, found.indices, found.vectors, stored.get(""))
    side = samples.a if isinstance(samples, PairSamples) else samples
    if len(side) < FEWEST:
        raise UserError(f"data: {len(side):,} samples can be read; at least {FEWEST} are needed")
    return samples


def _embed_with_towers(
    run: Run,
    source: ImageSource | PairSource,
    stored: dict[str, StoredSamples],
    module: nn.Module | None,
    device: str,
) -> Samples | PairSamples:
    encoder = load_pairs(run.folder, copy.deepcopy(module)).to(device)

    def embed(side: ImageSource | Texts, name: str) -> Samples:
        vectors = embed_side(encoder, side)
        readable = np.flatnonzero(~np.isnan(vectors[:, 0]))
        return _as_samples(side, readable, vectors[readable], stored.get(name))

    if isinstance(source, ImageSource):
        return embed(source, "a")
    if source.kinds != encoder.spec.kinds:
        kinds = " and ".join(encoder.spec.kinds)
        raise UserError(f"data: the run was trained on {kinds}, this is another kind of pairs")
    return join_samples(source, embed(source.a, "a"), embed(source.b, "b"))


def _as_samples(
    source: ImageSource | Texts, rows: np.ndarray, vectors: np.ndarray, stored: Any
) -> Samples:
    units = normalize(torch.from_numpy(vectors).float(), dim=1).numpy()
    return Samples(source, rows, units, stored)


def collect_findings(samples: Samples | PairSamples, method: str) -> Collected:
    """Look for all kinds of findings.

    Args:
        samples: embedded images, or pairs.
        method: the method of the run; only "sogclr" keeps log u.
    """
    sides = _name_sides(samples)
    name, first = next(iter(sides.items()))
    left_out: dict[Kind, str] = {}
    findings = find_duplicates(first, name)
    mistakes: dict[Kind, Mistakes] = {"label": find_wrong_labels(first)}
    if isinstance(samples, PairSamples):
        mistakes["caption"] = find_misfit_texts(samples)
    else:
        mistakes["caption"] = Mistakes([], "the data has no texts")
    for kind, found in mistakes.items():
        findings += found.findings
        if found.not_judged:
            left_out[kind] = found.not_judged
    for find in (find_outliers, find_crowded):
        for side in sides:
            findings += find(sides[side], side)
    if not any(_knows_log_u(side) for side in sides.values()):
        left_out["crowded"] = "the run was trained on none of these samples, by their names"
        if method != "sogclr":
            left_out["crowded"] = f"{method} keeps no number for each sample; sogclr does"
    return Collected(findings, left_out)


def _name_sides(samples: Samples | PairSamples) -> dict[str, Samples]:
    return {"a": samples.a, "b": samples.b} if isinstance(samples, PairSamples) else {"": samples}


def _knows_log_u(samples: Samples) -> bool:
    return samples.all_log_u is not None and bool(np.isfinite(samples.all_log_u).any())
