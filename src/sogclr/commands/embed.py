"""`sogclr.embed`: write the vectors of a data set to a file that other tools read."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from ..common.console import say
from ..common.options import Device
from ..common.whole_files import remove_leftovers
from ..data.image_source import NO_LABEL, ImageSource
from ..data.open_images import open_images
from ..data.open_pairs import open_samples
from ..data.pair_source import PairSource
from ..data.texts import Texts
from ..distributed.device import choose_device, loader_workers
from ..evaluation.embed_images import embed_images
from ..evaluation.embed_pairs import embed_side
from ..evaluation.explorer import EmbeddedSide, explore
from ..runs.folder import Run, is_pair_run
from ..runs.load import load_encoder
from ..runs.stored import atomically
from ..runs.stored_samples import StoredSamples, read_known_samples
from ..runs.towers import load_pairs
from .early_checks import require_columns_of_pairs, require_table_file
from .embeddings import Embeddings, write_npz, write_parquet

__all__ = ["embed"]

ADVICE = "make room on the disk, or name another --out"


def embed(
    run: str | Path,
    data: Any,
    *,
    out: str | Path,
    scale_to_unit: bool,
    columns: str | Sequence[str] | None,
    module: nn.Module | None,
    device: Device,
    workers: int | None,
) -> Embeddings:
    """See `sogclr.embed`."""
    target = Path(out)
    require_table_file(target, ".npz")
    is_pair = is_pair_run(run)
    require_columns_of_pairs(columns, data, is_pair)
    remove_leftovers(target.parent, target.name.__eq__)
    if is_pair:
        sides, vectors = _embed_pairs(run, data, columns, module, device)
    else:
        sides, vectors = _embed_images(run, data, module, device, workers)
    is_unit = is_pair or scale_to_unit
    if is_unit:
        vectors = normalize(torch.from_numpy(vectors), dim=1).numpy()
    embeddings = _collect(sides, vectors, is_unit)
    if target.suffix == ".parquet":
        _write_table(target, run, sides, embeddings)
    else:
        atomically(target, lambda path: write_npz(path, embeddings), ADVICE)
        _say_written(target, embeddings)
    return embeddings


def _write_table(
    target: Path, run: str | Path, sides: list[EmbeddedSide], embeddings: Embeddings
) -> None:
    """Write a Parquet file, and say how to look at it."""
    stored = _read_stored(Run(run))
    known = [
        EmbeddedSide(side.name, side.source, side.rows, stored.get(side.name)) for side in sides
    ]
    explorer = explore(known, embeddings.vectors)
    written = list[str]()
    atomically(
        target, lambda path: written.extend(write_parquet(path, embeddings, explorer)), ADVICE
    )
    _say_written(target, embeddings)
    for note in explorer.notes:
        say(note)
    say(f"columns: {', '.join(written)}")
    if explorer.plane is not None:
        shown = [f"--{name} {name}" for name in ("x", "y", "neighbors", "image", "text")]
        options = " ".join(option for option in shown if option.split()[1] in written)
        say(f"look at it: embedding-atlas {shlex.quote(str(target))} {options}")


def _say_written(target: Path, embeddings: Embeddings) -> None:
    count, width = embeddings.vectors.shape
    kind = "unit vectors" if embeddings.normalized else "vectors"
    advice = "" if embeddings.normalized else "; --normalize scales them to length 1"
    say(f"wrote {count:,} {kind} of width {width} to {target}{advice}")


def _read_stored(run: Run) -> dict[str, StoredSamples]:
    """Read what the run knows of its samples; images alone are side a."""
    return {side or "a": samples for side, samples in read_known_samples(run).items()}


def _collect(sides: list[EmbeddedSide], vectors: np.ndarray, is_unit: bool) -> Embeddings:
    """Name the samples of all sides."""
    names, kinds, labels = list[str](), list[str](), list[str]()
    has_labels = False
    for side in sides:
        source, rows = side.source, side.rows.tolist()
        kinds += ["text" if isinstance(source, Texts) else "image"] * len(rows)
        every = source.texts if isinstance(source, Texts) else source.names
        names += [every[row] for row in rows]
        if isinstance(source, Texts) or source.labels is None or source.classes is None:
            labels += [""] * len(rows)
            continue
        has_labels = True
        found = source.labels[side.rows].tolist()
        labels += ["" if label == NO_LABEL else source.classes[label] for label in found]
    several = len(sides) > 1
    return Embeddings(
        ids=np.concatenate([side.source.ids[side.rows] for side in sides]),
        names=names,
        vectors=vectors,
        sides=[side.name for side in sides for _ in side.rows] if several else None,
        labels=labels if has_labels else None,
        kinds=kinds,
        normalized=is_unit,
    )


def _embed_images(
    run: str | Path, data: Any, module: nn.Module | None, device: Device, workers: int | None
) -> tuple[list[EmbeddedSide], np.ndarray]:
    """Embed images by the encoder of a run; return the side and its vectors."""
    kind = choose_device(device)
    encoder, spec = load_encoder(run, module)
    source = open_images(data)
    say(source.describe())
    embedded = embed_images(
        encoder.to(kind),
        source,
        spec,
        device=kind,
        workers=loader_workers(source.local, kind, workers),
    )
    return [EmbeddedSide("a", source, embedded.indices)], embedded.vectors


def _embed_pairs(
    run: str | Path,
    data: Any,
    columns: str | Sequence[str] | None,
    module: nn.Module | None,
    device: Device,
) -> tuple[list[EmbeddedSide], np.ndarray]:
    """Embed images or pairs by the towers of a run; return the sides and their vectors."""
    encoder = load_pairs(run, module).to(choose_device(device))
    source = open_samples(data, columns)
    say(source.describe())
    parts: list[tuple[str, ImageSource | Texts]]
    parts = (
        [("a", source.a), ("b", source.b)] if isinstance(source, PairSource) else [("a", source)]
    )
    sides, vectors = list[EmbeddedSide](), list[np.ndarray]()
    for name, side in parts:
        found = embed_side(encoder, side)
        readable = np.flatnonzero(~np.isnan(found[:, 0]))
        sides.append(EmbeddedSide(name, side, readable))
        vectors.append(found[readable])
    return sides, np.concatenate(vectors)
