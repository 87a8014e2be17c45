"""Write a picture of views as the encoder will see them, in which a user can notice mistakes."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..common.errors import flag
from ..common.options import Augmentation
from ..data.batches.loaders import view_batches
from ..data.batches.schedule import FirstSamples
from ..data.batches.stream import StreamMicroBatch, StreamSchedule, stream_batches
from ..data.decode import UnreadableImageError
from ..data.image_source import ImageSource
from ..data.own_pictures import write_picture
from ..data.tar.stream import StreamSource
from ..data.tar.stream_sample import StreamSample
from ..data.views.pipeline import photometric
from ..planning.images import Plan
from ..runs.stored import atomically
from .picture_sheet import GRAY, WIDTH, Sheet, fit_tile

__all__ = [
    "FirstViews",
    "as_bytes",
    "as_image",
    "describe_changes",
    "load_first_views",
    "write_views_picture",
]

SAMPLES = 16
SMALLEST, LARGEST = 96, 224  # pixels of a tile: smaller views are enlarged, larger ones reduced
GAP, TILE_GAP = 12, 3  # pixels between groups, and between the tiles of a group
ADVICE = "make room on the disk and go on with --resume"
LETTERS = 15  # pixels: height of the letters of names


@dataclass(frozen=True)
class FirstViews:
    """The first images of a run, and the two views of each in the first epoch.

    Attributes:
        names: b names.
        originals: the b images.
        views: `(2, b, 3, S, S)` uint8.
        unreadable: `(name, reason)` of the first images that cannot be read.
    """

    names: list[str]
    originals: list[Image.Image]
    views: Tensor
    unreadable: list[tuple[str, str]]


def load_first_views(source: ImageSource | StreamSource, plan: Plan) -> FirstViews:
    """Load the first images of a run, and their views, as training loads them.

    Args:
        source: the images.
        plan: the plan of the run, which sets the augmentation.
    """
    count, seed = min(SAMPLES, len(source)), plan.request.seed
    size, crop_min = plan.image_size, plan.views.crop_min or 0.0
    if isinstance(source, StreamSource):
        stream = StreamSchedule(
            source.shorten(count), None, count, accumulate=1, epochs=1, seed=seed
        )
        loader = stream_batches(stream, image_size=size, crop_min=crop_min, workers=0)
    else:
        schedule = FirstSamples(source.ids, count, seed)
        loader = view_batches(source, schedule, image_size=size, crop_min=crop_min, workers=0)
    batch = next(iter(loader))
    views = photometric(batch.crops, batch.draws, plan.views)  # (2b, 3, S, S)
    if isinstance(batch.micro_batch, StreamMicroBatch):
        names, originals = _decode_readable(batch.micro_batch.samples)
    else:
        assert isinstance(source, ImageSource)
        rows = batch.micro_batch.rows.tolist()
        names, originals = [source.names[row] for row in rows], [source.image(row) for row in rows]
    return FirstViews(names, originals, as_bytes(views).unflatten(0, (2, -1)), batch.unreadable)


def _decode_readable(samples: Sequence[StreamSample]) -> tuple[list[str], list[Image.Image]]:
    """Return names and images of the samples of a stream that have views."""
    names, originals = list[str](), list[Image.Image]()
    for sample in samples:
        with suppress(UnreadableImageError):
            originals.append(sample.image())
            names.append(sample.name)
    return names, originals


def write_views_picture(
    source: ImageSource | StreamSource, plan: Plan, target: Path, advice: str = ADVICE
) -> FirstViews:
    """Write a picture of the first images of a run, each beside its two views.

    Args:
        source: the images.
        plan: the plan of the run, which sets the augmentation.
        target: the PNG file to write.
        advice: what a user can do if the file cannot be written.

    Returns:
        What is shown; if none of these images can be read, nothing is written.
    """
    first = load_first_views(source, plan)
    if first.names:
        sheet = _draw_sheet(first, plan)
        atomically(target, lambda path: write_picture(sheet, path), advice)
    return first


def _draw_sheet(first: FirstViews, plan: Plan) -> Image.Image:
    size = plan.image_size
    side = tile_side(size, LARGEST)
    step = side + TILE_GAP
    width = 3 * step + GAP
    groups = (WIDTH - 2 * GAP) // width
    sheet = Sheet(
        "Each image, then two random views of it, as the encoder receives them\n"
        f"{size} px{describe_zoom(size, side)}; {describe_changes(plan.views)}"
    )
    start = sheet.bottom
    for number, (name, image) in enumerate(zip(first.names, first.originals, strict=True)):
        x = GAP + number % groups * width
        y = start + number // groups * (side + 2 * LETTERS + GAP)
        tiles = [image, *(as_image(view) for view in first.views[:, number])]
        for place, tile in enumerate(tiles):
            sheet.paste(fit_tile(tile, side), (x + place * step, y))
        below = y + side + 2
        sheet.bottom = below + sheet.write_line((x, below), width - GAP, name, LETTERS, GRAY)
    return sheet.finish()


def describe_changes(views: Augmentation) -> str:
    """List the options that give these random changes."""
    return " ".join(f"{flag(f'views.{name}')} {value:g}" for name, value in vars(views).items())


def as_bytes(views: Tensor) -> Tensor:
    """Convert views from floats in [0, 1] to uint8."""
    return views.mul(255).round().clamp(0, 255).to(torch.uint8)


def as_image(view: Tensor) -> Image.Image:
    """Convert a view `(3, S, S)` uint8 to an image."""
    return Image.fromarray(view.permute(1, 2, 0).contiguous().numpy())


def tile_side(size: int, largest: int) -> int:
    """Choose the side of a tile for views of `size` pixels: a multiple, or the largest side."""
    return min(size * max(1, -(-SMALLEST // size)), largest)


def describe_zoom(size: int, side: int) -> str:
    """Say how views of `size` pixels are shown on tiles, unless as they are."""
    if side == size:
        return ""
    if side < size:
        return f", shown at {side} px"
    return f", each pixel shown {side // size} times as large"
