"""Choose a part of the samples that still covers all of them."""

from dataclasses import dataclass

import numpy as np

from .neighbours import blocks_of_similarities, nearest_neighbours

__all__ = ["Selection", "choose_covering"]

NEAR = 20  # neighbours by which a sample may be replaced, in each round


@dataclass(frozen=True)
class Selection:
    """The samples that are kept.

    Attributes:
        kept: `(m,)` int64 positions in ascending order.
        covered: `(n,)` float32, cosine similarity of each sample to the nearest kept one; 1 for
            kept samples.
    """

    kept: np.ndarray
    covered: np.ndarray


def choose_covering(
    vectors: np.ndarray, share: float, *, labels: np.ndarray | None = None
) -> Selection:
    """Leave out the samples that others replace best, until a share of the samples remains.

    The most similar pairs come first. Of a pair, the sample with the nearer neighbours is left out,
    and the other one stays for the round: whatever is left out has a very similar sample that is
    kept. Rare samples therefore stay. If most samples are left out, this is repeated.

    Args:
        vectors: `(n, d)` embeddings, normalized here.
        share: how many samples are kept, in (0, 1].
        labels: `(n,)`; a sample only replaces samples with the same label. More samples than
            asked for may then be kept.
    """
    n = len(vectors)
    target = max(1, round(share * n))
    kept = np.arange(n)
    while len(kept) > target:
        stays = _leave_out(
            vectors[kept], None if labels is None else labels[kept], len(kept) - target
        )
        if stays.all():
            break
        kept = kept[stays]
    return Selection(kept, _cover(vectors, kept))


def _leave_out(vectors: np.ndarray, labels: np.ndarray | None, surplus: int) -> np.ndarray:
    """Leave out at most `surplus` samples, and keep a near one for each; `(n,)` bool."""
    near = nearest_neighbours(vectors, NEAR)
    first = np.repeat(np.arange(len(vectors)), near.index.shape[1])
    second, similarity = near.index.ravel(), near.similarity.ravel()
    if labels is not None:
        same = labels[first] == labels[second]
        first, second, similarity = first[same], second[same], similarity[same]
    density = near.similarity.mean(axis=1)
    stays, needed = np.ones(len(vectors), dtype=bool), np.zeros(len(vectors), dtype=bool)
    for pair in np.argsort(-similarity, kind="stable").tolist():
        one, other = int(first[pair]), int(second[pair])
        if not (stays[one] and stays[other]) or (needed[one] and needed[other]):
            continue
        if needed[one] or (not needed[other] and density[one] < density[other]):
            one, other = other, one
        stays[one], needed[other] = False, True
        surplus -= 1
        if not surplus:
            break
    return stays


def _cover(vectors: np.ndarray, kept: np.ndarray) -> np.ndarray:
    covered = np.empty(len(vectors), dtype=np.float32)
    for start, block in blocks_of_similarities(vectors):
        covered[start : start + len(block)] = block[:, kept].amax(dim=1).numpy()
    covered[kept] = 1
    return covered
