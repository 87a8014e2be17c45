"""Samples of a stream of tar shards: shards in a new random order each epoch, mixed in a buffer.

The random numbers depend on (seed, epoch, shard) and on (seed, epoch, position). An epoch therefore
has the same samples in the same order, whichever process decodes them. A run that resumes within an
epoch reads the epoch again up to that point, without decoding.
"""

import copy
import tarfile
from collections.abc import Iterator, Sequence
from itertools import chain, count, islice
from queue import Full, Queue
from threading import Event, Thread
from typing import TypeVar

import numpy as np

from ...common.console import say
from ...common.errors import UserError
from ...common.options import Augmentation
from ..decode import USUAL_SIZE, UnreadableImageError, reason_of, training_size
from ..randomness import stable_id, uniforms
from .headers import LARGEST_IMAGE, LARGEST_TEXT
from .index import IMAGE_PARTS, key_and_part
from .members import read_members
from .remote import Patience
from .stream_sample import PassedOver, StreamSample
from .urls import expand_urls, shard_identities, without_secrets

__all__ = ["StreamSource", "read_ahead"]

# Samples in the shuffle buffer: 400 MB of photographs of 100 KB.
BUFFER = 4_096
# Samples that the median size is computed from, and the most shards that are searched for them:
# data without any usable sample is refused before all of it is read.
MEASURED, SEARCHED = 64, 8
# Seconds of reading without any sample, after which a stream is refused: at the start, so that
# nobody waits for long, and in training, where shards without a sample may lie between others.
FIRST_SAMPLE, NEXT_SAMPLE = 60.0, 600.0
_BLOCK = 4_096  # random numbers that are drawn at once

# Purposes of random numbers: 0 and 1 are the views, 2 the buffer's slots, 3 and up the passes.
_SLOTS, _PASSES = 2, 3

T = TypeVar("T")


