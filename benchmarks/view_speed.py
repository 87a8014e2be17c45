"""Images per second and core for two SimCLR views of each image: sogclr, torchvision, lightly.

    python benchmarks/view_speed.py

The time is that from the file or array to the standardized batch of floats: decoding, crops,
colours and blur. The libraries take turns on the same images in one thread, and each round starts
with another one, so that other load of the machine affects all of them. Seconds are processor time.
A figure is the median over rounds of the ratio within a round; its range is the lowest and the
highest round.

    224 px   JPEG files of 500 x 375 px, the usual size in ImageNet, composed of Flickr8k's small
             photos. torchvision's transforms run on Pillow images, with torchvision's blur (which
             works on tensors) and with Pillow's.
    32 px    the same photos, scaled down, in memory, against lightly's `SimCLRTransform`; without
             blur, as usual at this size, and with it.

Scales, strengths and probabilities are the same for all libraries, and so is the size of the blur's
kernel; Pillow's blur has no such size.

Writes `results/view_speed.json`; takes minutes. The photos must be in `../shared/data` or
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
    """Pillow's blur, which lightly and others use because torchvision's is slow."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(random.uniform(*SIGMAS)))


class TwoViews(Dataset):
    """Apply a transform twice to each image, as is usual."""

    def __init__(self, source: ImageSource, view: View) -> None:
        self.source, self.view = source, view

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = self.source.image(row)
        return self.view(image), self.view(image)


def torchvision_view(size: int, views: Augmentation, blur: Callable[..., Any]) -> View:
    """Make SimCLR's view as in torchvision's documentation and most repositories."""
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
    """Make lightly's view with the same settings."""
    settings: dict[str, Any] = {
        "cj_strength": views.color,
        "min_scale": views.crop_min,
        "hf_prob": views.flip,
        "random_gray_scale": views.gray,
        "gaussian_blur": views.blur,
    }
    normalize = {"mean": list(MEAN), "std": list(STD)}
    return SimCLRTransform(size, sigmas=SIGMAS, normalize=normalize, **settings).transforms[0]


def run_own(source: ImageSource, size: int, views: Augmentation) -> None:
    """Draw views as in training: crop each image, then change the whole batch at once."""
    plan = ShuffledSchedule(source.ids, BATCH, accumulate=1, epochs=1, seed=0)
    for batch in view_batches(
        source, plan, image_size=size, crop_min=views.crop_min or 0.0, workers=0
    ):
        encoder_inputs(batch.crops, batch.draws, views, MEAN, STD)


def run_loader(source: ImageSource, view: View) -> None:
    """Draw views by a usual data loader."""
    for _ in DataLoader(TwoViews(source, view), BATCH, shuffle=True):
        pass


def photos(count: int) -> list[Image.Image]:
    """Read the first photos of the archive."""
    images: list[Image.Image] = []
    with tarfile.open(archive()) as tar:
        for member in tar:
            if len(images) < count and member.name.endswith(".webp"):
                file = tar.extractfile(member)
                assert file is not None
                images.append(Image.open(io.BytesIO(file.read())).convert("RGB"))
    return images


def write_files(small: list[Image.Image], folder: Path) -> int:
    """Fill each file's frame with small photos at their own scale; return the mean file size.

    Enlarged photos would be smooth and faster to decode than real photos of this size.
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
    """Scale each photo to 32 px."""
    return ArraySource(np.stack([np.asarray(photo.resize((32, 32))) for photo in small[:SMALL]]))


def time_in_turns(sides: Mapping[str, Side], images: int) -> dict[str, Any]:
    """Time all in turns; return images per second, and the first one's ratio to each other one."""
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


def measure_224(folder: Path) -> dict[str, Any]:
    views, source = Augmentation().resolved(224), FolderSource(folder)
    taps = 2 * blur_radius(224) + 1
    blurs = {
        "torchvision, its own blur": T.GaussianBlur(taps, SIGMAS),
        "torchvision, Pillow's blur": PillowBlur(),
    }
    others = {
        name: partial(run_loader, source, torchvision_view(224, views, blur))
        for name, blur in blurs.items()
    }
    return time_in_turns({"ours": partial(run_own, source, 224, views), **others}, len(source))


def measure_32(source: ArraySource, blur: float) -> dict[str, Any]:
    views = Augmentation(blur=blur).resolved(32)
    sides = {
        "ours": partial(run_own, source, 32, views),
        "lightly": partial(run_loader, source, lightly_view(32, views)),
    }
    return time_in_turns(sides, len(source))


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
        tables = {"224 px, JPEG files": measure_224(Path(folder))}
    source = small_arrays(small)
    tables["32 px, in memory"] = measure_32(source, blur=0.0)
    tables["32 px, in memory, blurred"] = measure_32(source, blur=0.5)
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
