"""Images with captions in a stream of shards."""

from collections.abc import Iterator
from dataclasses import replace

from ..image_source import stable_id
from ..texts import captions_in
from .index import CAPTION_PARTS, IMAGE_PARTS
from .stream import StreamSample, StreamSource

__all__ = ["PairStream"]


class PairStream(StreamSource):
    """The samples of a stream that have both an image and a caption.

    Captions are those of `sogclr.data.tar.pairs.shard_pairs`; of several, an epoch has one.

    Args:
        pattern, epoch_samples, buffer: as of `StreamSource`.

    Attributes:
        kinds: as of `PairSource`.
        sizes: images of an epoch, and about how many captions they have, if no two are the same:
            so many each as the first ones.

    Raises:
        UserError: the first shards cannot be read, or have no sample with both.
    """

    kinds = ("image", "text")
    sizes: tuple[int, int]

    _parts = (*IMAGE_PARTS, *CAPTION_PARTS)
    _needed = "both an image that can be read and a caption, a part txt or `caption` in json"
    _what = "pairs"

    def _sample(self, key: str, parts: dict[str, bytes], turn: int) -> Iterator[StreamSample]:
        found = (captions_in(part, parts[part]) for part in CAPTION_PARTS if part in parts)
        # In the order of pairs on this machine, so that the same one is drawn.
        captions = tuple(sorted(set(next(filter(None, found), [])), key=stable_id))
        if captions:
            for sample in super()._sample(key, parts, turn):
                yield replace(sample, captions=captions)

    def _measure(self, first: list[StreamSample]) -> None:
        super()._measure(first)
        whole = [len(sample.captions) for sample in first if sample.damage is None]
        self.sizes = len(self), round(len(self) * sum(whole) / len(whole))
