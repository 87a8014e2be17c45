"""From a million vectors on, compare a query with the likely ones: an index of faiss, kept on disk.

The index is made of the vectors of a run, which may be a stranger's, so it is never read from the
run: reading an index is not safe against damage that is meant. It is in the user's cache, under a
digest of the vectors.
"""

import shutil
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from ...common.cache import cache_folder
from ...common.console import say, track
from ...common.errors import one_line
from ...common.whole_files import remove_leftovers, replace_file
from .exact_index import BLOCK, ExactIndex, Hits

__all__ = ["APPROXIMATE_FROM", "ApproximateIndex", "open_index"]

APPROXIMATE_FROM = 1_000_000  # vectors; fewer are compared in tenths of a second at most
SHARE_SEARCHED = 8  # one list in eight is searched
VECTORS_PER_CENTROID = 64  # to learn the centroids from
ROUNDS = 10  # of k-means; more hardly change what is found
CANDIDATES = 8  # times as many as asked for are compared again, without rounding


class ApproximateIndex(ExactIndex):
    """Vectors in lists by their nearest centroid, of which only the likely ones are searched.

    The lists hold the vectors in eight bits a number, mapped from the file. The best candidates are
    compared again with the vectors themselves, so that similarities are exact. Some rows alone are
    searched exactly.

    Args:
        vectors: as of `ExactIndex`.
    """

    is_exact = False

    def __init__(self, vectors: np.ndarray) -> None:
        super().__init__(vectors)
        self._lists = self._open()

    def nearest(self, query: np.ndarray, count: int, rows: np.ndarray | None = None) -> Hits:
        if rows is not None:
            return super().nearest(query, count, rows)
        candidates = min(len(self), count * CANDIDATES)
        _, found = self._lists.search(query[None].astype(np.float32), candidates)
        return super().nearest(query, count, np.sort(found[0][found[0] >= 0]))

    def _open(self) -> Any:
        """Open the lists from the cache, or make them and keep them there."""
        import faiss

        target = cache_folder() / "indexes" / f"{_digest(self.vectors)}-{faiss.__version__}.faiss"
        lists = None if target.is_file() else self._build()
        if lists is not None and not _store(lists, target):
            return _prepare(lists)
        return _prepare(faiss.read_index(str(target), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY))

    def _build(self) -> Any:
        """Learn the centroids from samples of the vectors, and put all vectors into lists."""
        import faiss

        say(f"making an index of {len(self):,} vectors, once for these vectors")
        readable = np.flatnonzero(~np.isnan(self._scale))
        centroids = max(1, int(len(readable) ** 0.5))
        lists: Any = faiss.index_factory(
            self.vectors.shape[1], f"IVF{centroids},SQ8", faiss.METRIC_INNER_PRODUCT
        )
        lists.cp.niter, lists.cp.min_points_per_centroid = ROUNDS, 1
        step = max(1, len(readable) // (centroids * VECTORS_PER_CENTROID))
        lists.train(self._units(readable[::step]))
        parts = [readable[start : start + BLOCK] for start in range(0, len(readable), BLOCK)]
        for part in track(parts, "making the index", total=len(parts)):
            lists.add_with_ids(self._units(part), part)
        return lists

    def _units(self, rows: np.ndarray) -> np.ndarray:
        return self.vectors[rows] * self._scale[rows, None]


def open_index(vectors: np.ndarray) -> ExactIndex:
    """Choose and open the index of vectors, and say why where it matters.

    Args:
        vectors: as of `ExactIndex`.
    """
    if len(vectors) < APPROXIMATE_FROM:
        return ExactIndex(vectors)
    try:
        import faiss  # noqa: F401 (is it installed?)
    except ImportError:
        say(
            f"{len(vectors):,} vectors are searched one by one, since faiss is not installed "
            "(pip install faiss-cpu; not on a Mac, where it crashes beside torch)"
        )
        return ExactIndex(vectors)
    return ApproximateIndex(vectors)


def _prepare(lists: Any) -> Any:
    lists.nprobe = max(1, -(-lists.nlist // SHARE_SEARCHED))
    lists.parallel_mode = 1  # the lists of one query are searched by several threads
    return lists


def _digest(vectors: np.ndarray) -> str:
    digest = blake2b(str(vectors.shape).encode(), digest_size=12)
    for start in range(0, len(vectors), BLOCK):
        digest.update(vectors[start : start + BLOCK].tobytes())
    return digest.hexdigest()


def _store(lists: Any, target: Path) -> bool:
    """Write the lists to a file; a full or read-only disk is reported, but is no error."""
    import faiss

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent, lambda name: name.endswith(".faiss"))
        if shutil.disk_usage(target.parent).free < 2 * lists.ntotal * (lists.d + 8):
            raise OSError("the disk is nearly full")
        replace_file(target, lambda path: faiss.write_index(lists, str(path)))
    except (OSError, RuntimeError) as error:
        say(f"the index is not kept ({one_line(error)})")
        return False
    return True
