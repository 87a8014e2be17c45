"""Draw pairs as their towers will receive them: views of images, and texts with what is cut."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..data.batches.schedule import FirstSamples
from ..data.image_source import ImageSource
from ..data.pair_source import PairSource
from ..data.texts import Texts, UnreadableTextError
from ..data.views.pipeline import photometric
from ..models.texts_as_read import TextAsRead, read_texts
from ..models.tower_inputs import CenterImages, ImageViews
from ..models.towers import PairSpec
from ..planning.pairs import PairPlan
from .picture_sheet import GRAY, INK, RED, WIDTH, Sheet, fit_tile
from .views_picture import as_bytes, as_image, describe_changes, tile_side

__all__ = ["FirstPairs", "draw_pairs", "load_first_pairs"]

PAIRS = 10  # of the first batch; the pair with the longest text comes last
LARGEST, GAP, LETTERS = 160, 16, 15  # pixels: a tile, space between tiles, letters of notes


@dataclass(frozen=True)
class FirstPairs:
    """The first pairs of a run, and the pair with the longest text.

    Attributes:
        images: the image of side a and what its tower receives, by number of the pair; empty if
            side a are texts.
        texts: what the text tower reads of each text of a pair, by number of the pair.
        longest: number of the pair with the longest text.
        unreadable: `(name, reason)` of samples that cannot be read.
    """

    images: dict[int, tuple[Image.Image, Image.Image]]
    texts: dict[int, list[TextAsRead]]
    longest: int
    unreadable: list[tuple[str, str]]


def load_first_pairs(
    source: PairSource, plan: PairPlan, spec: PairSpec, tokenizer: Any
) -> FirstPairs:
    """Load the first pairs of a run as training loads them.

    Args:
        source: the pairs.
        plan: the plan of the run, which sets the augmentation.
        spec: the description of the towers.
        tokenizer: the tokenizer of the text tower.
    """
    seed, count = plan.request.seed, min(PAIRS, len(source.a))
    rows = next(iter(FirstSamples(source.a.ids, count, seed))).rows
    partners = source.draw(seed, 0, rows)
    first, second = _find_longest(source)
    rows, partners = np.append(rows, first), np.append(partners, second)
    images, texts = dict[int, tuple[Image.Image, Image.Image]](), dict[int, list[TextAsRead]]()
    unreadable: list[tuple[str, str]] = []
    if isinstance(source.a, ImageSource):
        images = _load_images(source.a, rows, plan, spec, unreadable)
    for number, (row, partner) in enumerate(zip(rows.tolist(), partners.tolist(), strict=True)):
        try:
            found = [source.a.texts[row]] if isinstance(source.a, Texts) else []
            texts[number] = read_texts(tokenizer, [*found, source.b.texts[partner]])
        except UnreadableTextError as error:
            unreadable.append((str(error.args[0]), str(error.args[1])))
    return FirstPairs(images, texts, count, unreadable)


def _find_longest(source: PairSource) -> tuple[int, int]:
    """Find the pair with the longest text; return its row of side a, and that of side b."""
    longest = int(np.argmax(source.b.lengths))
    if isinstance(source.a, Texts) and source.a.lengths.max() > source.b.lengths[longest]:
        row = int(np.argmax(source.a.lengths))
        return row, int(source.partners[source.start[row]])
    pair = int(np.flatnonzero(source.partners == longest)[0])
    return int(source.owners()[pair]), longest


def _load_images(
    side: ImageSource,
    rows: np.ndarray,
    plan: PairPlan,
    spec: PairSpec,
    unreadable: list[tuple[str, str]],
) -> dict[int, tuple[Image.Image, Image.Image]]:
    """Load images with what the image tower receives of each, before it is standardized."""
    if "image" in spec.frozen:
        prepared = CenterImages(side, spec).prepare(rows, 0)
        views = prepared.tensor
    else:
        prepared = ImageViews(side, spec, plan.views, plan.request.seed).prepare(rows, 0)
        assert prepared.draws is not None
        views = as_bytes(photometric(prepared.tensor, prepared.draws, plan.views))
    unreadable += prepared.unreadable
    numbers = np.flatnonzero(prepared.readable).tolist()
    return {
        number: (side.image(int(rows[number])), as_image(view))
        for number, view in zip(numbers, torch.unbind(views), strict=True)
    }


def draw_pairs(
    first: FirstPairs, plan: PairPlan, spec: PairSpec, context_length: int
) -> Image.Image:
    """Draw one pair below the other, the one with the longest text last.

    Args:
        first: the pairs.
        plan: the plan of the run.
        spec: the description of the towers.
        context_length: number of tokens that the text tower receives.
    """
    side = tile_side(spec.image_size, LARGEST)
    sheet = Sheet(_title(plan, spec, context_length))
    for number in sorted(first.texts):
        if number == first.longest:
            words = "The pair whose text has the most characters:"
            sheet.bottom += sheet.write((GAP, sheet.bottom), WIDTH, words, color=GRAY)
        top, x, bottom = sheet.bottom, GAP, sheet.bottom
        if number in first.images:
            for tile in first.images[number]:
                sheet.paste(fit_tile(tile, side), (x, top))
                x += side + GAP // 2
            bottom, x = top + side, x + GAP
        y = top
        for text in first.texts[number]:
            y += _write_text(sheet, (x, y), text)
        sheet.bottom = max(bottom, y) + GAP
    return sheet.finish()


def _title(plan: PairPlan, spec: PairSpec, context_length: int) -> str:
    lines = ["Pairs as the towers receive them"]
    if spec.kinds[0] == "image":
        changes = describe_changes(plan.views)
        if "image" in spec.frozen:
            changes = "its middle, not changed at random, since the image tower is frozen"
        lines.append(
            f"Left the image, then what its tower receives: {spec.image_size} px, {changes}"
        )
    lines.append(
        f"Text: as its tokens spell it, at most {context_length} with the marks of its start and "
        "end, which are not shown; red and struck through is cut"
    )
    return "\n".join(lines)


def _write_text(sheet: Sheet, place: tuple[int, int], text: TextAsRead) -> int:
    """Write a text, and below it how many tokens it has; return the height."""
    x, y = place
    width = WIDTH - x - GAP
    parts = [(piece.text, INK if piece.is_read else RED) for piece in text.pieces]
    height = sheet.write_parts(place, width, parts)
    note = f"{text.tokens:,} tokens" + (f", {text.cut:,} of them cut" if text.cut else "")
    return height + sheet.write((x, y + height), width, note, LETTERS, GRAY) + GAP // 2
