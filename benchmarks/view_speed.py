"""Images per second and core: both SimCLR views of an image, against torchvision's and lightly's.

    python benchmarks/view_speed.py

Everything counts, from the file or the array to the standardized batch of floats: decoding, crops,
colours, blur. One thread; the sides take turns on the same images, each round begun by another, so
that whatever else the machine does falls on all of them; seconds are the processor's. A figure is
the median over rounds of a ratio within a round; the range beside it is from the lowest to the
highest round.

At 224 px: 500 x 375 JPEG files, the size usual in ImageNet, put together from Flickr8k's small
photos; torchvision's transforms on Pillow's images with its own blur, which is done on tensors, and
with Pillow's. At 32 px: crops of the same photos in memory, with lightly's `SimCLRTransform`;
without blur, as is usual at that size, and with it. Scales, strengths and probabilities are the
same on all sides, and so is the size of the kernel, which only Pillow's blur does not have.

Writes `results/view_speed.json`; minutes. The photos are looked for in `../shared/data` or
$SOGCLR_DATA (flickr8k-144.tar). Needs lightly.
"""

import io
import json
import random
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision.transforms as T
from flickr8k import archive
from lightly.transforms import SimCLRTransform
from machine import machine
from PIL import Image, ImageFilter
from torch.utils.data import DataLoader, Dataset

from sogclr.common.options import Augmentation
from sogclr.data.batches.loaders import view_batches
from sogclr.data.batches.schedule import ShuffledSchedule
from sogclr.data.image_source import ImageSource
from sogclr.data.images.arrays import ArraySource
from sogclr.data.images.folder import FolderSource
from sogclr.data.views.draws import blur_radius
from sogclr.data.views.pipeline import encoder_inputs

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "view_speed.json"
WIDTH, HEIGHT, QUALITY = 500, 375, 90
BATCH, ROUNDS = 64, 9
FILES, SMALL = 2 * BATCH, 16 * BATCH
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIGMAS = (0.1, 2.0)

Side = Callable[[], None]
View = Callable[[Image.Image], torch.Tensor]


