"""Pairs of images and captions in a stream of tar shards."""

from collections.abc import Iterator
from dataclasses import replace

from ..randomness import stable_id
from ..texts import captions_in
from .index import CAPTION_PARTS, IMAGE_PARTS
from .stream import StreamSource
from .stream_sample import StreamSample

__all__ = ["PairStream"]


class PairStream(StreamSource):
    """The samples of a stream that have both an image and a caption.

    Captions are found as in `sogclr.data.tar.pairs.shard_pairs`. An epoch uses one randomly drawn
    caption of each image.

    Args:
        pattern, epoch_samples, buffer: see `StreamSource`.

    Attributes:
        kinds: kinds of side a and side b.
        sizes: images in an epoch, and an estimate of their captions from the first samples.
        first_captions: the captions of the first samples.

    Raises:
        UserError: the first shards cannot be read, or have no sample with both.
    """

    kinds = ("image", "text")
    sizes: tuple[int, int]
    first_captions: list[str]

    _parts = (*IMAGE_PARTS, *CAPTION_PARTS)
    _needed = "both an image that can be read and a caption, a part txt or `caption` in json"
    _what = "pairs"

    def _sample(
        self, key: str, parts: dict[str, bytes], pass_number: int
    ) -> Iterator[StreamSample]:
        of_parts = (captions_in(part, parts[part]) for part in CAPTION_PARTS if part in parts)
        # Sorted as in `PairSource`, so that the same caption is drawn.
        captions = tuple(sorted(set(next(filter(None, of_parts), [])), key=stable_id))
        if captions:
            for sample in super()._sample(key, parts, pass_number):
                yield replace(sample, captions=captions)
        elif parts.get("txt", b"").strip():
            yield StreamSample(
                key, b"", pass_number=pass_number, damage="its txt is no text in UTF-8"
            )

    def _measure(self, first: list[StreamSample]) -> None:
        super()._measure(first)
        captions = [sample.captions for sample in first if sample.damage is None]
        self.first_captions = [caption for some in captions for caption in some]
        self.sizes = len(self), round(len(self) * len(self.first_captions) / len(captions))
