"""`sogclr.embed`: the vectors of a data set, in a file that other tools read."""

import os
from pathlib import Path

import numpy as np
from torch import nn

from .data.source import Data, open_source
from .devices import choose_device
from .errors import UserError
from .evaluation.features import embed_rows
from .planning import loader_workers
from .progress import say
from .runs import load_encoder
from .settings import Device

__all__ = ["embed"]


def embed(
    run: str | Path,
    data: Data,
    out: str | Path,
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
    kind = choose_device(device)
    encoder, spec = load_encoder(run, module)
    source = open_source(data)
    say(source.describe())
    embedding = embed_rows(
        encoder.to(kind),
        source,
        spec,
        device=kind,
        workers=loader_workers(source, kind, workers),
    )
    ids = source.ids[embedding.rows]
    paths = [source.names[row] for row in embedding.rows]
    try:
        _write(target, ids, paths, embedding.vectors)
    except OSError as error:
        raise UserError(f"out: could not write {target} ({error.strerror or error})") from error
    count, width = embedding.vectors.shape
    say(f"wrote {count:,} vectors of width {width} to {target}")


def _write(target: Path, ids: np.ndarray, paths: list[str], vectors: np.ndarray) -> None:
    if target.suffix == ".npz":
        np.savez(target, ids=ids, paths=np.array(paths), vectors=vectors)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    flat = pa.array(vectors.reshape(-1))
    columns = {
        "id": pa.array(ids),
        "path": pa.array(paths),
        "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
    }
    pq.write_table(pa.table(columns), target)


def _require_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401 (only whether it is there, before hours of embedding)
    except ImportError:
        raise UserError(
            "out: .parquet needs pyarrow: pip install 'sogclr[parquet]'; or use .npz"
        ) from None
