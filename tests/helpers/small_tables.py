"""Tables of pairs for tests."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = ("red", "green", "blue")


def write_pairs(folder: Path, count: int = 24, size: tuple[int, int] = (24, 20)) -> Path:
    """A table of images in three colours, with one to three captions each that tell the colour."""
    rng = np.random.default_rng(0)
    (folder / "img").mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(count):
        colour = i % 3
        pixels = rng.integers(0, 100, (size[1], size[0], 3), dtype=np.uint8)
        pixels[..., colour] += 120
        Image.fromarray(pixels).save(folder / "img" / f"{i:02d}.png")
        captions = [f"a {'very ' * k}{COLOURS[colour]} picture {i}" for k in range(1 + i // 3 % 3)]
        rows += [(f"img/{i:02d}.png", caption) for caption in captions]
    return write_table(folder / "train.csv", rows)


def write_table(path: Path, rows: list[tuple[str, str]], names=("image", "caption")) -> Path:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows)
    return path


def read_rows(path: Path) -> list[tuple[str, str]]:
    with open(path, newline="") as file:
        return [tuple(row) for row in list(csv.reader(file))[1:]]
