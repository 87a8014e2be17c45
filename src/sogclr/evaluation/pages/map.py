"""The section of the map: embeddings in a plane, coloured by label or log u, with thumbnails."""

import numpy as np
from PIL import Image

from ...data.image_source import NO_LABEL, ImageSource
from ..findings.plane import Plane, place_in_plane
from .charts import CLASS_COLORS, OTHER_COLOR, draw_points
from .page import Block, Legend, Picture, Pictures, Section, Text
from .samples import Samples
from .thumbnails import as_data, tile_image

__all__ = ["map_section"]

TITLE = "Map of the embedding"
MOST_POINTS = 2_000  # half a minute of t-SNE
CANVAS, TILE = 1_000, 44  # pixels: sides of the picture of thumbnails, and of a thumbnail


def map_section(samples: Samples) -> Section:
    """Draw a map of at most 2,000 samples."""
    if len(samples) < 3:
        return Section(TITLE, missing="fewer than three samples could be embedded")
    chosen = np.random.default_rng(0).permutation(len(samples))[:MOST_POINTS]
    plane = place_in_plane(samples.vectors[chosen])
    pictures, blocks = list[Picture](), list[Block]()
    if samples.labels is not None:
        pictures.append(_by_label(samples, chosen, plane))
    log_u = samples.all_log_u
    if log_u is not None and np.isfinite(log_u[samples.rows[chosen]]).sum() > 1:
        pictures.append(_by_log_u(log_u[samples.rows[chosen]], plane))
    if not pictures:
        svg = draw_points(plane.places, colors=[CLASS_COLORS[0]] * len(chosen))
        alternative = f"Map of {len(chosen):,} samples by {plane.method}"
        pictures.append(Picture("Samples", svg, alternative, "The data has no labels."))
    if isinstance(samples.source, ImageSource):
        pictures.append(_with_thumbnails(samples.source, samples.rows[chosen], plane))
    blocks.append(
        Text(
            f"{len(chosen):,} samples in the plane by {plane.method}: near each other here means "
            "similar to the model, but distances between far groups mean little."
        )
    )
    blocks.append(Pictures(pictures))
    if samples.labels is not None:
        blocks.append(_legend(samples))
    return Section(TITLE, blocks)


def _frequent_classes(samples: Samples) -> list[int]:
    """List the labels that get a colour of their own, the most frequent if there are too many."""
    assert samples.labels is not None
    found, counts = np.unique(samples.labels[samples.labels != NO_LABEL], return_counts=True)
    frequent = found[np.argsort(-counts, kind="stable")][: len(CLASS_COLORS)]
    return sorted(frequent.tolist())


def _by_label(samples: Samples, chosen: np.ndarray, plane: Plane) -> Picture:
    assert samples.labels is not None
    colors = dict(zip(_frequent_classes(samples), CLASS_COLORS, strict=False))
    points = [colors.get(label, OTHER_COLOR) for label in samples.labels[chosen].tolist()]
    return Picture(
        "By label",
        draw_points(plane.places, colors=points),
        f"Map of {len(chosen):,} samples, coloured by label",
        "Where a colour keeps to itself, the encoder tells this class apart, without any label.",
    )


def _by_log_u(log_u: np.ndarray, plane: Plane) -> Picture:
    known = np.isfinite(log_u)
    values = log_u[known].clip(*np.quantile(log_u[known], [0.01, 0.99]))
    return Picture(
        "By log u",
        draw_points(plane.places[known], values=values),
        f"Map of {int(known.sum()):,} samples, coloured by log u",
        "How crowded a sample's neighbourhood was in training; orange is crowded, blue is lonely.",
    )


def _legend(samples: Samples) -> Legend:
    frequent = _frequent_classes(samples)
    items = [
        (color, samples.label_name(label))
        for label, color in zip(frequent, CLASS_COLORS, strict=False)
    ]
    if len(samples.classes or []) > len(frequent):
        items.append((OTHER_COLOR, "other labels, or none"))
    return Legend(items)


def _with_thumbnails(source: ImageSource, rows: np.ndarray, plane: Plane) -> Picture:
    """Draw as many thumbnails as fit without lying on each other."""
    low, high = plane.places.min(axis=0), plane.places.max(axis=0)
    middle, span = (low + high) / 2, max(float((high - low).max()), 1e-9)
    scaled = ((plane.places - middle) / span + 0.5) * (CANVAS - TILE)
    scaled[:, 1] = CANVAS - TILE - scaled[:, 1]  # rows of an image count downwards
    canvas = Image.new("RGBA", (CANVAS, CANVAS), (0, 0, 0, 0))
    taken = np.empty((0, 2))
    for row, place in zip(rows.tolist(), scaled, strict=True):
        if len(taken) and (np.abs(taken - place).max(axis=1) < TILE).any():
            continue
        image = tile_image(source, row, TILE)
        if image is not None:
            canvas.paste(image, (int(place[0]), int(place[1])))
            taken = np.concatenate([taken, place[None]])
    return Picture(
        "With thumbnails",
        as_data(canvas.crop(canvas.getbbox())),
        f"{len(taken):,} images at their places in the map",
        f"{len(taken):,} of the images at their places.",
    )
