"""`sogclr.embed`: write the vectors of a data set to a file that other tools read."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from ..common.console import say
from ..common.errors import UserError
from ..common.options import Device
from ..common.whole_files import remove_leftovers
from ..data.image_source import ImageSource
from ..data.open_images import open_images
from ..data.open_pairs import are_pairs, open_pairs
from ..data.texts import Texts
from ..distributed.launch import choose_device, loader_workers
from ..evaluation.embed_images import embed_images
from ..evaluation.embed_pairs import embed_side
from ..runs.folder import is_pair_run
from ..runs.load import load_encoder
from ..runs.stored import atomically
from ..runs.towers import load_pairs
from .early_checks import require_unused

__all__ = ["Embeddings", "embed"]


@dataclass(frozen=True)
class Embeddings:
    """The result of `sogclr.embed`, as it was written; samples that cannot be read are missing.

    Attributes:
        ids: `(n,)` uint64 sample ids.
        names: n file names; of texts, the texts themselves.
        vectors: `(n, d)` float32; unit vectors for a run of `align`.
        sides: for pairs, n times "a" or "b"; None for a single kind of data.
    """

    ids: np.ndarray
    names: list[str]
    vectors: np.ndarray
    sides: list[str] | None = None


def embed(
    run: str | Path,
    data: Any,
    out: str | Path,
    columns: str | Sequence[str] | None,
    module: nn.Module | None,
    device: Device,
    workers: int | None,
) -> Embeddings:
    """See `sogclr.embed`."""
    target = Path(out)
    _require_writable(target)
    is_pair = is_pair_run(run)
    if columns is not None and not (is_pair and are_pairs(data)):
        what = "these data are images" if is_pair else f"{run} was trained on images alone"
        require_unused({"columns": columns}, what)
    remove_leftovers(target.parent, target.name.__eq__)
    if is_pair:
        embeddings = _embed_pairs(run, data, columns, module, device)
    else:
        embeddings = _embed_images(run, data, module, device, workers)
    write = _write_parquet if target.suffix == ".parquet" else _write_npz
    advice = "make room on the disk, or name another --out"
    atomically(target, lambda path: write(path, embeddings), advice)
    count, width = embeddings.vectors.shape
    say(f"wrote {count:,} vectors of width {width} to {target}")
    return embeddings


def _require_writable(target: Path) -> None:
    """Raise UserError before hours of embedding if the file cannot be written after them."""
    if target.suffix not in (".npz", ".parquet"):
        raise UserError(f"--out: {target} must end in .npz or .parquet")
    if target.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401 (is it installed?)
        except ImportError:
            raise UserError(
                "--out: .parquet needs pyarrow: pip install 'sogclr[parquet]'; or use .npz"
            ) from None
    if not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        raise UserError(f"--out: the folder {target.parent} does not exist or cannot be written to")
    if target.is_dir():
        raise UserError(f"--out: {target} is a folder; name a file")


def _embed_images(
    run: str | Path, data: Any, module: nn.Module | None, device: Device, workers: int | None
) -> Embeddings:
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
    names = [source.names[index] for index in embedded.indices]
    return Embeddings(source.ids[embedded.indices], names, embedded.vectors)


def _embed_pairs(
    run: str | Path,
    data: Any,
    columns: str | Sequence[str] | None,
    module: nn.Module | None,
    device: Device,
) -> Embeddings:
    encoder = load_pairs(run, module).to(choose_device(device))
    parts: list[tuple[str, ImageSource | Texts]]
    if are_pairs(data):
        source = open_pairs(data, columns)
        say(source.describe())
        parts = [("a", source.a), ("b", source.b)]
    else:
        images = open_images(data)
        say(images.describe())
        parts = [("a", images)]
    ids, names, vectors, sides = [], [], [], []
    for name, side in parts:
        units = normalize(torch.from_numpy(embed_side(encoder, side)), dim=1).numpy()
        readable = np.flatnonzero(~np.isnan(units[:, 0]))
        side_names = side.texts if isinstance(side, Texts) else side.names
        ids.append(side.ids[readable])
        names += [side_names[index] for index in readable.tolist()]
        vectors.append(units[readable])
        sides += [name] * len(readable)
    return Embeddings(
        np.concatenate(ids), names, np.concatenate(vectors), sides if len(parts) > 1 else None
    )


def _write_npz(path: Path, embeddings: Embeddings) -> None:
    sides: dict[str, Any] = {}
    if embeddings.sides is not None:
        sides["side"] = np.array(embeddings.sides)
    with path.open("wb") as file:  # For a path without .npz, NumPy would write another file.
        np.savez(
            file,
            ids=embeddings.ids,
            paths=np.array(embeddings.names),
            vectors=embeddings.vectors,
            **sides,
        )


def _write_parquet(path: Path, embeddings: Embeddings) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Names of files may have bytes that are no UTF-8, which Parquet cannot store.
    names = [name.encode(errors="backslashreplace").decode() for name in embeddings.names]
    flat = pa.array(embeddings.vectors.reshape(-1))
    columns = {
        "id": pa.array(embeddings.ids),
        "path": pa.array(names),
        "vector": pa.FixedSizeListArray.from_arrays(flat, embeddings.vectors.shape[1]),
    }
    if embeddings.sides is not None:
        columns["side"] = pa.array(embeddings.sides)
    pq.write_table(pa.table(columns), path)
