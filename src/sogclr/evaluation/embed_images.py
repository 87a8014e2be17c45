"""Embed a source: rows in order, without gradients, in eval mode."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ..common.console import say, track
from ..data.batches.loaders import center_batches
from ..data.image_source import ImageSource
from ..data.views.pipeline import standardize
from ..models.encoders import EncoderSpec

__all__ = ["Embedding", "embed_rows"]


@dataclass(frozen=True)
class Embedding:
    """Vectors of the rows that could be read: `rows` `(m,)` int64, `vectors` `(m, d)` float32."""

    rows: np.ndarray
    vectors: np.ndarray


def embed_rows(
    encoder: nn.Module | None,
    source: ImageSource,
    spec: EncoderSpec,
    rows: np.ndarray | None = None,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 256,
    workers: int = 0,
    quiet: bool = False,
) -> Embedding:
    """Features of one undistorted view of each row.

    Args:
        encoder: in eval mode or not, left as it was; None for the standardized pixels
            themselves, at 32 px at most.
        source: the images.
        spec: what the encoder expects as input.
        rows: `(m,)`; all by default.
        device: where the encoder is.
        batch_size: images at a time.
        workers: loader processes.
        quiet: without a progress bar and without naming unreadable images.
    """
    rows = np.arange(len(source)) if rows is None else rows
    if encoder is None:  # as thumbnails: 150,000 columns of 224 px images help nobody
        spec = replace(spec, image_size=min(spec.image_size, 32))
    loader = center_batches(
        source, rows, image_size=spec.image_size, batch_size=batch_size, workers=workers
    )
    was_training = encoder is not None and encoder.training
    if encoder is not None:
        encoder.eval()
    kept: list[int] = []
    vectors: list[Tensor] = []
    batches = loader if quiet else track(loader, "embedding", total=len(loader))
    with torch.no_grad():
        for batch_rows, images, unreadable in batches:
            for name, reason in () if quiet else unreadable:
                say(f"skipped {name}: {reason}")
            if batch_rows:
                x = standardize(images.to(device).float() / 255, spec.mean, spec.std)
                features = x.flatten(1) if encoder is None else encoder(x)
                vectors.append(features.float().cpu())
                kept.extend(batch_rows)
    if encoder is not None:
        encoder.train(was_training)
    stacked = torch.cat(vectors) if vectors else torch.empty(0, 0)
    return Embedding(np.array(kept, dtype=np.int64), stacked.numpy())