class PillowBlur:
    """What those use who find torchvision's blur slow, lightly among them."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(random.uniform(*SIGMAS)))


class TwoViews(Dataset):
    """As people write it: an image, the transform twice."""

    def __init__(self, source: ImageSource, view: View) -> None:
        self.source, self.view = source, view

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = self.source.image(row)
        return self.view(image), self.view(image)


def torchvision_view(size: int, views: Augmentation, blur: Callable[..., Any]) -> View:
    """SimCLR's view as in torchvision's documentation and most repositories."""
    color = views.color or 0.0
    return T.Compose(
        [
            T.RandomResizedCrop(size, scale=(views.crop_min, 1.0)),
            T.RandomHorizontalFlip(views.flip),
            T.RandomApply([T.ColorJitter(0.8 * color, 0.8 * color, 0.8 * color, 0.2 * color)], 0.8),
            T.RandomGrayscale(views.gray),
            T.RandomApply([blur], views.blur),
            T.ToTensor(),
            T.Normalize(MEAN, STD),
        ]
    )


def lightly_view(size: int, views: Augmentation) -> View:
    settings: dict[str, Any] = {
        "cj_strength": views.color,
        "min_scale": views.crop_min,
        "hf_prob": views.flip,
        "random_gray_scale": views.gray,
        "gaussian_blur": views.blur,
    }
    normalize = {"mean": list(MEAN), "std": list(STD)}
    return SimCLRTransform(size, sigmas=SIGMAS, normalize=normalize, **settings).transforms[0]


def ours(source: ImageSource, size: int, views: Augmentation) -> None:
    """As in training: crops of a batch, then the rest of it at once."""
    plan = ShuffledSchedule(source.ids, BATCH, accumulate=1, epochs=1, seed=0)
    for batch in view_batches(
        source, plan, image_size=size, crop_min=views.crop_min or 0.0, workers=0
    ):
        encoder_inputs(batch.crops, batch.draws, views, MEAN, STD)


def theirs(source: ImageSource, view: View) -> None:
    for _ in DataLoader(TwoViews(source, view), BATCH, shuffle=True):
        pass


def photos(count: int) -> list[Image.Image]:
    """The first of the archive."""
    images: list[Image.Image] = []
    with tarfile.open(archive()) as tar:
        for member in tar:
            if len(images) < count and member.name.endswith(".webp"):
                file = tar.extractfile(member)
                assert file is not None
                images.append(Image.open(io.BytesIO(file.read())).convert("RGB"))
    return images


def write_files(small: list[Image.Image], folder: Path) -> int:
    """As many small photos in one as fill its frame, at their own scale; mean size in bytes.

    Enlarged ones would be smooth, and decoded sooner than photos are.
    """
    side = small[0].width
    places = [(x, y) for y in range(0, HEIGHT, side) for x in range(0, WIDTH, side)]
    for i in range(FILES):
        frame = Image.new("RGB", (WIDTH, HEIGHT))
        for k, place in enumerate(places):
            frame.paste(small[(i * len(places) + k) % len(small)], place)
        frame.save(folder / f"{i:03}.jpg", quality=QUALITY)
    return round(statistics.mean(file.stat().st_size for file in folder.iterdir()))


def small_arrays(small: list[Image.Image]) -> ArraySource:
    """One 32 px image of each photo."""
    return ArraySource(np.stack([np.asarray(photo.resize((32, 32))) for photo in small[:SMALL]]))


def in_turns(sides: Mapping[str, Side], images: int) -> dict[str, Any]:
    """Images per second of each side, and what ours, the first, is to the others."""
    names = list(sides)
    rates: dict[str, list[float]] = {name: [] for name in names}
    for side in sides.values():
        side()
    for turn in range(ROUNDS):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            started = time.process_time()
            sides[name]()
            rates[name].append(images / (time.process_time() - started))
    ratios = {
        name: sorted(a / b for a, b in zip(rates[names[0]], rates[name], strict=True))
        for name in names[1:]
    }
    return {
        "images_per_second": {name: round(statistics.median(r), 1) for name, r in rates.items()},
        "ratios": {
            name: {
                "median": round(statistics.median(r), 2),
                "low": round(r[0], 2),
                "high": round(r[-1], 2),
            }
            for name, r in ratios.items()
        },
    }


def at_224(folder: Path) -> dict[str, Any]:
    views, source = Augmentation().resolved(224), FolderSource(folder)
    taps = 2 * blur_radius(224) + 1
    blurs = {
        "torchvision, its own blur": T.GaussianBlur(taps, SIGMAS),
        "torchvision, Pillow's blur": PillowBlur(),
    }
    others = {
        name: partial(theirs, source, torchvision_view(224, views, blur))
        for name, blur in blurs.items()
    }
    return in_turns({"ours": partial(ours, source, 224, views), **others}, len(source))


def at_32(source: ArraySource, blur: float) -> dict[str, Any]:
    views = Augmentation(blur=blur).resolved(32)
    sides = {
        "ours": partial(ours, source, 32, views),
        "lightly": partial(theirs, source, lightly_view(32, views)),
    }
    return in_turns(sides, len(source))


def show(tables: dict[str, dict[str, Any]]) -> None:
    print(f"{'images per second and core':<34} {'rate':>8}  ours is so many times as fast")
    for title, table in tables.items():
        print(title)
        for name, rate in table["images_per_second"].items():
            ratio = table["ratios"].get(name)
            words = (
                f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]" if ratio else ""
            )
            print(f"  {name:<32} {rate:8.1f}  {words}")


def main() -> None:
    torch.set_num_threads(1)
    small = photos(SMALL)
    with tempfile.TemporaryDirectory() as folder:
        size = write_files(small, Path(folder))
        tables = {"224 px, JPEG files": at_224(Path(folder))}
    source = small_arrays(small)
    tables["32 px, in memory"] = at_32(source, blur=0.0)
    tables["32 px, in memory, blurred"] = at_32(source, blur=0.5)
    stored = {
        "setup": {
            "batch": BATCH,
            "rounds": ROUNDS,
            "files": f"{FILES} of {WIDTH} x {HEIGHT} px, quality {QUALITY}",
            "bytes": size,
            "arrays": f"{len(source)} of 32 x 32 px",
        },
        "machine": machine(),
        "versions": {name: version(name) for name in ("torchvision", "pillow", "lightly")},
        "tables": tables,
    }
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
    show(tables)


if __name__ == "__main__":
    main()
