"""Embed two random views of each image, augmented as in training but in eval mode."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from ..common.console import say, track
from ..common.errors import UserError
from ..common.options import Augmentation
from ..data.batches.loaders import view_batches
from ..data.batches.schedule import FIRST_UNUSED_EPOCH, SubsetSchedule
from ..data.image_source import ImageSource
from ..data.randomness import shuffled
from ..data.views.pipeline import encoder_inputs
from ..models.encoders import EncoderSpec

__all__ = ["MOST_IMAGES", "embed_random_views"]

# R@1 falls with the number of images, so there is one bound for all runs. The work grows with its
# square: a minute on two CPU cores.
MOST_IMAGES = 10_000
SEED = 0  # one for all runs: equal augmentations of an image give equal views


def embed_random_views(
    encoder: nn.Module | None,
    source: ImageSource,
    spec: EncoderSpec,
    augmentation: Augmentation,
    *,
    device: str,
    batch_size: int = 128,
    workers: int = 0,
) -> tuple[Tensor, Tensor]:
    """Compute the features of two random views of at most `MOST_IMAGES` images.

    Args:
        encoder: a module on `device`, from `(B, 3, S, S)` to `(B, d)`, in eval mode. None returns
            the standardized pixels themselves, of at most 32 px.
        source: the images.
        spec: the image size and the mean and standard deviation that the encoder expects.
        augmentation: resolved settings of the random views.
        device: "cpu", "cuda" or "mps".
        batch_size: number of images in one forward pass.
        workers: number of loader processes.

    Returns:
        `(m, d)` float32 of each view, on the CPU; row i of both is of one image that can be read.

    Raises:
        UserError: fewer than two images can be read.
    """
    if encoder is None:
        spec = replace(spec, image_size=min(spec.image_size, 32))
    rows = shuffled(SEED, FIRST_UNUSED_EPOCH, source.ids)[:MOST_IMAGES]
    loader = view_batches(
        source,
        SubsetSchedule(rows, batch_size, 1, SEED),
        image_size=spec.image_size,
        crop_min=augmentation.crop_min or 0.0,
        workers=workers,
    )
    views: tuple[list[Tensor], list[Tensor]] = [], []
    with torch.no_grad():
        for batch in track(loader, "embedding two random views", total=len(loader)):
            for name, reason in batch.unreadable:
                say(f"skipped {name}: {reason}")
            if not len(batch.micro_batch.rows):
                continue
            crops = batch.crops.to(device)
            x = encoder_inputs(crops, batch.draws, augmentation, spec.mean, spec.std)
            features = x.flatten(1) if encoder is None else encoder(x)
            for kept, view in zip(views, features.float().cpu().chunk(2), strict=True):
                kept.append(view)
    if sum(map(len, views[0])) < 2:
        raise UserError("data: --protocol views compares images; give two or more that can be read")
    return torch.cat(views[0]), torch.cat(views[1])
