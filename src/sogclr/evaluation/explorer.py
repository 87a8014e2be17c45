"""Compute what a browser of embeddings shows beside vectors: neighbours, places, thumbnails."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from ..common.console import track
from ..data.image_source import ImageSource
from ..data.texts import Texts
from ..runs.stored_samples import StoredSamples
from .findings.neighbours import Neighbours, nearest_neighbours
from .findings.plane import Plane, place_in_plane
from .pages.thumbnails import SIDE, SMALL, tile_image

__all__ = ["EmbeddedSide", "Explorer", "explore"]

NEIGHBOURS = 15
MOST = 100_000  # samples: neighbours of a million would take two cores hours
QUALITY = 80  # of JPEG


@dataclass(frozen=True)
class EmbeddedSide:
    """The embedded samples of one side of the data.

    Attributes:
        name: "a" or "b".
        source: all samples.
        rows: `(m,)` int64, which of them were embedded.
        stored: what the run knows of its samples on this side; None if that cannot be read.
    """

    name: str
    source: ImageSource | Texts
    rows: np.ndarray
    stored: StoredSamples | None = None

    @property
    def log_u(self) -> np.ndarray:
        """Return log u of the embedded samples `(m,)`, NaN where the run has none."""
        found = None if self.stored is None else self.stored.log_u_of(self.source.ids[self.rows])
        if found is None:
            return np.full(len(self.rows), np.nan)
        return np.where(np.isfinite(found), found, np.nan)


@dataclass(frozen=True)
class Explorer:
    """The columns that a browser of embeddings shows of n samples, beside their vectors.

    Attributes:
        thumbnails: for each sample an image file, PNG or JPEG; None for texts and for images that
            cannot be read. None if there are no images.
        log_u: `(n,)`, NaN for samples that the run does not know; None if it knows none of them.
        neighbours: the nearest other samples of all sides; None if there are too many samples.
        plane: a place for each sample; None if there are too many samples.
        notes: what was left out, and how to get more, to be printed.
    """

    thumbnails: list[bytes | None] | None
    log_u: np.ndarray | None
    neighbours: Neighbours | None = None
    plane: Plane | None = None
    notes: list[str] = field(default_factory=list)


def explore(sides: Sequence[EmbeddedSide], vectors: np.ndarray, most: int = MOST) -> Explorer:
    """Compute what a browser of embeddings shows.

    Args:
        sides: the samples, one side behind the other.
        vectors: `(n, d)` their vectors.
        most: largest number of samples for neighbours, places and thumbnails.
    """
    log_u = np.concatenate([side.log_u for side in sides])
    known = log_u if np.isfinite(log_u).any() else None
    n = len(vectors)
    if n > most:
        note = (
            f"left out: neighbours, coordinates and thumbnails, since {n:,} samples are more than "
            f"{most:,}; embed a part of the data to look at"
        )
        return Explorer(None, known, notes=[note])
    thumbnails = None
    if any(isinstance(side.source, ImageSource) for side in sides):
        thumbnails = [file for side in sides for file in _make_thumbnails(side)]
    if n < 2:
        return Explorer(
            thumbnails, known, notes=["left out: neighbours and coordinates of 1 sample"]
        )
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    plane = place_in_plane(vectors / np.maximum(lengths, 1e-12))
    note = f"coordinates by {plane.method}" + (f"; {plane.advice}" if plane.advice else "")
    neighbours = nearest_neighbours(vectors, NEIGHBOURS)
    return Explorer(thumbnails, known, neighbours, plane, [note])


def _make_thumbnails(side: EmbeddedSide) -> list[bytes | None]:
    source = side.source
    if isinstance(source, Texts):
        return [None] * len(side.rows)
    rows = track(side.rows.tolist(), "making thumbnails", total=len(side.rows))
    return [_encode(tile_image(source, row, SIDE)) for row in rows]


def _encode(image: Image.Image | None) -> bytes | None:
    """Encode a thumbnail: one that was enlarged without loss, others as JPEG."""
    if image is None:
        return None
    buffer = io.BytesIO()
    colors = image.getcolors(SMALL**2)
    if colors is None:
        image.save(buffer, format="JPEG", quality=QUALITY)
    else:
        image.save(buffer, format="PNG")
    return buffer.getvalue()
