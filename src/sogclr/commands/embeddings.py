"""The result of `sogclr.embed`, and how it is written: .npz, or Parquet for browsers of embeddings.

Columns and their types are those that Embedding Atlas reads: images as structs of bytes and path,
neighbours as structs of row numbers and distances.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.explorer import Explorer
from ..evaluation.findings.neighbours import Neighbours

__all__ = ["Embeddings", "write_npz", "write_parquet"]


@dataclass(frozen=True)
class Embeddings:
    """The result of `sogclr.embed`, as it was written; samples that cannot be read are missing.

    Attributes:
        ids: `(n,)` uint64 sample ids.
        names: n file names; of texts, the texts themselves.
        vectors: `(n, d)` float32.
        sides: for pairs, n times "a" or "b"; None for a single kind of data.
        labels: n names of labels, "" for a sample without one; None if the data has no labels.
        kinds: n times "image" or "text".
        normalized: whether the vectors were scaled to length 1.
    """

    ids: np.ndarray
    names: list[str]
    vectors: np.ndarray
    sides: list[str] | None
    labels: list[str] | None
    kinds: list[str]
    normalized: bool


def write_npz(path: Path, embeddings: Embeddings) -> None:
    """Write arrays: ids, paths, vectors, normalized; side for pairs, labels if there are any."""
    others: dict[str, Any] = {}
    if embeddings.sides is not None:
        others["side"] = np.array(embeddings.sides)
    if embeddings.labels is not None:
        others["labels"] = np.array(embeddings.labels)
    with path.open("wb") as file:  # For a path without .npz, NumPy would write another file.
        np.savez(
            file,
            ids=embeddings.ids,
            paths=np.array(embeddings.names),
            vectors=embeddings.vectors,
            normalized=np.array(embeddings.normalized),
            **others,
        )


def write_parquet(path: Path, embeddings: Embeddings, explorer: Explorer) -> list[str]:
    """Write a table with a row for each sample; return the names of its columns.

    Args:
        path: the file.
        embeddings: the samples.
        explorer: what browsers of embeddings show beside the vectors.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {}
    names = [_as_utf8(name) for name in embeddings.names]
    for kind, column in (("image", "path"), ("text", "text")):
        if kind in embeddings.kinds:
            pairs = zip(names, embeddings.kinds, strict=True)
            values = [name if each == kind else None for name, each in pairs]
            columns[column] = pa.array(values, pa.string())
    if explorer.thumbnails is not None:
        files = [None if file is None else {"bytes": file} for file in explorer.thumbnails]
        kind_of_image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        columns["image"] = pa.array(files, kind_of_image)
    if embeddings.sides is not None:
        columns["side"] = pa.array(embeddings.sides)
    if embeddings.labels is not None:
        columns["label"] = pa.array([_as_utf8(label) or None for label in embeddings.labels])
    if explorer.log_u is not None:
        columns["log_u"] = pa.array(explorer.log_u, pa.float32(), mask=np.isnan(explorer.log_u))
    if explorer.plane is not None:
        columns["x"], columns["y"] = (pa.array(values) for values in explorer.plane.places.T)
    if explorer.neighbours is not None:
        columns["neighbors"] = _neighbour_structs(explorer.neighbours)
    # Ids are text: browsers show no integers above 2**53, and Embedding Atlas then shows no row.
    columns["id"] = pa.array([str(each) for each in embeddings.ids.tolist()])
    flat = pa.array(embeddings.vectors.reshape(-1))
    columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, embeddings.vectors.shape[1])
    about = json.dumps({"unit vectors": embeddings.normalized})
    pq.write_table(pa.table(columns).replace_schema_metadata({"sogclr": about}), path)
    return list(columns)


def _neighbour_structs(neighbours: Neighbours) -> Any:
    """Return a struct for each row: row numbers and cosine distances, nearest first."""
    import pyarrow as pa

    count, k = neighbours.index.shape
    offsets = np.arange(count + 1, dtype=np.int32) * k
    distances = (1 - neighbours.similarity).clip(min=0)
    lists = [
        pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1)))
        for values in (neighbours.index, distances)
    ]
    return pa.StructArray.from_arrays(lists, ["ids", "distances"])


def _as_utf8(name: str) -> str:
    """Escape bytes that are no UTF-8, which names of files may have and Parquet cannot store."""
    return name.encode(errors="backslashreplace").decode()
