"""A sample of a stream of tar shards, and those that are passed over."""

import io
from dataclasses import dataclass

from PIL import Image

from ..decode import DECODING_ERRORS, UnreadableImageError, decode_image, reason_of

__all__ = ["PassedOver", "StreamSample"]


@dataclass(frozen=True)
class StreamSample:
    """A sample, or the place of a damaged one, or where a damaged shard broke off.

    Attributes:
        name: key of the sample, or URL of the damaged shard.
        content: the encoded image.
        captions: distinct captions sorted by id, in a stream of pairs.
        turn: how often this epoch read the sample's shard before.
        damage: why the sample, or the shard to its end, cannot be read; else None. Damage takes
            the place of one sample, so that it is reported once per epoch.
    """

    name: str
    content: bytes
    captions: tuple[str, ...] = ()
    turn: int = 0
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
