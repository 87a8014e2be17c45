"""Write a picture of views as the encoder will see them, in which a user can notice mistakes."""

import math
from pathlib import Path

import torch

from ..data.batches.loaders import view_batches
from ..data.batches.schedule import ShuffledSchedule
from ..data.batches.stream import StreamSchedule, stream_batches
from ..data.image_source import ImageSource
from ..data.own_pictures import write_picture
from ..data.tar.stream import StreamSource
from ..data.views.pipeline import photometric
from ..planning.images import Plan
from ..runs.stored import atomically

__all__ = ["write_views_picture"]

SAMPLES = 16
SMALLEST = 64  # pixels: smaller views are enlarged


def write_views_picture(source: ImageSource | StreamSource, plan: Plan, target: Path) -> None:
    """Write a picture of the first samples, both views of a sample side by side.

    Args:
        source: the images.
        plan: the plan of the run, which sets the augmentation.
        target: the PNG file to write.
    """
    from torchvision.transforms.functional import to_pil_image
    from torchvision.utils import make_grid

    count, seed = min(SAMPLES, len(source)), plan.request.seed
    size, crop_min = plan.image_size, plan.views.crop_min or 0.0
    if isinstance(source, StreamSource):
        stream = StreamSchedule(
            source.shorten(count), None, count, accumulate=1, epochs=1, seed=seed
        )
        loader = stream_batches(stream, image_size=size, crop_min=crop_min, workers=0)
    else:
        schedule = ShuffledSchedule(source.ids, count, accumulate=1, epochs=1, seed=seed)
        loader = view_batches(source, schedule, image_size=size, crop_min=crop_min, workers=0)
    batch = next(iter(loader))
    views = photometric(batch.crops, batch.draws, plan.views)  # (2b, 3, S, S)
    pairs = torch.stack(views.chunk(2), dim=1).flatten(0, 1)  # (2b, ...), pairs adjacent
    scale = max(1, math.ceil(SMALLEST / plan.image_size))
    pairs = pairs.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    grid = make_grid(pairs, nrow=8, padding=4, pad_value=1.0)  # (3, H, W), in [0, 1]
    picture = to_pil_image(grid.mul(255).round().clamp(0, 255).to(torch.uint8))
    atomically(target, lambda path: write_picture(picture, path))
