"""Samples of a stream: shards in an order that each epoch draws anew, mixed in a buffer.

What is drawn is a function of (seed, epoch, shard) and of (seed, epoch, position): an epoch is the
same samples in the same order whoever decodes them, and a run that goes on in the midst of one
reads it again up to there, without decoding.
"""

import copy
import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from queue import Full, Queue
from threading import Event, Thread
from typing import TypeVar
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from ...common.errors import UserError
from ...common.options import Augmentation
from ..image_source import UnreadableImageError, stable_id, to_rgb
from ..images.folder import DECODING_ERRORS, reason_of, training_size
from ..randomness import uniforms
from .http import members, shown, urls_of
from .index import IMAGE_PARTS, key_and_part

__all__ = ["StreamSample", "StreamSource", "read_ahead"]

# Samples among which they are mixed: 400 MB of photographs of 100 KB.
BUFFER = 4_096
# Samples that the usual size is found from, and shards they are looked for in: what has nothing of
# use is not read to its end to say so.
MEASURED, LOOKED_INTO = 64, 8
_BLOCK = 4_096  # draws at once

# Views have streams of random numbers of their own, 0 and 1; passes over the shards from 3 on.
_SLOTS, _PASSES = 2, 3

T = TypeVar("T")


@dataclass(frozen=True)
class StreamSample:
    """A sample as it comes.

    Attributes:
        name: its key.
        content: the encoded image.
        captions: of a stream of pairs, distinct and in the order of their ids.
        turn: how often its shard was read in this epoch before.
        damage: None; or why the shard that `name` is could not be read to its end. It stands in
            the place of the next sample, so that it is met, and told, once an epoch.
    """

    name: str
    content: bytes
    captions: tuple[str, ...] = ()
    turn: int = 0
    damage: str | None = None

    def image(self) -> Image.Image:
        """The image, RGB.

        Raises:
            UnreadableImageError: it is damaged, or the shard is.
        """
        if self.damage is not None:
            raise UnreadableImageError(self.name, self.damage)
        try:
            with Image.open(io.BytesIO(self.content)) as image:
                image.load()
                return to_rgb(image)
        except DECODING_ERRORS as error:
            raise UnreadableImageError(self.name, reason_of(error)) from error