class StreamSource:
    """Images in tar shards at URLs, in webdataset's layout, read from start to end.

    Samples that lack a part that is needed are passed over, and counted at the end of each epoch.

    Args:
        pattern: a URL, or a pattern of URLs with braces.
        epoch_samples: samples in an epoch. If the shards hold more, an epoch has the first ones in
            its random order; if they hold fewer, it reads the shards again in another order.
        buffer: size of the shuffle buffer, in samples.

    Attributes:
        ids: `(shards,)` uint64, hashes of the URLs' paths, see `shard_identities`.
        image_size, size_reason, augmentation, local: see `ImageSource`.
        damaged: always empty; training reports damage when it reads a damaged shard.

    Raises:
        UserError: a URL is invalid, the first shards cannot be read, or no image is found in them
            or within `FIRST_SAMPLE` seconds.
    """

    augmentation = Augmentation()
    size_reason = USUAL_SIZE
    local = False
    damaged: Sequence[str] = ()

    # Parts of a sample that are read, and words for messages.
    _parts: tuple[str, ...] = IMAGE_PARTS
    _needed = f"a part {', '.join(IMAGE_PARTS)} that can be read"
    _what = "samples"

    def __init__(self, pattern: str, epoch_samples: int, buffer: int = BUFFER) -> None:
        self._name, self.urls = without_secrets(pattern), expand_urls(pattern)
        self._epoch_samples, self._buffer = epoch_samples, buffer
        names = shard_identities(self.urls)
        self.ids = np.array([stable_id(name) for name in names], dtype=np.uint64)
        patience = self._limit(FIRST_SAMPLE)
        samples = (self._samples(url, patience, PassedOver()) for url in self.urls[:SEARCHED])
        self._measure(list(islice(chain.from_iterable(samples), MEASURED)))

    def __len__(self) -> int:
        """Return the number of samples in an epoch."""
        return self._epoch_samples

    def describe(self) -> str:
        """Say in one line what the data is and how many samples an epoch has."""
        shards = len(self.urls)
        return (
            f"{self._name}: {shards:,} shard{'s' * (shards > 1)}, a stream; "
            f"an epoch is {len(self):,} of its {self._what}"
        )

    def shorten(self, samples: int) -> "StreamSource":
        """Return this stream with epochs of `samples` samples: the first ones of each epoch."""
        other = copy.copy(self)
        other._epoch_samples = samples
        return other

    def epoch(self, seed: int, epoch: int) -> Iterator[StreamSample]:
        """Yield the samples of an epoch, in order; then print how many were passed over.

        Args:
            seed: the run's seed.
            epoch: the epoch, from 0.

        Raises:
            UserError: a shard cannot be read, or no image is found in all shards or within
                `NEXT_SAMPLE` seconds.
        """
        # Each new sample takes the place of a random one in the buffer.
        draws, held, passed = _draws(seed, epoch), list[StreamSample](), PassedOver()
        for sample in islice(self._read(seed, epoch, passed), len(self)):
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
        if passed.count:
            say(
                f"epoch {epoch + 1}: passed over {passed.count:,} samples without {self._needed} "
                f"(the first: {passed.first})"
            )

    def _read(self, seed: int, epoch: int, passed: PassedOver) -> Iterator[StreamSample]:
        """Yield samples without end, pass after pass over all shards.

        Args:
            seed, epoch: as of `epoch`.
            passed: counts the samples of the first pass that lack a part.
        """
        patience = self._limit(NEXT_SAMPLE)
        for pass_number in count():
            draws = uniforms(seed, epoch, self.ids, _PASSES + pass_number, 1)[:, 0]
            usable = 0
            for shard in np.argsort(draws, kind="stable"):
                counts = passed if pass_number == 0 else PassedOver()
                for sample in self._samples(self.urls[shard], patience, counts, pass_number):
                    usable += sample.damage is None
                    yield sample
            if not usable:
                raise UserError(f"data: no sample of {self._name} has {self._needed}")

    def _limit(self, seconds: float) -> Patience:
        message = f"data: {seconds:.3g} s of reading found no sample of {self._name} with "
        return Patience(seconds, message + self._needed)

    def _samples(
        self, url: str, patience: Patience, passed: PassedOver, pass_number: int = 0
    ) -> Iterator[StreamSample]:
        """Yield the samples of a shard, and its damage, if any, in place of the rest."""
        for sample in self._join_members(url, patience, passed, pass_number):
            yield sample
            patience.restart()

    def _join_members(
        self, url: str, patience: Patience, passed: PassedOver, pass_number: int
    ) -> Iterator[StreamSample]:
        key, parts, problem = "", dict[str, bytes](), ""
        try:
            for member in read_members(url, self._largest, patience):
                own, part = key_and_part(member.name)
                if own and own != key:
                    yield from self._finish(key, parts, problem, passed, pass_number)
                    key, parts, problem = own, {}, ""
                if not own or part not in self._parts:
                    continue
                if member.problem is not None or part in parts:
                    problem = problem or f"its {part} is {member.problem or 'there twice'}"
                parts[part] = member.content
        except tarfile.TarError as error:
            # Drop the last sample before the damage, because parts of it may be missing.
            reason = f"damaged ({reason_of(error)}), the samples behind the damage are left out"
            yield StreamSample(without_secrets(url), b"", pass_number=pass_number, damage=reason)
            return
        yield from self._finish(key, parts, problem, passed, pass_number)

    def _largest(self, name: str) -> int:
        """Return the most bytes of a member that are read; 0 if it is no part that is needed."""
        key, part = key_and_part(name)
        if not key or part not in self._parts:
            return 0  # passed over without reading it into memory
        return LARGEST_IMAGE if part in IMAGE_PARTS else LARGEST_TEXT

    def _finish(
        self, key: str, parts: dict[str, bytes], problem: str, passed: PassedOver, pass_number: int
    ) -> Iterator[StreamSample]:
        """Yield one sample, or its damage, or nothing if it lacks what is needed."""
        if problem:
            yield StreamSample(key, b"", pass_number=pass_number, damage=problem)
            return
        found = list(self._sample(key, parts, pass_number))
        if key and not found:
            passed.add(key)
        yield from found

    def _sample(
        self, key: str, parts: dict[str, bytes], pass_number: int
    ) -> Iterator[StreamSample]:
        """Yield one sample if its parts include what is needed, else nothing."""
        for part in IMAGE_PARTS:
            if part in parts:
                yield StreamSample(key, parts[part], pass_number=pass_number)
                return

    def _measure(self, first: list[StreamSample]) -> None:
        """Derive `image_size` from the first samples."""
        sides, failure = [], ""
        for sample in first:
            try:
                sides.append(min(sample.image().size))
            except UnreadableImageError as error:
                failure = failure or f" (the first, {error.args[0]}: {error.args[1]})"
        if not sides:
            where = self._name
            if len(self.urls) > SEARCHED:
                where = f"the first {SEARCHED} shards of {where}"
            raise UserError(f"data: no sample of {where} has {self._needed}{failure}")
        self.image_size = training_size(float(np.median(sides)))


def read_ahead(items: Iterator[T], number: int) -> Iterator[T]:
    """Iterate over `items` while a thread fetches up to `number` of them ahead."""
    # Each entry is one item, or no item at the end, or the error that the thread met.
    ready: Queue[tuple[list[T], BaseException | None]] = Queue(number)
    stopped = Event()

    def put(item: list[T], error: BaseException | None = None) -> bool:
        while not stopped.is_set():
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
            item, error = ready.get()
            if error is not None:
                raise error
            if not item:
                return
            yield item[0]
    finally:
        stopped.set()


def _draws(seed: int, epoch: int) -> Iterator[float]:
    """Yield a uniform number for each position in the epoch."""
    for first in count(0, _BLOCK):
        positions = np.arange(first, first + _BLOCK, dtype=np.uint64)
        yield from uniforms(seed, epoch, positions, _SLOTS, 1)[:, 0].tolist()
