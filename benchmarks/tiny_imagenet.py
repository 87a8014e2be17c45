"""Read a subset of Tiny-ImageNet at 32 px from `tiny-imagenet-32.tar.zst`, in $SOGCLR_DATA.

The archive has `train/WNID/images/*.JPEG`, `val/images/*.JPEG` and `val/val_annotations.txt`.
"""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow
import torch
from PIL import Image
from torch import Tensor

__all__ = ["Split", "tiny_imagenet"]

Split = tuple[Tensor, np.ndarray]  # pixels (n, 3, 32, 32) uint8, labels (n,) int64

HERE = Path(__file__).parent
ARCHIVE = "tiny-imagenet-32.tar.zst"


def tiny_imagenet(classes: int, per_class: int) -> tuple[Split, Split, Split]:
    """Return training images, as many other training images, and the validation images.

    Args:
        classes: number of classes, at most 200, evenly spaced in the order of their names.
        per_class: number of training images of a class, at most 250.
    """
    train: dict[str, dict[str, bytes]] = {}
    validation: dict[str, bytes] = {}
    annotations = ""
    for path, content in _files():
        if path.startswith("train/") and path.endswith(".JPEG"):
            train.setdefault(path.split("/")[1], {})[path] = content
        elif path.startswith("val/images/"):
            validation[Path(path).name] = content
        elif path == "val/val_annotations.txt":
            annotations = content.decode()
    names = sorted(train)
    chosen = [names[i * len(names) // classes] for i in range(classes)]
    ordered = [[train[name][path] for path in sorted(train[name])] for name in chosen]
    of = {line.split("\t")[0]: line.split("\t")[1] for line in annotations.splitlines()}
    tested = [
        [validation[image] for image in sorted(validation) if of[image] == name] for name in chosen
    ]
    parts = slice(per_class), slice(per_class, 2 * per_class)
    kept, others = ([images[part] for images in ordered] for part in parts)
    return _decode(kept), _decode(others), _decode(tested)


def _files() -> Iterator[tuple[str, bytes]]:
    """Yield path and content of the files of the archive."""
    default = HERE.parents[1] / "shared" / "data"
    archive = Path(os.environ.get("SOGCLR_DATA", default)) / ARCHIVE
    if not archive.is_file():
        raise SystemExit(f"no {archive}; set SOGCLR_DATA to the folder that holds {ARCHIVE}")
    # pyarrow, because Python reads zstd from 3.14 on only.
    with (
        pyarrow.input_stream(str(archive), compression="zstd") as stream,
        tarfile.open(fileobj=stream, mode="r|") as tar,
    ):
        for member in tar:
            file = tar.extractfile(member) if member.isfile() else None
            if file is not None:
                yield member.name.removeprefix("./"), file.read()


def _decode(classes: list[list[bytes]]) -> Split:
    """Decode the images of each class."""
    pixels, labels = [], []
    for label, images in enumerate(classes):
        for content in images:
            with Image.open(io.BytesIO(content)) as image:
                pixels.append(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
            labels.append(label)
    return torch.from_numpy(np.stack(pixels)), np.array(labels, dtype=np.int64)
