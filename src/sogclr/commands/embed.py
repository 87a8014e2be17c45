"""`sogclr.embed`: the vectors of a data set, in a file that other tools read."""

import os
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
from ..data.image_source import ImageSource, open_source
from ..data.pair_source import Texts, are_pairs, open_pairs
from ..distributed.launch import choose_device
from ..evaluation.embed_images import embed_rows
from ..planning.images import loader_workers
from ..runs.folder import is_pair_run
from ..runs.load import load_encoder

__all__ = ["embed"]


@dataclass(frozen=True)
class _Embedded:
    """What is written: `ids` `(n,)`, names, `vectors` `(n, d)`, and of a table, which side each
    row is of."""

    ids: np.ndarray
    names: list[str]
    vectors: np.ndarray
    sides: list[str] | None = None


def embed(
    run: str | Path,
    data: Any,
    out: str | Path,
    columns: str | None,
    module: nn.Module | None,
    device: Device,
    workers: int | None,
) -> None:
    """See `sogclr.embed`."""
    target = Path(out)
    if target.suffix not in (".npz", ".parquet"):
        raise UserError(f"out: {target} must end in .npz or .parquet")
    if target.suffix == ".parquet":
        _require_pyarrow()
    if not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        raise UserError(f"out: the folder {target.parent} does not exist or cannot be written to")
    if is_pair_run(run):
        embedded = _of_pairs(run, data, columns, module, device)
    else:
        embedded = _of_images(run, data, module, device, workers)
    try:
        _write(target, embedded)
    except OSError as error:
        raise UserError(f"out: could not write {target} ({error.strerror or error})") from error
    count, width = embedded.vectors.shape
    say(f"wrote {count:,} vectors of width {width} to {target}")


def _of_images(
    run: str | Path, data: Any, module: nn.Module | None, device: Device, workers: int | None
) -> _Embedded:
    kind = choose_device(device)
    encoder, spec = load_encoder(run, module)
    source = open_source(data)
    say(source.describe())
    embedding = embed_rows(
        encoder.to(kind),
        source,
        spec,
        device=kind,
        workers=loader_workers(source.local, kind, workers),
    )
    names = [source.names[row] for row in embedding.rows]
    return _Embedded(source.ids[embedding.rows], names, embedding.vectors)


def _of_pairs(
    run: str | Path, data: Any, columns: str | None, module: nn.Module | None, device: Device
) -> _Embedded:
    from ..evaluation.pair_report import embed_side
    from ..runs.towers import load_pairs

    encoder = load_pairs(run, module).to(choose_device(device))
    parts: list[tuple[str, ImageSource | Texts]]
    if are_pairs(data):
        source = open_pairs(data, columns)
        say(source.describe())
        parts = [("a", source.a), ("b", source.b)]
    else:
        images = open_source(data)
        say(images.describe())
        parts = [("a", images)]
    ids, names, vectors, sides = [], [], [], []
    for name, side in parts:
        found = normalize(torch.from_numpy(embed_side(encoder, side)), dim=1).numpy()
        rows = np.flatnonzero(~np.isnan(found[:, 0]))
        told = side.texts if isinstance(side, Texts) else side.names
        ids.append(side.ids[rows])
        names += [told[row] for row in rows.tolist()]
        vectors.append(found[rows])
        sides += [name] * len(rows)
    return _Embedded(
        np.concatenate(ids), names, np.concatenate(vectors), sides if len(parts) > 1 else None
    )


def _write(target: Path, embedded: _Embedded) -> None:
    sides = {} if embedded.sides is None else {"side": embedded.sides}
    if target.suffix == ".npz":
        arrays: dict[str, Any] = {name: np.array(values) for name, values in sides.items()}
        np.savez(
            target,
            ids=embedded.ids,
            paths=np.array(embedded.names),
            vectors=embedded.vectors,
            **arrays,
        )
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    flat = pa.array(embedded.vectors.reshape(-1))
    columns = {
        "id": pa.array(embedded.ids),
        "path": pa.array(embedded.names),
        "vector": pa.FixedSizeListArray.from_arrays(flat, embedded.vectors.shape[1]),
        **{name: pa.array(values) for name, values in sides.items()},
    }
    pq.write_table(pa.table(columns), target)


def _require_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401 (only whether it is there, before hours of embedding)
    except ImportError:
        raise UserError(
            "out: .parquet needs pyarrow: pip install 'sogclr[parquet]'; or use .npz"
        ) from None
