"""The samples that a page looks at: drawn at random, embedded, within half a minute."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from ...common.errors import shorten
from ...data.batches.schedule import FIRST_UNUSED_EPOCH
from ...data.image_source import NO_LABEL, ImageSource
from ...data.randomness import shuffled
from ...data.texts import Texts, UnreadableTextError
from ...distributed.device import loader_workers
from ...models.encoders import EncoderSpec
from ...runs.stored_samples import StoredSamples
from ..embed_images import embed_images
from ..findings.neighbours import Neighbours, nearest_neighbours
from .page import Thumbnail, Tile
from .thumbnails import make_thumbnail

__all__ = ["SEED", "Samples", "draw_rows", "embed_for_a_while", "embed_image_samples"]

SEED = 0  # the same samples in every report of a data set
NEIGHBOURS = 20
SECONDS = 30.0  # of embedding; a slow encoder embeds fewer samples
AT_ONCE = 512


@dataclass(frozen=True)
class Samples:
    """Embedded samples of one side of the data.

    Attributes:
        source: all samples.
        rows: `(m,)` int64, which of them were embedded.
        vectors: `(m, d)` float32 unit vectors.
        stored: what the run knows of its own samples; None if that cannot be read.
    """

    source: ImageSource | Texts
    rows: np.ndarray
    vectors: np.ndarray
    stored: StoredSamples | None

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def neighbours(self) -> Neighbours:
        """Return the nearest neighbours of each sample among the others."""
        return nearest_neighbours(self.vectors, NEIGHBOURS)

    @property
    def classes(self) -> list[str] | None:
        """Return the names of the labels, if the data has labels."""
        return None if isinstance(self.source, Texts) else self.source.classes

    @cached_property
    def labels(self) -> np.ndarray | None:
        """Return the labels `(m,)`, `NO_LABEL` for a sample without one."""
        if isinstance(self.source, Texts) or self.classes is None or self.source.labels is None:
            return None
        labels = self.source.labels[self.rows]
        return labels if (labels != NO_LABEL).sum() > 1 else None

    @cached_property
    def all_log_u(self) -> np.ndarray | None:
        """Return log u of all samples of the source `(n,)`, NaN for samples unknown to the run."""
        return None if self.stored is None else self.stored.log_u_of(self.source.ids)

    @property
    def were_trained_on(self) -> bool:
        """Tell whether the run was trained on most of these samples."""
        if self.stored is None:
            return False
        known = np.isin(self.source.ids[self.rows], self.stored.ids)
        return bool(known.mean() > 0.5)

    def describe(self) -> str:
        """Say how many samples are looked at."""
        kind = "texts" if isinstance(self.source, Texts) else "images"
        if len(self) == len(self.source):
            return f"all {len(self):,} {kind}"
        return f"{len(self):,} of {len(self.source):,} {kind}, drawn at random"

    def tile(self, position: int, note: str = "", mark: str = "") -> Tile:
        """Make the tile of an embedded sample."""
        return self.tile_of_row(int(self.rows[position]), note, mark)

    def tile_of_row(self, row: int, note: str = "", mark: str = "") -> Tile:
        """Make the tile of any sample of the source."""
        image = None if isinstance(self.source, Texts) else self._thumbnail(row)
        return Tile(self.name_of_row(row), image, note, mark)

    def name_of_row(self, row: int) -> str:
        """Return the path of an image, or the text itself."""
        if isinstance(self.source, Texts):
            with suppress(UnreadableTextError):
                return shorten(self.source.texts[row])
        return self.source.names[row]

    def label_name(self, label: int) -> str:
        """Return the name of a label."""
        return (self.classes or [])[label]

    def _thumbnail(self, row: int) -> Thumbnail:
        assert isinstance(self.source, ImageSource)
        known = self._thumbnails
        if row not in known:
            known[row] = make_thumbnail(self.source, row)
        return known[row]

    @cached_property
    def _thumbnails(self) -> dict[int, Thumbnail]:
        return {}


def draw_rows(ids: np.ndarray, most: int) -> np.ndarray:
    """Draw at most `most` rows of samples with these ids, the same ones each time."""
    return shuffled(SEED, FIRST_UNUSED_EPOCH, ids)[:most]


def embed_for_a_while(
    rows: np.ndarray, embed: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Embed rows, some at a time, until all are done or half a minute is over.

    Args:
        rows: `(m,)` rows in random order.
        embed: embeds some rows; returns those that could be read, and their vectors.

    Returns:
        `(k,)` rows in ascending order, and their unit vectors `(k, d)`; k may be 0.
    """
    started, kept, vectors = time.monotonic(), list[np.ndarray](), list[np.ndarray]()
    for start in range(0, len(rows), AT_ONCE):
        if vectors and time.monotonic() - started > SECONDS:
            break
        readable, features = embed(np.sort(rows[start : start + AT_ONCE]))
        if len(readable):
            kept.append(readable)
            vectors.append(features)
    if not kept:
        return np.empty(0, dtype=np.int64), np.empty((0, 0), dtype=np.float32)
    embedded, stacked = np.concatenate(kept), np.concatenate(vectors)
    order = np.argsort(embedded)
    units = normalize(torch.from_numpy(stacked[order]).float(), dim=1).numpy()
    return embedded[order], units


def embed_image_samples(
    encoder: nn.Module,
    spec: EncoderSpec,
    source: ImageSource,
    stored: StoredSamples | None,
    *,
    most: int,
    device: str,
) -> Samples:
    """Embed at most `most` images by the encoder of a run.

    Args:
        encoder: the encoder, on `device`.
        spec: the input that it expects.
        source: the images.
        stored: the samples that the run knows.
        most: largest number of images.
        device: "cpu", "cuda" or "mps".
    """
    workers = loader_workers(source.local, device, None)

    def embed(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = embed_images(
            encoder, source, spec, rows, device=device, workers=workers, quiet=True
        )
        return found.indices, found.vectors

    rows, vectors = embed_for_a_while(draw_rows(source.ids, most), embed)
    return Samples(source, rows, vectors, stored)
