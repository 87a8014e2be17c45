"""Place embeddings in a plane, so that similar samples are near each other."""

import warnings
from importlib.util import find_spec

import numpy as np

__all__ = ["Plane", "place_in_plane"]

COMPONENTS = 50  # of PCA before t-SNE, which removes noise and saves time
MOST_BY_TSNE = 10_000  # samples, some minutes; the time grows faster than their number
UMAP_ADVICE = "pip install 'sogclr[map]' for UMAP, which places many samples faster"


class Plane:
    """Places of n samples in a plane.

    Args:
        places: `(n, 2)` float32.
        method: name of the method that computed them.
        advice: what would place them better or faster; "" if nothing is known.
    """

    def __init__(self, places: np.ndarray, method: str, advice: str = "") -> None:
        self.places, self.method, self.advice = places, method, advice


def place_in_plane(vectors: np.ndarray) -> Plane:
    """Place unit vectors in a plane by UMAP if umap-learn is installed, else by t-SNE.

    Fewer than ten samples, and without UMAP more than 10,000, are placed by their two principal
    components. The same vectors get the same places.

    Args:
        vectors: `(n, d)` unit vectors, n of at least 1. Some thousand take t-SNE half a minute.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    n, width = vectors.shape
    if (vectors == vectors[0]).all():  # scikit-learn would divide by their variance, 0
        return Plane(np.zeros((n, 2), dtype=np.float32), "PCA")
    components = min(COMPONENTS, n, width)
    reduced = PCA(components, random_state=0).fit_transform(vectors.astype(np.float64))
    by_pca = np.pad(reduced, ((0, 0), (0, 2)))[:, :2].astype(np.float32)
    if n < 10 or components < 2:
        return Plane(by_pca, "PCA")
    if find_spec("umap") is not None:
        return Plane(_place_by_umap(vectors), "UMAP")
    if n > MOST_BY_TSNE:
        return Plane(by_pca, "PCA", f"t-SNE takes too long; {UMAP_ADVICE}")
    # Scaled to unit variance as scikit-learn does for init="pca", which would compute PCA again.
    start = (reduced[:, :2] / max(float(reduced[:, 0].std()), 1e-12) * 1e-4).astype(np.float32)
    perplexity = min(30.0, (n - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init=start, random_state=0, max_iter=500)
    return Plane(tsne.fit_transform(reduced.astype(np.float32)), "t-SNE", UMAP_ADVICE)


def _place_by_umap(vectors: np.ndarray) -> np.ndarray:
    import umap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a fixed random state costs threads
        neighbours = min(15, len(vectors) - 1)
        model = umap.UMAP(n_neighbors=neighbours, metric="cosine", random_state=0)
        return np.asarray(model.fit_transform(vectors), dtype=np.float32)
