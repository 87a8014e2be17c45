"""A sample of a stream of tar shards, and the count of the samples that are passed over."""

import io
from dataclasses import dataclass

from PIL import Image

from ..decode import DECODING_ERRORS, UnreadableImageError, decode_image, reason_of

__all__ = ["PassedOver", "StreamSample"]


@dataclass(frozen=True)
class StreamSample:
    """A sample of a shard, or a damage that takes the place of one sample.

    Attributes:
        name: key of the sample, or URL of the damaged shard.
        content: the encoded image.
        captions: distinct captions sorted by id, in a stream of pairs.
        pass_number: number of the pass over all shards within the epoch, from 0.
        damage: why the sample, or the rest of the shard, cannot be read; None if it can. It takes
            the place of one sample, so that it is reported once per epoch.
    """

    name: str
    content: bytes
    captions: tuple[str, ...] = ()
    pass_number: int = 0
    damage: str | None = None

    def image(self) -> Image.Image:
        """Decode the image to RGB.

        Raises:
            UnreadableImageError: the image, the sample or the shard is damaged.
        """
        if self.damage is not None:
            raise UnreadableImageError(self.name, self.damage)
        try:
            return decode_image(io.BytesIO(self.content))
        except DECODING_ERRORS as error:
            raise UnreadableImageError(self.name, reason_of(error)) from error


@dataclass
class PassedOver:
    """The samples of an epoch that lack a part that is needed.

    Attributes:
        count: how many there are.
        first: the key of the first one.
    """

    count: int = 0
    first: str = ""

    def add(self, key: str) -> None:
        """Add a sample."""
        self.count += 1
        self.first = self.first or key
