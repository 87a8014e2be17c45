"""Embed the images of a source in order, without gradients and in eval mode."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ..common.console import say, track
from ..data.batches.loaders import center_batches
from ..data.image_source import ImageSource
from ..data.views.pipeline import standardize
from ..models.encoders import EncoderSpec

__all__ = ["EmbeddedImages", "embed_images"]


@dataclass(frozen=True)
class EmbeddedImages:
    """Vectors of the images that could be read.

    Attributes:
        indices: `(m,)` int64, positions of these images in the source.
        vectors: `(m, d)` float32.
    """

    indices: np.ndarray
    vectors: np.ndarray


def embed_images(
    encoder: nn.Module | None,
    source: ImageSource,
    spec: EncoderSpec,
    indices: np.ndarray | None = None,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 256,
    workers: int = 0,
    quiet: bool = False,
) -> EmbeddedImages:
    """Compute the features of one undistorted view of each image.

    Args:
        encoder: a module from `(B, 3, S, S)` to `(B, d)`; its training mode is restored at the
            end. None returns the standardized pixels themselves, of at most 32 px.
        source: the images.
        spec: the image size and the mean and standard deviation that the encoder expects.
        indices: `(m,)` positions in the source. Default: all images.
        device: the device that holds the encoder.
        batch_size: number of images in one forward pass.
        workers: number of loader processes.
        quiet: hides the progress bar and the names of unreadable images.
    """
    indices = np.arange(len(source)) if indices is None else indices
    if encoder is None:  # raw pixels of 224 px images would be 150,000 columns wide
        spec = replace(spec, image_size=min(spec.image_size, 32))
    loader = center_batches(
        source, indices, image_size=spec.image_size, batch_size=batch_size, workers=workers
    )
    was_training = encoder is not None and encoder.training
    if encoder is not None:
        encoder.eval()
    kept: list[int] = []
    vectors: list[Tensor] = []
    batches = loader if quiet else track(loader, "embedding", total=len(loader))
    with torch.no_grad():
        for readable, images, unreadable in batches:
            for name, reason in () if quiet else unreadable:
                say(f"skipped {name}: {reason}")
            if readable:
                x = standardize(images.to(device).float() / 255, spec.mean, spec.std)
                features = x.flatten(1) if encoder is None else encoder(x)
                vectors.append(features.float().cpu())
                kept.extend(readable)
    if encoder is not None:
        encoder.train(was_training)
    stacked = torch.cat(vectors) if vectors else torch.empty(0, 0)
    return EmbeddedImages(np.array(kept, dtype=np.int64), stacked.numpy())
