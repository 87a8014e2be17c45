"""The pairs that a page looks at: images or texts drawn at random, with all their partners."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.decode import UnreadableImageError
from ...data.image_source import ImageSource
from ...data.pair_source import PairSource
from ...data.texts import Texts, UnreadableTextError
from ...models.pair_encoder import PairEncoder
from ...models.tower_features import find_cached_features
from ...runs.stored_samples import StoredSamples
from ..retrieval import rank_first_match
from .samples import Samples, draw_rows, embed_for_a_while

__all__ = ["PairSamples", "embed_pair_samples", "embed_side_samples", "join_samples"]

BATCH = 64  # samples in one forward pass


@dataclass(frozen=True)
class PairSamples:
    """Embedded samples of side a, with all their partners.

    Attributes:
        source: all pairs.
        a: samples of side a.
        b: samples of side b that are partners of these.
        owner: `(p,)` for each pair, the position of its sample in `a`.
        partner: `(p,)` for each pair, the position of its text in `b`.
    """

    source: PairSource
    a: Samples
    b: Samples
    owner: np.ndarray
    partner: np.ndarray

    @cached_property
    def texts(self) -> Tensor:
        """Return the vector of the text of each pair, `(p, d)`."""
        return torch.from_numpy(self.b.vectors[self.partner])

    @cached_property
    def ranks(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the rank of the first match of each sample of a, and of each pair's text."""
        samples, own = torch.from_numpy(self.a.vectors), torch.arange(len(self.a))
        owner = torch.from_numpy(self.owner)
        a_to_b = rank_first_match(samples, self.texts, own, owner)
        b_to_a = rank_first_match(self.texts, samples, owner, own)
        return a_to_b.numpy(), b_to_a.numpy()


def embed_pair_samples(
    encoder: PairEncoder, source: PairSource, stored: dict[str, StoredSamples], *, most: int
) -> PairSamples:
    """Embed samples of side a, and all their partners.

    Args:
        encoder: the towers of the run, on any device.
        source: the pairs, of the kinds that the towers take.
        stored: the samples that the run knows, by side.
        most: four times the largest number of samples of side a: many have several partners.
    """
    a = embed_side_samples(
        encoder, source.a, stored.get("a"), draw_rows(source.a.ids, max(3, most // 4))
    )
    spans = [source.partners[source.start[row] : source.start[row + 1]] for row in a.rows]
    texts = np.unique(np.concatenate(spans)) if spans else np.empty(0, dtype=np.int64)
    mixed = texts[draw_rows(source.b.ids[texts], len(texts))]
    b = embed_side_samples(encoder, source.b, stored.get("b"), mixed)
    return join_samples(source, a, b)


def join_samples(source: PairSource, a: Samples, b: Samples) -> PairSamples:
    """Find the pairs of which both samples were embedded."""
    places = np.full(len(source.a), -1)
    places[a.rows] = np.arange(len(a))
    owner, partner = places[source.owners()], source.partners
    embedded = (owner >= 0) & np.isin(partner, b.rows)
    return PairSamples(source, a, b, owner[embedded], np.searchsorted(b.rows, partner[embedded]))


def embed_side_samples(
    encoder: PairEncoder, side: ImageSource | Texts, stored: StoredSamples | None, rows: np.ndarray
) -> Samples:
    """Embed rows of one side, from the cached features of a frozen tower if there are any."""
    kind = "text" if isinstance(side, Texts) else "image"
    tower: Any = encoder.towers[kind]
    cached = None
    if kind in encoder.spec.frozen:
        cached = find_cached_features(tower.body, kind, side, encoder.spec, encoder.tokenizer)

    def embed(some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if cached is not None:
            return _embed_features(tower.head, cached, some)
        return _encode(encoder, side, some)

    return Samples(side, *embed_for_a_while(rows, embed), stored)


@torch.no_grad()
def _embed_features(
    head: Any, features: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    taken = np.asarray(features[rows])
    readable = ~np.isnan(taken[:, 0])
    device = next(head.parameters()).device
    vectors = head(torch.from_numpy(taken[readable]).to(device)).float().cpu().numpy()
    return rows[readable], vectors


def _encode(
    encoder: PairEncoder, side: ImageSource | Texts, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Read and encode rows of a side; return those that could be read, and their vectors."""
    kept, vectors = list[int](), list[Tensor]()
    for part in np.array_split(rows, max(1, -(-len(rows) // BATCH))):
        inputs: list[Any] = []
        for row in part.tolist():
            try:
                inputs.append(side.texts[row] if isinstance(side, Texts) else side.image(row))
            except (UnreadableImageError, UnreadableTextError):
                continue
            kept.append(row)
        if inputs:
            encode = encoder.encode_text if isinstance(side, Texts) else encoder.encode_image
            vectors.append(encode(inputs).cpu())
    stacked = torch.cat(vectors).numpy() if vectors else np.empty((0, 0), dtype=np.float32)
    return np.array(kept, dtype=np.int64), stacked
