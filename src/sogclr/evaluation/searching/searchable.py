"""Open the samples of a run's data for a search, embedded by the run's model."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import normalize

from ...common.errors import UserError
from ...common.options import Device
from ...data.image_source import NO_LABEL, ImageSource
from ...data.open_pairs import open_samples
from ...data.pair_source import PairSource
from ...data.tar.urls import is_url
from ...data.texts import Texts, UnreadableTextError
from ...distributed.device import choose_device, loader_workers
from ...models.encoders import EncoderSpec
from ...models.image_encoder import ImageEncoder
from ...models.pair_encoder import PairEncoder
from ...models.tower_features import stored_embeddings
from ...planning.settings_pairs import PairSettings
from ...runs.folder import Run, is_pair_run
from ...runs.load import load_encoder
from ...runs.resume import read_resolved
from ...runs.towers import load_pairs
from ..embed_images import embed_images
from ..embed_pairs import embed_side
from .approximate_index import open_index
from .exact_index import ExactIndex, Hits

__all__ = ["Searchable", "open_searchable"]

Encoder = ImageEncoder | PairEncoder


@dataclass(frozen=True)
class Searchable:
    """Samples that are searched, and the model that embeds queries.

    Attributes:
        encoder: the model of the run.
        side: images, or the second texts of pairs.
        about: one line on the data.
        index: the vectors of the samples.
        pairs: the pairs that the images are from; None for images alone and for texts.
    """

    encoder: Encoder
    side: ImageSource | Texts
    about: str
    index: ExactIndex
    pairs: PairSource | None = None

    @property
    def takes_text(self) -> bool:
        """Tell whether a sentence can be searched for."""
        return isinstance(self.encoder, PairEncoder) and "text" in self.encoder.towers

    @property
    def takes_images(self) -> bool:
        """Tell whether a picture can be searched for."""
        return isinstance(self.encoder, ImageEncoder) or "image" in self.encoder.towers

    def encode_text(self, text: str) -> np.ndarray:
        """Return the unit vector `(d,)` of a sentence."""
        assert isinstance(self.encoder, PairEncoder)
        return self.encoder.encode_text([text])[0].cpu().numpy()

    def encode_image(self, image: Image.Image) -> np.ndarray:
        """Return the unit vector `(d,)` of a picture."""
        return normalize(self.encoder.encode_image([image])[0], dim=0).cpu().numpy()

    def nearest(
        self,
        query: np.ndarray,
        count: int,
        *,
        label: int | None = None,
        without: int | None = None,
    ) -> Hits:
        """Find the samples nearest to a query.

        Args:
            query: unit vector `(d,)`.
            count: number of samples; fewer if there are not as many.
            label: label that they must have.
            without: row that is left out, such as that of the query itself.
        """
        rows = None if label is None else self.rows_with(label)
        if without is None:
            return self.index.nearest(query, count, rows)
        hits = self.index.nearest(query, count + 1, rows)
        kept = hits.rows != without
        return Hits(hits.rows[kept][:count], hits.similarity[kept][:count])

    def rows_with(self, label: int) -> np.ndarray:
        """Return the rows of the samples with a label, in ascending order."""
        labels = getattr(self.side, "labels", None)
        return np.flatnonzero(labels == label) if labels is not None else np.empty(0, dtype=int)

    @cached_property
    def labels(self) -> list[tuple[str, int]]:
        """Return the name of each label, and how many samples have it; [] without labels."""
        classes, labels = getattr(self.side, "classes", None), getattr(self.side, "labels", None)
        if classes is None or labels is None:
            return []
        counts = np.bincount(labels[labels != NO_LABEL], minlength=len(classes))
        return list(zip(classes, counts.tolist(), strict=True))

    def label_of(self, row: int) -> str:
        """Return the name of a sample's label; "" if it has none."""
        labels = getattr(self.side, "labels", None)
        if labels is None or not self.labels or labels[row] == NO_LABEL:
            return ""
        return self.labels[labels[row]][0]

    def name_of(self, row: int) -> str:
        """Return the file name of an image, or the text itself."""
        with suppress(UnreadableTextError):
            return self.side.texts[row] if isinstance(self.side, Texts) else self.side.names[row]
        return self.side.names[row]

    def captions_of(self, row: int) -> list[str]:
        """Return the captions of an image; [] if it has none, or none that can be read."""
        if self.pairs is None:
            return []
        found = list[str]()
        for partner in self.pairs.partners[slice(*self.pairs.start[row : row + 2])].tolist():
            with suppress(UnreadableTextError):
                found.append(self.pairs.b.texts[partner])
        return found


def open_searchable(
    run: str | Path,
    data: Any,
    columns: str | Sequence[str] | None,
    module: nn.Module | None,
    device: Device,
) -> Searchable:
    """Open a run and its data, and embed the data unless the run has its vectors already.

    Args:
        run: folder of the run.
        data: images, or pairs, of which the images or the second texts are searched; None for the
            data that the run was trained on.
        columns: names of the columns of a table, or None.
        module: the user's own encoder or image tower, or None.
        device: device to compute on.

    Raises:
        UserError: the run or the data cannot be opened, or do not fit each other.
    """
    files = Run(run)
    is_pairs = is_pair_run(run)
    encoder: Encoder = load_pairs(run, module) if is_pairs else _load_images(run, module)
    source = _open_data(files, data, columns, is_pairs)
    pairs = source if isinstance(source, PairSource) else None
    side = source if isinstance(source, ImageSource) else _searched_side(source)
    if not is_pairs and isinstance(side, Texts):
        raise UserError("data: the run was trained on images alone; give images")
    encoder = encoder.to(choose_device(device))
    vectors = stored_embeddings(
        files.trained if is_pairs else files.encoder,
        files.embeddings,
        side,
        lambda: _embed(encoder, side),
    )
    index = open_index(vectors)
    shown = None if isinstance(side, Texts) else pairs
    return Searchable(encoder, side, source.describe(), index, shown)


def _load_images(run: str | Path, module: nn.Module | None) -> ImageEncoder:
    model, spec = load_encoder(run, module)
    return ImageEncoder(model, spec)


def _open_data(files: Run, data: Any, columns: Any, is_pairs: bool) -> ImageSource | PairSource:
    """Open the data that was given, or else what the run was trained on."""
    if data is None:
        settings = files.read_settings()
        data = settings.get("data")
        if is_pairs and columns is None:
            columns = read_resolved(settings, PairSettings).columns
        if not isinstance(data, str) or is_url(data):
            what = "a stream" if isinstance(data, str) else "data in memory"
            raise UserError(f"data: the run was trained on {what}; name data on this machine")
    return open_samples(data, columns)


def _searched_side(source: PairSource) -> ImageSource | Texts:
    return source.a if isinstance(source.a, ImageSource) else source.b


def _embed(encoder: Encoder, side: ImageSource | Texts) -> np.ndarray:
    """Compute the vectors `(n, d)` of a side; NaN for images that cannot be read."""
    if isinstance(encoder, PairEncoder):
        return embed_side(encoder, side)
    assert isinstance(side, ImageSource)
    return _embed_images(encoder.encoder, encoder.spec, side)


def _embed_images(encoder: nn.Module, spec: EncoderSpec, side: ImageSource) -> np.ndarray:
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    workers = loader_workers(side.local, device.type, None)
    found = embed_images(encoder, side, spec, device=device, workers=workers)
    if not len(found.indices):
        raise UserError("data: none of the images can be read")
    vectors = np.full((len(side), found.vectors.shape[1]), np.nan, dtype=np.float32)
    vectors[found.indices] = found.vectors
    return vectors