class StreamSource:
    """Images in tar shards by URL, in webdataset's layout, read from start to end.

    Args:
        pattern: a URL, or a pattern of such with braces.
        epoch_samples: how many make an epoch, whatever the number in all shards: of more, the first
            ones in the epoch's order; of fewer, some twice, in another order.
        buffer: among how many samples they are mixed.

    Attributes:
        ids: `(shards,)` uint64, of their paths.
        image_size, views, local: as of `ImageSource`.
        damaged: nothing; what is, is met while training.

    Raises:
        UserError: the first shards cannot be read, or have no image.
    """

    views = Augmentation()
    local = False
    damaged: Sequence[str] = ()

    # Of a sample: the parts that are kept until it is whole, and what it has to have.
    _parts: tuple[str, ...] = IMAGE_PARTS
    _needed = f"a part {', '.join(IMAGE_PARTS)} that can be read"
    _what = "samples"

    def __init__(self, pattern: str, epoch_samples: int, buffer: int = BUFFER) -> None:
        self._name, self.urls = shown(pattern), urls_of(pattern)
        self._epoch_samples, self._buffer = epoch_samples, buffer
        # By their paths: another host has the same shards, another token as well.
        paths = [urlsplit(url).path for url in self.urls]
        self.ids = np.array([stable_id(path) for path in paths], dtype=np.uint64)
        look = chain.from_iterable(map(self._samples, self.urls[:LOOKED_INTO]))
        self._measure(list(islice(look, MEASURED)))

    def __len__(self) -> int:
        """Samples of an epoch."""
        return self._epoch_samples

    def describe(self) -> str:
        """One line for people: what and how many."""
        shards = len(self.urls)
        return (
            f"{self._name}: {shards:,} shard{'s' * (shards > 1)}, a stream; "
            f"an epoch is {len(self):,} of its {self._what}"
        )

    def part(self, samples: int) -> "StreamSource":
        """The same with shorter epochs, the first samples of longer ones."""
        other = copy.copy(self)
        other._epoch_samples = samples
        return other

    def epoch(self, seed: int, epoch: int) -> Iterator[StreamSample]:
        """The samples of an epoch, in order.

        Raises:
            UserError: a shard cannot be read, or there is no image in any.
        """
        draws, held = _draws(seed, epoch), list[StreamSample]()
        for sample in islice(self._read(seed, epoch), len(self)):
            if len(held) < self._buffer:
                held.append(sample)
                continue
            slot = int(next(draws) * len(held))
            yield held[slot]
            held[slot] = sample
        while held:
            slot = int(next(draws) * len(held))
            held[slot], held[-1] = held[-1], held[slot]
            yield held.pop()

    def _read(self, seed: int, epoch: int) -> Iterator[StreamSample]:
        """Without end, pass after pass over all shards."""
        for number in count():
            draws = uniforms(seed, epoch, self.ids, _PASSES + number, 1)[:, 0]
            found = 0
            for shard in np.argsort(draws, kind="stable"):
                for sample in self._samples(self.urls[shard], number):
                    found += sample.damage is None
                    yield sample
            if not found:
                raise UserError(f"data: no sample of {self._name} has {self._needed}")

    def _samples(self, url: str, turn: int = 0) -> Iterator[StreamSample]:
        """Of a shard; and in the end its damage, if it has any."""
        key, parts = "", dict[str, bytes]()
        try:
            for name, content in members(url):
                own, part = key_and_part(name)
                if own and own != key:
                    yield from self._sample(key, parts, turn)
                    key, parts = own, {}
                if own and part in self._parts:
                    parts[part] = content
        except tarfile.TarError as error:
            # Less the last sample before it, parts of which may be missing.
            reason = f"damaged ({reason_of(error)}), what lies behind is left out"
            yield StreamSample(shown(url), b"", turn=turn, damage=reason)
            return
        yield from self._sample(key, parts, turn)

    def _sample(self, key: str, parts: dict[str, bytes], turn: int) -> Iterator[StreamSample]:
        """What these parts are, if they have what is needed."""
        for part in IMAGE_PARTS:
            if part in parts:
                yield StreamSample(key, parts[part], turn=turn)
                return

    def _measure(self, first: list[StreamSample]) -> None:
        """What is to be known before the first epoch, of the first samples."""
        sides, failure = [], ""
        for sample in first:
            try:
                sides.append(min(sample.image().size))
            except UnreadableImageError as error:
                failure = failure or f" (the first, {error.args[0]}: {error.args[1]})"
        if not sides:
            where = self._name
            if len(self.urls) > LOOKED_INTO:
                where = f"the first {LOOKED_INTO} shards of {where}"
            raise UserError(f"data: no sample of {where} has {self._needed}{failure}")
        self.image_size = training_size(float(np.median(sides)))


def read_ahead(items: Iterator[T], number: int) -> Iterator[T]:
    """The same; up to so many of them are made ahead, by a thread."""
    ready: Queue[tuple[list[T], BaseException | None]] = Queue(number)
    given_up = Event()

    def put(item: list[T], error: BaseException | None = None) -> bool:
        while not given_up.is_set():
            try:
                ready.put((item, error), timeout=0.1)
                return True
            except Full:
                continue
        return False

    def work() -> None:
        try:
            if all(put([item]) for item in items):
                put([])
        except BaseException as error:
            put([], error)

    Thread(target=work, daemon=True).start()
    try:
        while True:
            found, error = ready.get()
            if error is not None:
                raise error
            if not found:
                return
            yield found[0]
    finally:
        given_up.set()


def _draws(seed: int, epoch: int) -> Iterator[float]:
    """A number for each place in the epoch."""
    for first in count(0, _BLOCK):
        places = np.arange(first, first + _BLOCK, dtype=np.uint64)
        yield from uniforms(seed, epoch, places, _SLOTS, 1)[:, 0].tolist()
